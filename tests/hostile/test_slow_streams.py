"""Many callers ask for long streams and read next to nothing: memory has a ceiling, and no provider goes on for them.

The gateway holds a bounded part of each stream, and no more is taken from the provider until it is read. Who takes
nothing for `server.unread_timeout_s` is cut, and the provider's connection with it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from administrator import administrator
from chat_upstream import LAST_WORD, Chat, running_chat_upstream
from chatting import STREAM, UPSTREAM_KEYS, Listener, forget_peak, listening, resident_bytes
from crowd import LOCAL_OFF, metric
from forms import scaled
from running import RunningGateway, gateway
from waiting import wait_until
from wire import call

N_READERS = scaled(16, 300)
MB = 1_000_000
EVENT = b'{"choices":[{"index":0,"delta":{"content":"%s"}}]}' % (b"x" * 16_000)
EVENTS_EACH = 20 * MB // len(EVENT)
MAX_BYTES_EACH = MB
"""The gateway's own buffers of one stream, and what the client of HTTP has read ahead: the kernel's are not the
process's."""


@contextlib.contextmanager
def slow_readers(running: RunningGateway, n: int) -> Iterator[list[Listener]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(listening(running, running.key, STREAM, receive_bytes=4_096)) for _ in range(n)]


@pytest.mark.hostile
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_readers_of_streams_who_take_nothing_are_cut_and_so_are_their_providers_calls(tmp_path: Path) -> None:
    with running_chat_upstream() as host:
        settings = f"""
            {LOCAL_OFF}
            [providers.openai]
            base_url = "{host.base_url}"
            max_parallel = {2 * N_READERS}
            [server]
            unread_timeout_s = 1
        """
        with gateway(tmp_path, settings, UPSTREAM_KEYS) as running:
            with listening(running, running.key, STREAM) as listener:  # what a first call loads is not theirs
                listener.read_to_the_end()
            forget_peak(running)
            before_bytes = resident_bytes(running)
            host.script_chats(*[Chat(events=[EVENT], repeat=EVENTS_EACH)] * N_READERS)
            with slow_readers(running, N_READERS):
                assert json.loads(call(running.url, "/healthz").body) == {"status": "ok"}
                wait_until("all calls to the provider are closed", lambda: len(host.left_at_s) == N_READERS)
                wait_until("nothing runs any more", lambda: metric(running, "embedgate_requests_running") == 0)
            grown_bytes = resident_bytes(running, "VmHWM") - before_bytes
            assert grown_bytes < 25 * MB + N_READERS * MAX_BYTES_EACH, f"it grew by {grown_bytes / MB:.0f} MB"
            with administrator(running.data_dir) as admin:
                outcomes = [entry.outcome for entry in admin.every_entry()]
            assert sorted(outcomes) == sorted(["ok"] + ["cancelled"] * N_READERS)
            with listening(running, running.key, STREAM) as listener:
                assert listener.read_to_the_end().endswith(LAST_WORD)
