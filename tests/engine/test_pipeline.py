"""What the stages promise together: right vectors in order or an error, and one ledger entry for what was spent."""

import asyncio
import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from doubles import DIM, SECRET, Bench, ScriptedProvider, Step, model, vector_of, weight
from embedgate.core.errors import (
    GatewayError,
    InputTooLong,
    InvalidDimension,
    InvalidInput,
    MalformedKey,
    MissingKey,
    ModelNotAtProvider,
    NotAnEmbeddingModel,
    Overloaded,
    ProviderKeyMissing,
    RevokedKey,
    TooManyTokens,
    UnknownKey,
    UnknownModel,
    UnknownProvider,
    UnsupportedOption,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamRejected,
)
from embedgate.core.models import Model
from embedgate.core.types import Batch, EmbedRequest, Input, ProviderReply, Routing
from embedgate.settings import LimitSettings


def request(*inputs: Input, **changes: object) -> EmbedRequest:
    base = EmbedRequest(model="acme/m", inputs=inputs or ("hello world",))
    return structs.replace(base, **changes)


def fail(error: GatewayError) -> Step:
    def step(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
        raise error

    return step


def spoil(**changes: object) -> Step:
    return lambda _batch, reply: structs.replace(reply, **changes)


def one(**provider: object) -> Bench:
    return Bench([model("a")], {"a": ScriptedProvider(**provider)})  # type: ignore[arg-type]  # any field


texts = st.text(alphabet="abc ", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.lists(texts, min_size=1, max_size=40),
    max_inputs=st.integers(1, 7) | st.none(),
    max_tokens=st.integers(4, 30) | st.none(),
    dim=st.integers(1, DIM) | st.none(),
)
def test_every_input_gets_its_own_vector_however_the_request_is_cut(
    inputs: list[str], max_inputs: int | None, max_tokens: int | None, dim: int | None
) -> None:
    provider = ScriptedProvider()
    bench = Bench([model("a", max_inputs=max_inputs, max_tokens=max_tokens)], {"a": provider})
    result = asyncio.run(bench.embed(request(*inputs, dim=dim)))
    expected = np.stack([vector_of(text) for text in inputs])[:, : dim or DIM]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(result.vectors, expected, atol=1e-6)
    assert all(len(batch.inputs) <= (max_inputs or 99) for batch in provider.batches)
    for batch in provider.batches:
        assert len(batch.inputs) == 1 or sum(map(weight, batch.inputs)) <= (max_tokens or 9999)
    (entry,) = bench.memory.entries
    assert result.usage.tokens == sum(map(weight, inputs))
    assert entry.tokens == provider.charged == sum(map(weight, set(inputs)))  # a repeated text is sent once
    assert entry.reused_tokens == result.usage.tokens - entry.tokens
    assert entry.cost_picodollars == 7 * provider.charged


def test_no_more_calls_than_the_limits_need() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("a", max_inputs=10)], {"a": provider})
    asyncio.run(bench.embed(request(*(f"t{i}" for i in range(25)))))
    assert [len(batch.inputs) for batch in provider.batches] == [10, 10, 5]


async def test_the_next_route_is_asked_only_for_what_is_missing() -> None:
    bad = ScriptedProvider(steps=[lambda _, reply: reply, fail(UpstreamRejected("no"))])
    good = ScriptedProvider()
    bench = Bench([model("a", "b", max_inputs=2)], {"a": bad, "b": good})
    result = await bench.embed(request("a", "b", "c", "d"))
    np.testing.assert_allclose(result.vectors, [vector_of(text) for text in "abcd"], atol=1e-6)
    assert [batch.inputs for batch in good.batches] == [("c", "d")]
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.provider, entry.outcome) == (4, "b", "ok")


async def test_a_passing_fault_is_tried_again_and_a_final_one_is_not() -> None:
    bench = one(steps=[fail(UpstreamBusy("later", retry_after_s=0.001))])
    await bench.embed(request())
    assert len(bench.providers["a"].batches) == 2

    bench = one(steps=[fail(UpstreamRejected("never"))])
    with pytest.raises(UpstreamRejected):
        await bench.embed(request())
    assert len(bench.providers["a"].batches) == 1


