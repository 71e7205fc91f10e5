"""`embedgate search --rerank`: a gateway's rerank model judges what a collection has found, over sockets."""

import json
from pathlib import Path

from program import FAKE_ONLY, Program
from running import gateway
from upstream import Answer, Seen, error, running_upstream

TEXTS = "Cats sit on mats.\nDogs bark.\nBirds sing in the morning.\n"
MODEL = "jina/jina-reranker-v3"


def judge(seen: Seen) -> Answer:
    """Jina's answer: the shorter a document, the better it is."""
    documents = seen.json["documents"]
    scores = [{"index": place, "relevance_score": 1 / len(text)} for place, text in enumerate(documents)]
    return Answer(200, json.dumps({"results": scores, "usage": {"total_tokens": 30}}).encode())


def test_a_rerank_model_of_the_gateway_orders_what_was_found(program: Program, folder: Path) -> None:
    (folder / "texts.txt").write_text(TEXTS)
    with running_upstream() as host:
        host.usually(judge)
        config = f'{FAKE_ONLY}\n[providers.jina]\nbase_url = "{host.base_url}"\n'
        with gateway(folder / "gateway", config, {"JINA_API_KEY": "jina-key-1"}) as running:
            there = ("--url", running.url, "--api-key", running.key)
            assert program("index", "create", "notes", "--model", "fake/deterministic", *there).code == 0
            assert program("index", "add", "notes", "texts.txt", *there).code == 0
            ended = program("search", "notes", "Who sings?", "--rerank", MODEL, "-k", "2", "--json", *there)
            assert ended.code == 0, ended.errors
            found = json.loads(ended.output)
            assert [row["text"] for row in found] == ["Dogs bark.", "Cats sit on mats."]
            assert [round(row["score"], 4) for row in found] == [0.1, round(1 / 17, 4)]
            (asked,) = [seen.json for seen in host.requests]
            assert (asked["query"], sorted(asked["documents"])) == ("Who sings?", sorted(TEXTS.splitlines()))
            host.usually(error(400, "the model is not known"))
            failed = program("search", "notes", "Who sings?", "--rerank", MODEL, *there)
            assert failed.code != 0
            assert "Traceback" not in failed.errors
            assert failed.output == b""
