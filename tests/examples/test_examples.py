"""Every example, run as a reader runs it: its own process, against a gateway with the embedded model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_upstream import ChatUpstream, running_chat_upstream
from rank_file import write_rank_file
from running import RunningGateway, clean_environment, gateway

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def chat_host() -> Iterator[ChatUpstream]:
    """The far side of the chat model."""
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, chat_host: ChatUpstream) -> Iterator[RunningGateway]:
    settings = f'[providers.openai]\nbase_url = "{chat_host.base_url}"\n'
    with gateway(tmp_path_factory.mktemp("examples"), settings, {"OPENAI_API_KEY": "sk-upstream"}) as found:
        yield found


def run(command: list[str], **environment: str) -> str:
    """What a command prints; it must succeed and complain of nothing."""
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=clean_environment(**environment))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_example(name: str, running: RunningGateway, **environment: str) -> list[str]:
    """The lines that a Python example prints."""
    key_file = running.data_dir / "user.key"
    script = [sys.executable, str(EXAMPLES / name)]
    return run([*script, "--base-url", f"{running.url}/v1", "--key-file", str(key_file)], **environment).splitlines()


def test_openai_sdk(running: RunningGateway) -> None:
    first, second, tokens = run_example("openai_sdk.py", running)
    assert first.startswith("0 384 [")
    assert second.startswith("1 384 [")
    assert tokens == "21 tokens"


def test_semantic_search_finds_the_sentence_on_fallback(running: RunningGateway) -> None:
    question, best, *others = run_example("semantic_search.py", running)
    assert question == "What happens when a model goes down?"
    assert best.endswith("If a provider stops responding, traffic is switched to a backup automatically.")
    assert len(others) == 5


def test_rag_lets_the_chat_model_read_the_two_nearest_texts(running: RunningGateway, chat_host: ChatUpstream) -> None:
    chat_host.reply_to = lambda messages: f"I have read: {messages[-1]['content']}"
    question, *answer = run_example("rag.py", running)
    read = chat_host.requests[-1].json["messages"][-1]["content"]
    assert "\n".join(answer) == f"I have read: {read}"
    assert question in read
    context = read.partition("Context:\n")[2].partition("\n\n")[0].splitlines()
    assert len(context) == 2
    assert context[0] == "If a provider stops responding, traffic is switched to a backup automatically."


def test_classification_needs_described_labels(running: RunningGateway) -> None:
    lines = run_example("classification.py", running)
    bare, described = lines.index("Bare labels:"), lines.index("Described labels:")
    labels = [line.split(maxsplit=1)[1] for line in lines[bare + 1 : described]]
    assert sorted(labels) == ["Billing Issue", "Feature Request", "Technical Issue"]
    assert lines[described + 1].endswith("Technical Issue")


def test_clustering_finds_the_three_topics(running: RunningGateway) -> None:
    printed = "\n".join(run_example("clustering.py", running))
    clusters = [block.splitlines()[1:] for block in printed.split("Cluster ")[1:]]
    words = ({"bread", "sauce", "soup", "dough"}, {"goalkeeper", "striker", "coach", "Fans"}, {"planet", "Mars."})
    assert sorted(len(cluster) for cluster in clusters) == [4, 4, 4]
    for topic in words:
        holding = [cluster for cluster in clusters if topic & set(" ".join(cluster).split())]
        assert len(holding) == 1, topic


def test_anomaly_detection_finds_the_one_text_that_does_not_belong(running: RunningGateway) -> None:
    marked = [line for line in run_example("anomaly_detection.py", running) if "anomaly" in line]
    assert len(marked) == 1
    assert marked[0].endswith("Photosynthesis turns sunlight into chemical energy.")


def test_langchain_search(running: RunningGateway, tmp_path: Path) -> None:
    best, second = run_example("langchain_search.py", running, **write_rank_file(tmp_path))
    assert best.endswith("The library lends books for four weeks.")
    assert float(second.split()[0]) < float(best.split()[0])


def test_curl_gets_the_same_vector_from_both_dialects(running: RunningGateway) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    printed = run([str(EXAMPLES / "curl.sh"), running.url, str(running.data_dir / "user.key")])
    _, first, _, second = printed.splitlines()
    openai, ziri = json.loads(first), json.loads(second)
    assert openai["data"] == ziri["data"]
    assert (openai["model"], ziri["model"]) == ("local/all-minilm-l6-v2", "all-minilm-l6-v2")
    assert ziri["_meta"]["cost"]["totalCost"] == 0


def test_an_example_without_a_key_says_where_one_is(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "openai_sdk.py"), "--key-file", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "--key-file" in done.stderr


def test_every_example_is_tested() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"connection.py"}
    assert {name for name in names if f'"{name}"' not in tests} == set()
