"""Ordering documents: every score checked, every call charged, the money that is held enough, whatever comes back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from doubles import Bench, ScriptedProvider, model
from embedgate.core.access import BudgetRule, LimitRule, Rules, Subject
from embedgate.core.errors import (
    BudgetExhausted,
    GatewayError,
    InvalidInput,
    NotPermitted,
    RateLimited,
    UpstreamBusy,
    UpstreamGarbled,
    UpstreamRejected,
    WrongAction,
)
from embedgate.core.models import BatchLimits, DimRange, Model, Price, Route
from embedgate.core.ports import Reply, UnaryRequest
from embedgate.core.rerank import RerankReply, RerankRequest, RerankResult
from embedgate.engine.rerank.weigh import PAIR_TOKENS, cut, searches_of
from embedgate.settings import LimitSettings

Step = Callable[[RerankRequest], RerankReply]
DOCUMENTS = ("a cat", "cats and more cats", "a dog", "cat")


def score(query: str, document: str) -> float:
    """The one right score: how often the query stands in the document, for its length."""
    return document.count(query) / len(document)


def right(request: RerankRequest) -> RerankReply:
    """The right answer, as hosts give it: the best first, with the tokens of the pairs."""
    scores = [(place, score(request.query, document)) for place, document in enumerate(request.documents)]
    tokens = sum(len(request.query.split()) + len(document.split()) for document in request.documents)
    return RerankReply(tuple(sorted(scores, key=lambda scored: -scored[1])), tokens=tokens)


@dataclass
class ScriptedReranker:
    """Answers rightly, unless a step is scripted for the call; remembers what it was asked."""

    steps: list[Step] = field(default_factory=list)
    usual: Step = right
    seen: list[RerankRequest] = field(default_factory=list)

    async def call(self, request: UnaryRequest[Reply], route: Route, deadline_s: float, most_tokens: int) -> Reply:
        """One call."""
        asked: object = request
        assert isinstance(asked, RerankRequest)
        self.seen.append(asked)
        reply = (self.steps.pop(0) if self.steps else self.usual)(asked)
        assert isinstance(reply, request.reply_type)
        return reply


def fail(error: GatewayError) -> Step:
    def step(_request: RerankRequest) -> RerankReply:
        raise error

    return step


def say(*scores: tuple[int, float], tokens: int | None = 9, searches: int | None = None) -> Step:
    return lambda _request: RerankReply(scores, tokens, searches)


def ranking_model(
    *providers: str,
    name: str = "acme/r",
    price: Price | None = Price(7),  # noqa: B008 - frozen
    limits: BatchLimits = BatchLimits(),  # noqa: B008 - frozen
) -> Model:
    no_dims = DimRange(0, 0, 0)
    routes = tuple(Route(each, "r", no_dims, 500, "unknown", limits=limits, price=price) for each in providers)
    return Model(id=name, action="rerank", routes=routes, max_input_tokens=500)


def bench(ranking: Model, *rerankers: ScriptedReranker, **more: object) -> Bench:
    named = {route.provider: reranker for route, reranker in zip(ranking.routes, rerankers, strict=True)}
    return Bench([ranking], {}, rerankers=named, **more)  # type: ignore[arg-type]  # any argument of it


def request(**changes: object) -> RerankRequest:
    return structs.replace(RerankRequest(model="acme/r", query="cat", documents=DOCUMENTS), **changes)


def reference(wanted: RerankRequest) -> list[tuple[int, float]]:
    scores = [(place, score(wanted.query, document)) for place, document in enumerate(wanted.documents)]
    return sorted(scores, key=lambda scored: (-scored[1], scored[0]))[: wanted.top_n]


words = st.text(alphabet="cat ", min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(
    documents=st.lists(words, min_size=1, max_size=12),
    top_n=st.integers(1, 14) | st.none(),
    max_documents=st.integers(1, 5) | st.none(),
    max_bytes=st.integers(1, 80) | st.none(),
)
async def test_the_order_is_right_however_the_request_is_cut(
    documents: list[str], top_n: int | None, max_documents: int | None, max_bytes: int | None
) -> None:
    host = ScriptedReranker()
    limits = BatchLimits(max_inputs=max_documents, max_bytes=max_bytes)
    desk = bench(ranking_model("a", limits=limits), host)
    wanted = request(documents=tuple(documents), top_n=top_n)
    result = await desk.rerank(wanted)
    assert list(result.scores) == reference(wanted)
    assert [document for seen in host.seen for document in seen.documents] == documents
    for seen in host.seen:
        assert len(seen.documents) <= (max_documents or 99)
        assert len(seen.documents) == 1 or sum(map(len, (seen.query, *seen.documents))) <= (max_bytes or 9999)
    (entry,) = desk.memory.entries
    assert (entry.action, entry.items, entry.outcome) == ("rerank", len(documents), "ok")
    assert entry.tokens == result.usage.tokens == right(wanted).tokens
    assert entry.cost_picodollars == result.cost_picodollars == 7 * entry.tokens
    assert (entry.price_picodollars, entry.tokens_estimated) == (7, False)


@pytest.mark.parametrize(
    "wrong",
    [
        say((0, 0.5), (1, 0.5), (2, 0.5)),
        say((0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5)),
        say((0, 0.5), (1, 0.5), (2, 0.5), (2, 0.5)),
        say((1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5)),
        say((-1, 0.5), (0, 0.5), (1, 0.5), (2, 0.5)),
        say((0, 0.5), (1, float("nan")), (2, 0.5), (3, 0.5)),
        say((0, 0.5), (1, float("inf")), (2, 0.5), (3, 0.5)),
        say(),
    ],
    ids=["missing", "one more", "twice", "out of range", "negative", "nan", "infinite", "none"],
)
async def test_a_wrong_answer_is_a_failure_of_the_route_is_paid_for_and_never_returned(wrong: Step) -> None:
    desk = bench(ranking_model("a", "b"), ScriptedReranker(usual=wrong), ScriptedReranker())
    result = await desk.rerank(request())
    assert (result.provider, list(result.scores)) == ("b", reference(request()))
    (entry,) = desk.memory.entries
    assert entry.tokens == 9 + result.usage.tokens

    alone = bench(ranking_model("a"), ScriptedReranker(usual=wrong))
    with pytest.raises(UpstreamGarbled) as caught:
        await alone.rerank(request())
    assert not any(text in caught.value.message for text in ("cat", "dog", "0.5"))
    (entry,) = alone.memory.entries
    assert (entry.tokens, entry.outcome) == (9, "upstream_error")  # once: it would be answered so again


async def test_a_passing_fault_is_tried_again_and_a_final_one_goes_to_the_next_route_or_model() -> None:
    busy = ScriptedReranker([fail(UpstreamBusy("later", retry_after_s=0.001))])
    await bench(ranking_model("a"), busy).rerank(request())
    assert len(busy.seen) == 2

    other = ranking_model("b", name="acme/other", price=Price(3))
    broken, spare = ScriptedReranker(usual=fail(UpstreamRejected("no"))), ScriptedReranker()
    desk = Bench([ranking_model("a"), other], {}, rerankers={"a": broken, "b": spare})
    with pytest.raises(UpstreamRejected):
        await desk.rerank(request())
    assert desk.memory.entries == []
    result = await desk.rerank(request(fallback_model="acme/other"))
    assert (result.model, result.provider) == ("acme/other", "b")
    (entry,) = desk.memory.entries
    assert (entry.model, entry.cost_picodollars) == ("acme/other", 3 * result.usage.tokens)


async def test_a_model_that_orders_no_documents_is_refused() -> None:
    desk = Bench([ranking_model("a"), model("e")], {"e": ScriptedProvider()}, rerankers={"a": ScriptedReranker()})
    with pytest.raises(GatewayError, match="fallback"):
        await desk.rerank(request(fallback_model="acme/m"))
    with pytest.raises(WrongAction, match="does not support rerank action"):
        await desk.rerank(request(model="acme/m"))
    with pytest.raises(UpstreamRejected, match="not known to order"):
        await Bench([ranking_model("e")], {"e": ScriptedProvider()}).rerank(request())


BY_SEARCH = Price(0, picodollars_per_search=2_000)


@pytest.mark.parametrize(("said", "cost", "searches"), [(3, 6_000, 3), (None, 2_000, 1)])
async def test_searches_are_billed_as_the_host_counts_them_or_by_its_own_rule(
    said: int | None, cost: int, searches: int
) -> None:
    host = ScriptedReranker(usual=lambda asked: structs.replace(right(asked), tokens=None, searches=said))
    desk = bench(ranking_model("a", price=BY_SEARCH), host)
    result = await desk.rerank(request())
    assert (result.cost_picodollars, result.searches) == (cost, searches)
    (entry,) = desk.memory.entries
    assert (entry.cost_picodollars, entry.price_picodollars, entry.tokens_estimated) == (cost, 0, True)


async def test_tokens_that_nobody_counts_are_estimated_with_the_query_once_per_document() -> None:
    host = ScriptedReranker(usual=lambda asked: structs.replace(right(asked), tokens=None))
    result = await bench(ranking_model("a"), host).rerank(request(query="two words"))
    assert (result.usage.tokens, result.usage.is_estimated) == (2 * 4 + 9, True)
    assert (result.searches, result.cost_picodollars) == (None, 7 * 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": ""}, "query is empty"),
        ({"documents": ()}, "documents has 0 items; 1 to 4"),
        ({"documents": ("x",) * 5}, "documents has 5 items; 1 to 4"),
        ({"documents": ("x", "")}, r"documents\[1\] is empty"),
        ({"top_n": 0}, "top_n is 0"),
    ],
)
async def test_a_request_without_sense_is_refused_before_anyone_is_asked(
    changes: dict[str, object], message: str
) -> None:
    host = ScriptedReranker()
    desk = bench(ranking_model("a"), host, limits=LimitSettings(max_documents=4))
    with pytest.raises(InvalidInput, match=message):
        await desk.rerank(request(**changes))
    assert host.seen == []


async def test_policies_are_asked_of_ranking_and_forbid_it() -> None:
    desk = bench(ranking_model("a", "b"), ScriptedReranker(), ScriptedReranker())
    desk.policies.forbidden = {"a"}
    assert (await desk.rerank(request())).provider == "b"
    asked = desk.policies.questions[0]
    assert (asked.action, asked.n_inputs, asked.dim, asked.input_type) == ("rerank", 4, 0, "none")
    desk.policies.forbidden = {"a", "b"}
    with pytest.raises(NotPermitted, match="ranking with acme/r is forbidden"):
        await desk.rerank(request())
    assert [(event.action, event.outcome) for event in desk.memory.events] == [
        ("rerank", "permit"),
        ("rerank", "forbid"),
    ]


def held_for(tokens: int) -> int:
    """What is held for the documents of these tests at 7 picodollars a token."""
    return 7 * (tokens + len(DOCUMENTS) * PAIR_TOKENS)


async def test_a_budget_holds_the_most_and_pays_the_true_cost() -> None:
    tokens = right(request()).tokens or 0
    rules = Rules(budgets=(BudgetRule(Subject("user", "user_1"), "total", held_for(tokens)),))
    desk = bench(ranking_model("a"), ScriptedReranker(), rules=rules)
    await desk.rerank(request())
    (state,) = await desk.budgets.state()
    assert (state.spent_picodollars, state.held_picodollars) == (7 * tokens, 0)
    with pytest.raises(BudgetExhausted):
        await desk.rerank(request())


async def test_what_was_billed_in_vain_is_covered_before_the_next_attempt() -> None:
    tokens = right(request()).tokens or 0
    rules = Rules(budgets=(BudgetRule(Subject("user", "user_1"), "total", held_for(tokens) + 10),))
    desk = bench(ranking_model("a", "b"), ScriptedReranker(usual=say()), ScriptedReranker(), rules=rules)
    with pytest.raises(BudgetExhausted):
        await desk.rerank(request())
    (entry,) = desk.memory.entries
    assert (entry.cost_picodollars, entry.outcome) == (7 * 9, "insufficient_quota")


async def test_limits_count_the_tokens_of_all_pairs() -> None:
    tokens = right(request()).tokens or 0
    rules = Rules(limits=(LimitRule(Subject("user", "user_1"), tokens_per_minute=2 * tokens - 1),))
    desk = bench(ranking_model("a"), ScriptedReranker(), rules=rules)
    result: RerankResult = await desk.rerank(request())
    assert result.rate is not None
    assert result.rate.remaining_tokens == tokens - 1
    with pytest.raises(RateLimited):
        await desk.rerank(request())


async def test_a_part_that_fails_leaves_the_others_on_the_bill() -> None:
    host = ScriptedReranker([right, fail(UpstreamRejected("no"))])
    desk = bench(ranking_model("a", limits=BatchLimits(max_inputs=2)), host)
    with pytest.raises(UpstreamRejected):
        await desk.rerank(request())
    (entry,) = desk.memory.entries
    assert entry.tokens == right(request(documents=DOCUMENTS[:2])).tokens


def slow_searches(query: str, documents: Sequence[str]) -> int:
    """Cohere's rule, a byte for a token: pieces of at most 500 tokens, the query in each; a hundred to a search."""
    pieces = 0
    for document in documents:
        is_whole = len(query) + len(document) <= 500
        pieces += 1 if is_whole else -(-len(document) // (500 - len(query)))
    return -(-pieces // 100)


@given(
    query_bytes=st.integers(1, 256),
    sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=250),
)
def test_searches_are_never_more_than_held_for(query_bytes: int, sizes: list[int]) -> None:
    wanted = request(query="q" * query_bytes, documents=tuple("d" * size for size in sizes))
    assert searches_of(wanted) >= slow_searches(wanted.query, wanted.documents)


def test_a_search_has_a_hundred_short_documents() -> None:
    assert searches_of(request(documents=("x",) * 100)) == 1
    assert searches_of(request(documents=("x",) * 101)) == 2


def test_a_request_within_the_limits_is_not_cut() -> None:
    wanted = request()
    assert cut(wanted, BatchLimits()) == [wanted]
    assert cut(wanted, BatchLimits(max_inputs=4, max_bytes=1_000)) == [wanted]
