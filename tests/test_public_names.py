"""What `import embedgate` promises: these names and no others, each imported when it is first used."""

import subprocess
import sys

import pytest

import embedgate
from embedgate import client, user_sdk
from embedgate.core import errors, ports
from embedgate.toolkit import embedders

PUBLIC_NAMES = {
    "AsyncUserSDK",
    "CallLimits",
    "Client",
    "ClientEmbedder",
    "ConfigError",
    "Embedder",
    "FakeEmbedder",
    "GatewayError",
    "GatewayRefused",
    "InvalidInput",
    "LocalEmbedder",
    "MalformedRequest",
    "OpenAIEmbedder",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamGarbled",
    "UpstreamTimeout",
    "UserSDK",
    "__version__",
}


def test_the_public_names_are_these() -> None:
    assert set(embedgate.__all__) == PUBLIC_NAMES
    assert set(dir(embedgate)) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - {"__version__"}))
def test_each_is_the_one_that_the_package_itself_uses(name: str) -> None:
    homes = (client, ports, embedders, errors, user_sdk)
    assert getattr(embedgate, name) in [getattr(home, name, None) for home in homes]


def test_a_star_import_brings_them_all() -> None:
    names: dict[str, object] = {}
    exec("from embedgate import *", names)
    assert set(names) >= PUBLIC_NAMES


def test_a_name_that_is_not_public_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Gateway'"):
        embedgate.Gateway  # type: ignore[attr-defined]  # noqa: B018 - its lookup is what fails


def test_an_error_is_imported_without_numpy_and_http() -> None:
    code = "import sys, embedgate; embedgate.GatewayError; assert not {'numpy', 'pyreqwest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
