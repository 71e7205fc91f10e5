"""A model that gets other weights behind its name: noticed by a text of the collection, past any cache."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from counting_embedder import Counting, records
from embedgate import Client
from embedgate.core.errors import Conflict
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors
from embedgate.providers import fake
from embedgate.toolkit import ClientEmbedder, Collections
from upstream import Answer, Upstream, error, running_upstream


class Changed(Counting):
    """The same name and space, other vectors: those of the texts backwards."""

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        return super().embed([text[::-1] for text in texts], input_type)


def test_other_vectors_behind_the_same_name_are_refused(shelf: Collections) -> None:
    with shelf.create("c", Counting(64)) as made:
        made.check_model()  # nothing to compare with
        made.add(records("a text that is long", "short", "x" * 3_000))
        made.check_model()
    embedder = Counting(64)
    with shelf.open("c", embedder) as same:
        same.check_model()
    assert embedder.asked == ["short"]
    with (
        shelf.open("c", Changed(64)) as other,
        pytest.raises(Conflict, match=r"does not give the vectors any more .* the text 'a.txt:2' has a similarity of"),
    ):
        other.check_model()


def test_texts_that_may_be_too_long_are_not_compared(tmp_path: Path) -> None:
    with Collections(tmp_path).create("c", Counting(64)) as made:
        made.add(records("x" * 3_000))
    with Collections(tmp_path).open("c", Changed(64)) as other:
        other.check_model()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_gateway_is_asked_past_its_cache_and_other_servers_as_usual(tmp_path: Path, is_ours: bool) -> None:
    facts = Answer(body=b'{"space":"s","dimensions":256}') if is_ours else error(404, "no such route")

    def usual(upstream: Upstream) -> None:
        upstream.usually(lambda seen: facts if seen.method == "GET" else Answer())

    with running_upstream() as upstream, Client(None, upstream.base_url, model="m") as client:
        usual(upstream)
        with Collections(tmp_path).create("c", ClientEmbedder(client)) as made:
            made.add(records("one", "two"))
            made.check_model()
            assert upstream.requests[-1].json.get("cache") == ("no-store" if is_ours else None)
            upstream.vector_of = lambda text, dim: fake.vector(str(text)[::-1], dim)
            with pytest.raises(Conflict, match="behind its name"):
                made.check_model()