async def test_what_was_spent_before_a_failure_is_in_the_ledger() -> None:
    bench = Bench([model("a", max_inputs=1)], {"a": ScriptedProvider(steps=[spoil(), fail(UpstreamRejected("no"))])})
    with pytest.raises(UpstreamRejected):
        await bench.embed(request("one two", "three"))
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.outcome) == (2, "upstream_rejected")


async def test_nothing_is_in_the_ledger_when_nothing_was_spent() -> None:
    bench = one(steps=[fail(UpstreamRejected("no"))])
    with pytest.raises(UpstreamRejected):
        await bench.embed(request())
    assert bench.memory.entries == []


RIGHT = np.stack([vector_of("x y")])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, DIM), np.float32),
        np.concatenate([RIGHT, RIGHT]),
        RIGHT[:, :4],
        np.zeros((1, DIM), np.float32),
        RIGHT * np.float32("nan"),
        RIGHT * np.float32("inf"),
        RIGHT * 3,
        RIGHT[0],
    ],
    ids=["too few", "too many", "short", "zeros", "nan", "infinite", "not unit length", "one level missing"],
)
async def test_a_wrong_answer_is_a_failure_of_the_route_and_never_returned(wrong: np.ndarray) -> None:
    bad = ScriptedProvider(steps=[spoil(vectors=wrong), spoil(vectors=wrong)])
    bench = Bench([model("a", "b")], {"a": bad, "b": ScriptedProvider()})
    result = await bench.embed(request("x y"))
    assert result.provider == "b"
    np.testing.assert_allclose(result.vectors, RIGHT, atol=1e-6)
    (entry,) = bench.memory.entries
    assert entry.tokens == 4  # the wrong answer was charged too: one attempt at each route

    alone = one(steps=[spoil(vectors=wrong), spoil(vectors=wrong)])
    with pytest.raises(UpstreamGarbled):
        await alone.embed(request("x y"))


async def test_the_log_tells_a_wrong_answer_from_a_failed_call(caplog: pytest.LogCaptureFixture) -> None:
    # A provider of its own: lines of one provider and code are throttled.
    steps = [spoil(vectors=RIGHT * 0), fail(UpstreamFailed("broken"))]
    bench = Bench([model("logged")], {"logged": ScriptedProvider(steps=steps)})
    with caplog.at_level(logging.WARNING, "embedgate"), pytest.raises(UpstreamFailed):
        await bench.embed(request("x y"))
    told = {record.getMessage(): record.__dict__["fields"] for record in caplog.records}
    assert told["bad_answer"]["detail"] == "logged for acme/m: a vector of zeros came back"
    assert (told["bad_answer"]["provider"], told["bad_answer"]["request_id"]) == ("logged", "req_1")
    assert told["upstream_fault"]["detail"] == "broken"


async def test_an_answer_of_another_model_is_a_wrong_answer() -> None:
    other = dataclasses.replace(
        model("a", name="acme/other", space="elsewhere"),
        routes=tuple(dataclasses.replace(route, upstream_model="n") for route in model("a").routes),
    )
    steps = [spoil(model="n"), spoil(model="n")]
    bench = Bench([model("a"), other], {"a": ScriptedProvider(steps=steps)})
    with pytest.raises(UpstreamGarbled, match="another model"):
        await bench.embed(request())
    for name in ("m", "acme/m", "m-2026-01-01", "something unheard of"):
        bench.providers["a"].steps = [spoil(model=name)]
        await bench.embed(request(f"text for {name}"))


async def test_a_caller_who_leaves_does_not_stop_what_has_begun() -> None:
    gate = asyncio.Event()
    bench = one(gate=gate)
    task = asyncio.create_task(bench.embed(request()))
    while not bench.providers["a"].batches:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.memory.entries == []
    gate.set()
    assert await bench.pipeline.running.drain(5) == 0
    assert len(bench.memory.entries) == 1


