"""`embedgate ask`: a question answered from the texts of a collection, with numbered citations."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import collection, embedder, options, results, texts

if TYPE_CHECKING:
    from embedgate.toolkit.collections.answers import Answer


def ask(
    context: typer.Context,
    name: collection.Name,
    question: collection.Question,
    k: collection.K = 5,
    where: collection.Where = None,
    is_hybrid: collection.Hybrid = False,
    chat_model: Annotated[
        str | None,
        typer.Option("--chat-model", metavar="ID", help="Chat model of the gateway at --url that answers."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Similarity that the best text must reach; if absent, what its own texts tell."
        ),
    ] = None,
    model: collection.OwnModel = None,
    dim: embedder.Dim = None,
    truncate: embedder.Truncate = "none",
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Answer a question from the texts of a collection, with citations. Without a chat model, print the passages."""
    if chat_model is not None and url is None:
        raise typer.BadParameter("answering takes a gateway; name it with --url", param_hint="--chat-model")
    wish = embedder.Wish(model, dim, truncate, url, api_key, api_key_file)
    from embedgate.toolkit.collections.answers import NOT_FOUND, retrieve

    with (
        texts.named_by_line([texts.THE_QUESTION]),
        collection.opened(context, config_file, store, name, wish) as found_in,
    ):
        answer = retrieve(found_in, question, k, where=where, hybrid=is_hybrid, min_score=min_score)
        nothing = "" if answer.best is not None else collection.why_nothing(found_in, where)
    if not answer.passages:
        typer.echo(NOT_FOUND)
        if answer.best is not None:
            nothing = f"the best text has a score of {answer.best:.3f}; {answer.threshold:.3f} is needed (--min-score)"
        results.say(nothing)
        return
    if chat_model is None:
        results.say("no chat model was named with --chat-model, so these are the passages, not an answer:")
    else:
        with embedder.gateway(wish) as client:
            for piece in answer.stream(question, lambda messages: client.stream_chat(messages, model=chat_model)):
                sys.stdout.write(piece)
                sys.stdout.flush()
        typer.echo("\n")
    _print_passages(answer)


def _print_passages(answer: "Answer") -> None:
    for number, each in enumerate(answer.passages, start=1):
        results.say_result(f"[{number}] {each.id} ({each.score:.3f}): {collection.snippet(each)}")
