"""What a provider reports as used is believed as far as it can be true: else it would use up budgets by itself."""

import logging

import pytest

from chat_doubles import Unknown
from doubles import Bench, ScriptedProvider, model
from embedgate.core.types import Batch, Candidate, EmbedRequest, ProviderReply
from embedgate.engine.embedding.weigh import EmbeddingWeigher
from embedgate.engine.ledger.tokens import MANY_TOKENS, believed, bound


def claiming(tokens: int) -> ScriptedProvider:
    def claim(_batch: Batch, reply: ProviderReply) -> ProviderReply:
        return ProviderReply(reply.vectors, tokens=tokens)

    return ScriptedProvider(steps=[claim])


@pytest.mark.parametrize("texts", [("one two",), ("one two", "three")])
async def test_a_report_that_cannot_be_is_replaced_by_our_own_count_and_marked(
    texts: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "embedgate")
    bench = Bench([model("a")], {"a": claiming(10**9)})
    await bench.embed(EmbedRequest("acme/m", texts))
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (sum(len(text.split()) for text in texts), True)
    assert [record.getMessage() for record in caplog.records] == ["usage_doubted"]


async def test_a_report_that_may_be_true_is_booked_as_it_is() -> None:
    bench = Bench([model("a")], {"a": claiming(MANY_TOKENS)})
    await bench.embed(EmbedRequest("acme/m", ("one two",)))
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (MANY_TOKENS, False)


@pytest.mark.parametrize("texts", [("one two",), ("one two", "three")])
async def test_nothing_used_for_something_is_no_report(texts: tuple[str, ...]) -> None:
    bench = Bench([model("a")], {"a": claiming(0)})
    await bench.embed(EmbedRequest("acme/m", texts))
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (sum(len(text.split()) for text in texts), True)


def test_the_larger_a_call_the_more_is_believed() -> None:
    assert believed(None, 5, "a") is None
    assert believed(0, 5, "a") is None
    assert believed(MANY_TOKENS + 50, 5, "a") == MANY_TOKENS + 50
    assert believed(MANY_TOKENS + 51, 5, "a") is None
    assert believed(10**6, 10**6, "a") == 10**6


@pytest.mark.parametrize(("text", "tokens"), [("w" * 105, 27), ("ü" * 10, 5), ("a", 1)])
async def test_where_nobody_counts_a_token_has_four_bytes_and_more_is_held(text: str, tokens: int) -> None:
    silent = ScriptedProvider(steps=[lambda _, reply: ProviderReply(reply.vectors)])
    bench = Bench([model("a", price=3)], {"a": silent}, tokenizers=Unknown())
    await bench.embed(EmbedRequest("acme/m", (text, text + "abcd")))
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (2 * tokens + 1, True)
    assert entry.cost_picodollars == (2 * tokens + 1) * 3
    weigher = EmbeddingWeigher(Unknown())
    found = model("a", price=3)
    (weighed,) = await weigher.weigh(
        EmbedRequest("acme/m", (text,)), [Candidate(found, found.routes[0])], bound(text), matters=True
    )
    assert weighed.cost_picodollars == 3 * (len(text.encode()) + 4)
