"""`embedgate search`: the texts of a collection that fit a question."""

from typing import Annotated

import typer

from embedgate.cli import collection, embedder, options, results, texts


def search(
    context: typer.Context,
    name: collection.Name,
    question: collection.Question,
    k: collection.K = 5,
    where: collection.Where = None,
    is_hybrid: collection.Hybrid = False,
    rerank: Annotated[
        str | None,
        typer.Option("--rerank", metavar="MODEL", help="Let a rerank model of the gateway at --url judge the best 50."),
    ] = None,
    model: collection.OwnModel = None,
    dim: embedder.Dim = None,
    truncate: embedder.Truncate = "none",
    file_format: results.RowsFormat = None,
    output: results.Output = None,
    as_json: options.AsJson = False,
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Find the texts of a collection that fit a question best: by meaning, and by words with --hybrid."""
    wish = embedder.Wish(model, dim, truncate, url, api_key, api_key_file)
    if rerank is not None and url is None:
        raise typer.BadParameter("reranking takes a gateway; name it with --url", param_hint="--rerank")
    results.rows_format(output, file_format)
    with (
        texts.named_by_line([texts.THE_QUESTION]),
        embedder.reranker(wish, rerank) as judge,
        collection.opened(context, config_file, store, name, wish) as found_in,
    ):
        found = found_in.search(question, k, where=where, hybrid=is_hybrid, rerank=judge)
        nothing = "" if found else collection.why_nothing(found_in, where)
    collection.print_found(found, output, file_format, as_json=as_json, nothing=nothing)