async def test_a_task_that_outlives_its_caller_has_no_task_beside_it_and_is_cut_by_the_drain_with_an_error() -> None:
    bench = one(gate=asyncio.Event())
    before = len(asyncio.all_tasks())
    task = asyncio.create_task(bench.embed(request(), outlives_caller=True))
    while not bench.providers["a"].batches:
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before + 1
    assert len(bench.pipeline.running) == 1
    assert await bench.pipeline.running.drain(1) == 1
    with pytest.raises(Overloaded, match="shutting down"):
        await task
    assert task.cancelling() == 0  # what sends the error is not cancelled
    (entry,) = bench.memory.entries
    assert (entry.outcome, entry.tokens_estimated) == ("overloaded", True)
    assert len(bench.pipeline.running) == 0


async def test_a_fallback_of_another_space_is_refused_by_name_and_served_when_allowed() -> None:
    other = model("b", name="acme/other", space="elsewhere", dim=4)
    down = [fail(UpstreamRejected("down"))]
    bench = Bench(
        [model("a", max_inputs=1), other],
        {"a": ScriptedProvider(steps=[spoil(), *down]), "b": ScriptedProvider(space="elsewhere", dim=4)},
    )
    with pytest.raises(UnsupportedOption, match=r"acme/other.*elsewhere.*acme/m.*\(s\)"):
        await bench.embed(request("p", "q", fallback_model="acme/other"))
    result = await bench.embed(request("p", "q", fallback_model="acme/other", allow_space_change=True))
    assert result.model == "acme/other"
    np.testing.assert_allclose(result.vectors, [vector_of(text, "elsewhere", 4) for text in "pq"], atol=1e-6)


async def test_token_ids_go_as_they_are_where_they_are_read_and_as_text_elsewhere() -> None:
    reads, text_only = ScriptedProvider(), ScriptedProvider()
    bench = Bench([model("a", accepts_token_ids=True), model("b", name="acme/t")], {"a": reads, "b": text_only})
    await bench.embed(request((1, 2)))
    await bench.embed(request((1, 2), (3,), model="acme/t"))
    assert [batch.inputs for batch in reads.batches] == [((1, 2),)]
    assert [batch.inputs for batch in text_only.batches] == [("12", "3")]
    with pytest.raises(InvalidInput, match=r"^input\[1\] has a token id"):
        await bench.embed(request((1,), (99,), model="acme/t"))


async def test_the_position_of_a_bad_input_is_the_callers() -> None:
    bench = Bench(
        [model("a", max_inputs=2)],
        {"a": ScriptedProvider(steps=[spoil(), fail(InputTooLong.measured(1, 99, 20))])},
    )
    with pytest.raises(InputTooLong, match=r"^input\[3\] has 99 tokens"):
        await bench.embed(request("a", "b", "c", "d"))


async def test_what_is_surely_too_much_is_refused_before_any_provider_is_touched() -> None:
    bench = Bench([model("a")], {"a": ScriptedProvider()}, LimitSettings(max_inputs=3, max_tokens=30))
    long = " ".join("w" * 21)
    with pytest.raises(InputTooLong, match=r"^input\[1\] has 21 tokens.*20"):
        await bench.embed(request("a", long))
    with pytest.raises(TooManyTokens, match="36 tokens together; at most 30"):
        await bench.embed(request(*[" ".join("w" * 12)] * 3))
    with pytest.raises(InvalidInput, match="4 items; at most 3"):
        await bench.embed(request("a", "b", "c", "d"))
    assert bench.providers["a"].batches == []


async def test_sizes_are_native_shortened_or_refused() -> None:
    asks, cuts, fixed = ScriptedProvider(), ScriptedProvider(), ScriptedProvider()
    bench = Bench(
        [
            model("a", accepts_dim=True),
            model("b", name="acme/cut"),
            model("c", name="acme/fixed", matryoshka=False),
        ],
        {"a": asks, "b": cuts, "c": fixed},
    )
    assert (await bench.embed(request(dim=4))).vectors.shape == (1, 4)
    assert asks.batches[0].dim == 4
    assert (await bench.embed(request(dim=4, model="acme/cut"))).vectors.shape == (1, 4)
    assert cuts.batches[0].dim is None
    for bad in (0, -1, DIM + 1):
        with pytest.raises(InvalidDimension, match=rf"dimensions is {bad}.*1\.\.{DIM}"):
            await bench.embed(request(dim=bad))
    with pytest.raises(InvalidDimension):
        await bench.embed(request(dim=4, model="acme/fixed"))


