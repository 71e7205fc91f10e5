"""One gateway for most end-to-end tests: the embedded model, and OpenAI played by a loopback server."""

from collections.abc import Iterator

import openai
import pytest

from administrator import Administrator, administrator
from billing_provider import BillingProvider, billing_provider
from crowd import weight
from embedgate.govern.keys import Key
from running import UPSTREAM_KEY, RunningGateway, gateway
from upstream import Upstream, running_upstream


@pytest.fixture(scope="session")
def openai_host() -> Iterator[Upstream]:
    """The far side of the `openai` provider."""
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, openai_host: Upstream) -> Iterator[RunningGateway]:
    """A running gateway."""
    config = f"""
        [providers.openai]
        base_url = "{openai_host.base_url}"
        [server]
        body_timeout_s = 8  # a body on a busy machine comes slowly, too
        [upstream]
        circuit_patience_s = 3600  # what one test has failed must not keep the next one from its provider
        retry_reserve = 1000
        [log]
        level = "debug"
    """
    data_dir = tmp_path_factory.mktemp("served")
    with gateway(data_dir, config, {"OPENAI_API_KEY": UPSTREAM_KEY}) as running:
        yield running


@pytest.fixture
def sdk(served: RunningGateway) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK, pointed at the gateway."""
    with openai.OpenAI(api_key=served.key, base_url=f"{served.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def far_side() -> Iterator[Upstream]:
    """A provider for the tests of one file."""
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def admin(running: RunningGateway) -> Iterator[Administrator]:
    """Who administers the gateway of a file, which the file's own `running` starts."""
    with administrator(running.data_dir) as found:
        yield found


@pytest.fixture
def account(admin: Administrator) -> tuple[Key, str]:
    """A new key and its secret."""
    return admin.new_key()


@pytest.fixture
def host() -> Iterator[BillingProvider]:
    """A provider of one test that writes a bill; calls that hang end with the test."""
    with billing_provider() as found:
        found.count_tokens = weight
        yield found
        found.let_go()
