"""Calls to Amazon that are signed: with a key of two parts, and then the key is in no header."""

import hashlib
import hmac
import re
import sys
import time
import urllib.parse

import pytest

from embedgate.core.errors import DependencyMissing
from embedgate.providers import bedrock
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpCall, HttpDriver, HttpProvider, Signer, classify
from recorded_replies import KEY, Recorded, filled, load
from upstream import Answer, running_upstream
from waiting import PATIENCE_S

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
URL = "https://bedrock-runtime.eu-west-1.amazonaws.com"


def signature(call: HttpCall, headers: dict[str, str], region: str) -> str:
    """The signature as Amazon's documentation puts it together, step by step."""
    date = headers["X-Amz-Date"]
    assert re.fullmatch(r"\d{8}T\d{6}Z", date)
    names = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    values = {name.lower(): value for name, value in headers.items()} | {"host": urllib.parse.urlsplit(URL).netloc}
    signed = "".join(f"{name}:{values[name]}\n" for name in names.split(";"))
    path = urllib.parse.quote(call.path, safe="/~")
    request = f"{call.method}\n{path}\n\n{signed}\n{names}\n{hashlib.sha256(call.body).hexdigest()}"
    scope = f"{date[:8]}/{region}/bedrock/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def case() -> Recorded:
    return next(case for case in load() if case.model == "amazon/titan-embed-text-v2")


@pytest.mark.parametrize("token", ["", ":FwoGZXIvYXdzEXAMPLETOKEN"])
def test_a_call_with_an_access_key_is_signed_as_amazon_documents_it(token: str) -> None:
    pytest.importorskip("botocore", reason="the extra embedgate[bedrock] is not installed")
    sign = bedrock.signer(Endpoint("bedrock", URL, f"AKIDEXAMPLE:{SECRET}{token}"))
    assert sign is not None
    call = bedrock.build(case().batch({}), case().route)
    headers = dict(sign(call))
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert headers["Authorization"].endswith(f"Signature={signature(call, headers, 'eu-west-1')}")
    assert headers.get("X-Amz-Security-Token") == (token.removeprefix(":") or None)
    assert not any(SECRET in value for value in headers.values())


def test_an_access_key_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    with pytest.raises(DependencyMissing, match=r"embedgate\[bedrock\]"):
        bedrock.signer(Endpoint("bedrock", URL, f"AKIDEXAMPLE:{SECRET}"))


def test_a_key_of_bedrocks_own_needs_no_signature() -> None:
    assert bedrock.signer(Endpoint("bedrock", URL, KEY)) is None


async def test_a_signed_call_carries_its_signature_in_place_of_the_key() -> None:
    def signer(endpoint: Endpoint) -> Signer:
        assert endpoint.key == KEY
        return lambda call: {"authorization": f"Signed {call.method} {len(call.body)}"}

    vendor = HttpProvider(bedrock.build, bedrock.parse, classify, signer)
    with running_upstream() as upstream:
        upstream.script(Answer(200, b'{"embedding": [0.6, 0.8]}'))
        driver = HttpDriver(vendor, Endpoint("bedrock", case().base_url(upstream.port), KEY), TransportSettings())
        await driver.embed(case().batch({}), case().route, time.monotonic() + PATIENCE_S)
        await driver.aclose()
        (seen,) = upstream.requests
    assert seen.headers["authorization"] == f"Signed POST {len(seen.body)}"
    assert not any(KEY in value for value in seen.headers.values())
    assert seen.json == filled(case().calls[0]["body"])