async def test_options_nobody_takes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedOption, match="late_chunking"):
        await one().embed(request(options={"late_chunking": b"true"}))
    with pytest.raises(UnsupportedOption, match="truncate"):
        await one().embed(request(truncate="end"))


async def test_routes_are_tried_in_the_order_that_the_request_names() -> None:
    cheap, dear = model("a", price=1), model("b", price=9)
    both = dataclasses.replace(cheap, routes=dear.routes + cheap.routes)
    bench = Bench([both], {"a": ScriptedProvider(), "b": ScriptedProvider()})
    assert (await bench.embed(request())).provider == "b"
    assert (await bench.embed(request(routing=Routing(by="price")))).provider == "a"
    assert (await bench.embed(request(routing=Routing(order=("a",))))).provider == "a"
    assert (await bench.embed(request(provider="a"))).provider == "a"
    with pytest.raises(UnknownProvider):
        await bench.embed(request(routing=Routing(order=("nobody",))))


async def test_a_model_without_a_price_is_free_or_refused_as_the_settings_say() -> None:
    unpriced = model("a")
    unpriced = dataclasses.replace(unpriced, routes=tuple(dataclasses.replace(r, price=None) for r in unpriced.routes))
    assert (await Bench([unpriced], {"a": ScriptedProvider()}).embed(request())).cost_picodollars == 0
    with pytest.raises(UnsupportedOption, match="no known price"):
        await Bench([unpriced], {"a": ScriptedProvider()}, refuses_unpriced=True).embed(request())


async def test_models_and_providers_that_cannot_serve_are_told_apart() -> None:
    chat = Model(id="acme/chat", action="chat", routes=model("a").routes)
    bench = Bench([model("a"), model("off", name="acme/off", space="another"), chat], {"a": ScriptedProvider()})
    with pytest.raises(UnknownModel, match="Did you mean acme/of"):
        await bench.embed(request(model="acme/of"))
    with pytest.raises(NotAnEmbeddingModel, match="Model acme/chat does not support embedding action. Use acme/m"):
        await bench.embed(request(model="acme/chat"))
    with pytest.raises(ProviderKeyMissing, match="switch off on"):
        await bench.embed(request(model="acme/off"))
    with pytest.raises(ProviderKeyMissing, match=r"Until then, use acme/m\.$"):
        await bench.embed(request(model="acme/off"))
    with pytest.raises(UnknownProvider):
        await bench.embed(request(provider="nobody"))
    with pytest.raises(ModelNotAtProvider):
        await bench.embed(request(provider="off"))


async def test_credentials_are_told_apart_and_never_repeated() -> None:
    bench = one()
    unknown = SECRET[:-1] + "1"
    for secret, error in ((None, MissingKey), ("", MissingKey), ("nonsense", MalformedKey), (unknown, UnknownKey)):
        with pytest.raises(error) as caught:
            await bench.embed(request(), secret)
        assert not secret or secret not in caught.value.message
    bench.memory.key = dataclasses.replace(bench.memory.key, revoked_at_ms=1)
    with pytest.raises(RevokedKey):
        await bench.embed(request())


async def test_every_route_that_was_tried_is_named_when_all_fail() -> None:
    bench = Bench(
        [model("a", "b")],
        {
            "a": ScriptedProvider(steps=[fail(UpstreamRejected("first"))]),
            "b": ScriptedProvider(steps=[fail(UpstreamFailed("second")), fail(UpstreamFailed("second"))]),
        },
    )
    with pytest.raises(UpstreamFailed, match="a: first; b: second"):
        await bench.embed(request())
