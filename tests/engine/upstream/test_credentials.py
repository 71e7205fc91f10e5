"""Several keys of one provider: which is asked, which is left out, what happens when none is left."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from doubles import Words
from embedgate.core.errors import (
    NOT_SENT,
    GatewayError,
    InvalidInput,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamRejected,
)
from embedgate.core.hints import Allowance, Observe, RateHints
from embedgate.core.models import DimRange, Route
from embedgate.core.ports import Reply, UnaryRequest
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.core.types import Batch, ChatRequest, ChatUsage, ProviderReply
from embedgate.engine.upstream.credentials import COOL_DOWN_S, Credential, Credentials
from embedgate.engine.upstream.limits import CredentialLimits, QueueLimits
from embedgate.observe import metrics
from virtual_time import now, virtually

FAR_S = 1e9
ROUTE = Route("acme", "m", DimRange(2, 2, 2), 100, "unknown")
OTHER_ROUTE = Route("acme", "other", DimRange(2, 2, 2), 100, "unknown")
ONE = Batch(("one two",), expected_dim=2)
TEXT_ONLY = ChatRequest("m", {}, 1, text_bytes=40, max_output_tokens=10, n_choices=2)


@dataclass
class Stream:
    """A chat answer in three pieces, that counts at its end."""

    content_type: str = "text/event-stream"
    usage: ChatUsage | None = None
    output_bytes: int = 0
    fault: UpstreamError | None = None
    is_complete: bool = True
    is_closed: bool = False

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in (b"a", b"bc", b"d"):
            self.output_bytes += len(piece)
            yield piece
        self.usage = ChatUsage(3, 4)

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class ScriptedDriver:
    """Answers well after a second, unless a fault is scripted; says what it is told to say of limits."""

    faults: list[GatewayError] = field(default_factory=list)
    hints: RateHints | None = None
    tokens: int | None = 2
    calls: int = 0
    is_closed: bool = False

    async def _call(self, observe: Observe) -> None:
        self.calls += 1
        await asyncio.sleep(1)
        if self.hints is not None:
            observe(self.hints)
        if self.faults:
            raise self.faults.pop(0)

    async def embed(self, batch: Batch, route: Route, deadline_s: float, observe: Observe) -> ProviderReply:
        await self._call(observe)
        return ProviderReply(np.ones((len(batch.inputs), 2), np.float32), self.tokens)

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float, observe: Observe) -> Stream:
        await self._call(observe)
        return Stream()

    async def call(self, request: UnaryRequest[Reply], route: Route, deadline_s: float, observe: Observe) -> Reply:
        await self._call(observe)
        reply = RerankReply(((0, 0.5),), self.tokens)
        assert isinstance(reply, request.reply_type)
        return reply

    async def aclose(self) -> None:
        self.is_closed = True


class Trial:
    """Some accounts, with the same limits each."""

    def __init__(self, *drivers: ScriptedDriver, rpm: int | None = None, tpm: int | None = None) -> None:
        line = QueueLimits(2.0, 10)
        self.drivers = drivers
        self.meters = [
            CredentialLimits(f"acme#{n}", line, requests_per_minute=rpm, tokens_per_minute=tpm, clock=now)
            for n in range(1, len(drivers) + 1)
        ]
        pairs = zip(drivers, self.meters, strict=True)
        self.accounts = Credentials([Credential(driver, meter) for driver, meter in pairs], Words(), now)

    async def embed(self, batch: Batch = ONE, route: Route = ROUTE) -> ProviderReply:
        return await self.accounts.embed(batch, route, FAR_S)

    @property
    def calls(self) -> list[int]:
        return [driver.calls for driver in self.drivers]


@virtually
async def test_calls_go_to_the_account_with_the_least_in_flight() -> None:
    trial = Trial(ScriptedDriver(), ScriptedDriver(), ScriptedDriver())
    await asyncio.gather(*(trial.embed() for _ in range(12)))
    assert trial.calls == [4, 4, 4]
    for _ in range(6):
        await trial.embed()
    assert trial.calls == [6, 6, 6]
    assert [meter.in_flight for meter in trial.meters] == [0, 0, 0]


@virtually
async def test_an_account_without_room_is_passed_over_and_only_the_last_refuses() -> None:
    trial = Trial(ScriptedDriver(), ScriptedDriver(), rpm=3)
    await asyncio.gather(*(trial.embed() for _ in range(6)))
    assert trial.calls == [3, 3]
    with pytest.raises(UpstreamLimited) as caught:
        await trial.embed()
    assert caught.value.retry_after_s == pytest.approx(60)
    await asyncio.sleep(58.5)
    await trial.embed()  # a short wait is waited
    assert now() == pytest.approx(1000 + 61 + 1)


@virtually
async def test_a_busy_account_is_followed_by_another_at_once_and_rests_as_long_as_it_asked_for() -> None:
    busy = ScriptedDriver([UpstreamBusy("slow down", retry_after_s=30)])
    trial = Trial(busy, ScriptedDriver())
    for _ in range(5):
        await trial.embed()
    assert busy.calls == 1
    assert trial.drivers[1].calls == 5
    await trial.embed(route=OTHER_ROUTE)
    await trial.embed(route=OTHER_ROUTE)
    assert busy.calls == 2  # its other models are no less well
    await asyncio.sleep(30)
    await asyncio.gather(trial.embed(), trial.embed())
    assert busy.calls == 3


@virtually
async def test_a_refused_key_is_left_out_for_that_model_until_it_has_cooled_down() -> None:
    refused = ScriptedDriver([UpstreamDenied("no"), UpstreamDenied("no")])
    trial = Trial(refused, ScriptedDriver())
    for _ in range(6):
        await trial.embed()
    assert refused.calls == 1
    await asyncio.sleep(COOL_DOWN_S)
    for _ in range(6):
        await trial.embed()
    assert refused.calls == 2
    await asyncio.sleep(COOL_DOWN_S)
    await asyncio.gather(*(trial.embed() for _ in range(6)))
    assert refused.calls == 5


@virtually
async def test_when_every_key_is_refused_all_are_still_tried() -> None:
    trial = Trial(*(ScriptedDriver([UpstreamDenied(f"no {n}") for _ in range(2)]) for n in range(2)))
    for n in (1, 2):
        with pytest.raises(UpstreamDenied):
            await trial.embed()
        assert trial.calls == [n, n]
    await trial.embed()


@virtually
async def test_what_may_pass_soonest_is_what_is_told_of_several_faults() -> None:
    faults = [UpstreamDenied("no"), UpstreamBusy("later", retry_after_s=50), UpstreamBusy("soon", retry_after_s=20)]
    trial = Trial(*(ScriptedDriver([fault]) for fault in faults))
    with pytest.raises(UpstreamBusy, match="soon"):
        await trial.embed()
    assert trial.calls == [1, 1, 1]
    with pytest.raises(UpstreamLimited) as caught:
        await trial.embed()
    assert caught.value.retry_after_s == pytest.approx(20, abs=3)
    assert trial.calls == [1, 1, 1]


@pytest.mark.parametrize(
    "fault", [UpstreamFailed("broken"), UpstreamRejected("wrong"), UpstreamGarbled("?"), InvalidInput("bad", index=0)]
)
@virtually
async def test_other_faults_are_not_of_the_account(fault: GatewayError) -> None:
    trial = Trial(ScriptedDriver([fault]), ScriptedDriver())
    with pytest.raises(type(fault)):
        await asyncio.gather(trial.embed(), trial.embed())
    await asyncio.sleep(1)
    assert trial.calls == [1, 1]
    assert [meter.in_flight for meter in trial.meters] == [0, 0]


@virtually
async def test_one_account_fails_as_its_provider_does_and_is_asked_again() -> None:
    faults: list[GatewayError] = [UpstreamDenied("no"), UpstreamBusy("busy"), UpstreamDenied("no")]
    trial = Trial(ScriptedDriver(list(faults)))
    for fault in faults:
        with pytest.raises(type(fault)) as caught:
            await trial.embed()
        assert caught.value is fault
    await trial.embed()


@virtually
async def test_a_call_that_was_turned_away_used_no_tokens_and_one_that_broke_may_have_used_all() -> None:
    for fault, room in ((UpstreamRejected("wrong"), 100), (UpstreamFailed("broken"), 100 - 11)):
        trial = Trial(ScriptedDriver([fault]), tpm=100)
        with pytest.raises(type(fault)):
            await trial.embed()
        assert trial.meters[0].wait_s("m", room) == 0
        assert trial.meters[0].wait_s("m", room + 1) > 0 or room == 100
    garbled = UpstreamGarbled("?")
    garbled.billed_tokens = 4
    trial = Trial(ScriptedDriver([garbled]), tpm=100)
    with pytest.raises(UpstreamGarbled):
        await trial.embed()
    assert trial.meters[0].wait_s("m", 96) == 0
    assert trial.meters[0].wait_s("m", 97) > 0


@virtually
async def test_tokens_are_counted_exactly_where_the_bound_does_not_fit() -> None:
    words = " ".join(["word"] * 10)  # 10 tokens, at most 53 by its bytes
    trial = Trial(ScriptedDriver(tokens=10), tpm=60)
    await asyncio.gather(*(trial.embed(Batch((words,), expected_dim=2)) for _ in range(1)))
    began_s = now()
    await trial.embed(Batch((words,), expected_dim=2))
    assert now() - began_s == 1
    calls = [asyncio.create_task(trial.embed(Batch((words,), expected_dim=2))) for _ in range(4)]
    await asyncio.gather(*calls)
    with pytest.raises(UpstreamLimited):
        await trial.embed(Batch((words,), expected_dim=2))


@virtually
async def test_what_answers_say_is_learned_good_or_bad() -> None:
    says = RateHints(Allowance(10, 0, 40))
    well, ill = Trial(ScriptedDriver(hints=says)), Trial(ScriptedDriver([UpstreamRejected("wrong")], hints=says))
    await well.embed()
    with pytest.raises(UpstreamRejected):
        await ill.embed()
    for trial in (well, ill):
        with pytest.raises(UpstreamLimited) as caught:
            await trial.embed()
        assert caught.value.retry_after_s == pytest.approx(40, abs=1)


@virtually
async def test_a_cancelled_call_leaves_its_account() -> None:
    trial = Trial(ScriptedDriver())
    task = asyncio.create_task(trial.embed())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert trial.meters[0].in_flight == 0


class Queued(ScriptedDriver):
    """Never gets a place."""

    async def _call(self, observe: Observe) -> None:
        try:
            await asyncio.sleep(FAR_S)
        except asyncio.CancelledError:
            raise asyncio.CancelledError(NOT_SENT) from None


@virtually
async def test_a_call_that_is_cancelled_before_it_was_sent_uses_nothing_of_the_limits() -> None:
    trial = Trial(Queued(), rpm=1, tpm=100)
    task = asyncio.create_task(trial.embed())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert trial.meters[0].wait_s("m", 100) == 0


@virtually
async def test_a_chat_counts_what_it_may_cost_until_it_is_closed_and_then_what_it_did() -> None:
    trial = Trial(ScriptedDriver(), tpm=100)
    reply = await trial.accounts.chat(TEXT_ONLY, ROUTE, FAR_S)
    assert trial.meters[0].wait_s("m", 40) == 0
    assert trial.meters[0].wait_s("m", 41) > 0
    assert [piece async for piece in reply.pieces()] == [b"a", b"bc", b"d"]
    assert (reply.content_type, reply.usage, reply.output_bytes) == ("text/event-stream", ChatUsage(3, 4), 4)
    assert trial.meters[0].in_flight == 1
    await reply.aclose()
    await reply.aclose()
    assert trial.meters[0].in_flight == 0
    assert trial.meters[0].wait_s("m", 93) == 0
    assert trial.meters[0].wait_s("m", 94) > 0


@virtually
async def test_documents_to_be_ordered_go_the_same_way() -> None:
    trial = Trial(ScriptedDriver([UpstreamBusy("no", retry_after_s=9)]), ScriptedDriver(), tpm=200)
    request = RerankRequest("m", "a question", ("one", "two"))
    reply = await trial.accounts.call(request, ROUTE, FAR_S, most_tokens=40)
    assert reply.scores == ((0, 0.5),)
    assert trial.calls == [1, 1]
    assert [meter.in_flight for meter in trial.meters] == [0, 0]


@virtually
async def test_closing_closes_every_account() -> None:
    trial = Trial(ScriptedDriver(), ScriptedDriver())
    await trial.accounts.aclose()
    assert [driver.is_closed for driver in trial.drivers] == [True, True]


@virtually
async def test_metrics_and_log_tell_which_account_and_never_its_key(caplog: pytest.LogCaptureFixture) -> None:
    line = QueueLimits(2.0, 10)
    meters = [CredentialLimits(f"counted#{n}", line, requests_per_minute=2, clock=now) for n in (1, 2)]
    faults: list[list[GatewayError]] = [[UpstreamBusy("later", retry_after_s=1.5)], [UpstreamDenied("no")]]
    drivers = [ScriptedDriver(fault) for fault in faults]
    pairs = zip(drivers, meters, strict=True)
    accounts = Credentials([Credential(driver, meter) for driver, meter in pairs], Words(), now)
    with pytest.raises(UpstreamBusy), caplog.at_level(logging.WARNING, "embedgate"):
        await accounts.embed(ONE, ROUTE, FAR_S)
    waiting = asyncio.create_task(accounts.embed(ONE, ROUTE, FAR_S))
    await asyncio.sleep(0)
    assert 'embedgate_account_waiting{account="counted#1"} 1.0' in metrics.text(None).decode()
    await waiting
    with pytest.raises(UpstreamLimited):
        await accounts.embed(ONE, ROUTE, FAR_S)
    told = metrics.text(None).decode()
    for account, reason in (("counted#1", "limit"), ("counted#2", "key")):
        assert f'embedgate_account_blocks_total{{account="{account}",reason="{reason}"}} 1.0' in told
    assert 'embedgate_account_waiting{account="counted#1"} 0.0' in told
    assert 'embedgate_limit_refusals_total{account="counted#1"} 1.0' in told
    assert 'embedgate_credential_refusals_total{credential="counted#1"} 1.0' in told
    assert 'embedgate_credential_waiting{credential="counted#1"} 0.0' in told
    assert 'embedgate_credential_blocks_total{credential="counted#1",reason="limit"} 1.0' in told
    events = {record.getMessage(): record.__dict__["fields"] for record in caplog.records}
    assert events == {
        "account_blocked": {"account": "counted#1", "model": "m", "wait_s": 1.5},
        "key_refused": {"account": "counted#2", "model": "m", "wait_s": COOL_DOWN_S},
    }
