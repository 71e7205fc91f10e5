"""Load shedding by latency: only after a while, with hysteresis, and never of health and metrics."""

import logging

import pytest

from admin_calls import Api
from embedgate.server.app import Application
from embedgate.server.shedding import LoadShedder
from embedgate.settings import ServerSettings
from embedgate.wiring import Gateway


class Clock:
    """Seconds that pass when they are told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def seen(shedder: LoadShedder, clock: Clock, lag_s: float, seconds: float) -> bool:
    """Whether requests are refused after that lag was measured for so long."""
    end_s = clock.now_s + seconds
    while clock.now_s < end_s:
        clock.now_s += 0.25
        shedder.saw(lag_s)
    return shedder.is_shedding


def test_a_loop_that_is_late_for_long_sheds_until_it_is_half_as_late_for_as_long() -> None:
    clock = Clock()
    shedder = LoadShedder(ServerSettings(max_lag_s=2, lag_patience_s=5), clock)
    assert not seen(shedder, clock, 3.0, 4.0)
    assert not seen(shedder, clock, 0.1, 1.0)  # once on time, and it begins anew
    assert not seen(shedder, clock, 3.0, 4.0)
    assert seen(shedder, clock, 3.0, 2.0)
    assert seen(shedder, clock, 1.5, 20.0)  # neither late nor on time
    assert seen(shedder, clock, 0.5, 4.0)
    assert not seen(shedder, clock, 0.5, 2.0)


def test_a_single_stop_of_the_process_sheds_nothing() -> None:
    clock = Clock()
    shedder = LoadShedder(ServerSettings(max_lag_s=2, lag_patience_s=5), clock)
    clock.now_s += 3_600
    shedder.saw(3_600)
    assert not shedder.is_shedding
    assert not seen(shedder, clock, 0.0, 20.0)


def test_without_a_limit_nothing_is_shed() -> None:
    clock = Clock()
    assert not seen(LoadShedder(ServerSettings(max_lag_s=0), clock), clock, 60.0, 120.0)


def test_it_is_told_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "embedgate")
    clock = Clock()
    shedder = LoadShedder(ServerSettings(max_lag_s=2, lag_patience_s=5), clock)
    seen(shedder, clock, 3.0, 10.0)
    seen(shedder, clock, 0.0, 10.0)
    assert [record.getMessage() for record in caplog.records] == ["shedding", "shedding_ended"]


async def test_new_requests_get_503_with_a_time_and_operators_see_why(served: Gateway) -> None:
    assert served.first_keys
    application = Application(served)
    api = Api(application, served.first_keys.user_key)
    clock = Clock()
    application.shedder = LoadShedder(ServerSettings(max_lag_s=2, lag_patience_s=5), clock)
    body = {"model": "fake/deterministic", "input": "a"}
    assert (await api.reply("POST", "/v1/embeddings", body)).status == 200
    seen(application.shedder, clock, 3.0, 10.0)
    for path in ("/v1/embeddings", "/api/embeddings", "/v1/chat/completions", "/v1/rerank"):
        refused = await api.reply("POST", path, body)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 5
    assert (await api.reply("GET", "/healthz")).status == 200
    assert b"embedgate_shedding 1.0" in (await api.reply("GET", "/metrics")).body
    ready = await api.reply("GET", "/readyz")
    assert (ready.status, ready.json["missing"]) == (503, ["latency"])
    seen(application.shedder, clock, 0.0, 10.0)
    assert (await api.reply("POST", "/v1/embeddings", body)).status == 200
    assert (await api.reply("GET", "/readyz")).status == 200
