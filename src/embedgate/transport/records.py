"""The records between a vendor module and the driver: what to send, what came back, where to and as whom. No I/O."""

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from msgspec import Raw, Struct

from embedgate.core.actions import ActionName
from embedgate.core.errors import ConfigError, GatewayError
from embedgate.core.models import Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import Vectors
from embedgate.transport.redact import quote

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_KEY = re.compile(r"[!-~]+")
"""What a credential may consist of to be put into a header unchanged: visible ASCII."""


class HttpCall(Struct, frozen=True):
    """One call, without credentials. `path` follows the base URL; `body` is JSON.

    `key_header` and `key_prefix` say where the key goes in this call, if not where the endpoint says.
    """

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS
    key_header: str | None = None
    key_prefix: str | None = None


class ScannedReply(Struct, frozen=True):
    """What is left of a large answer when its vectors have been read: `body` has a mark in place of each.

    vectors: (n, d) float32, in the order in which they stood in the answer.
    """

    body: bytes
    vectors: Vectors
    mark: bytes

    def place(self, raw: Raw) -> int | None:
        """The row of `vectors` that a value of `body` stands for; None if it is a value of the provider's own."""
        text = memoryview(raw)
        length = len(self.mark)
        return int(bytes(text[length:-1])) if text[:length] == self.mark else None

    def rows(self, raws: Sequence[Raw]) -> Vectors | None:
        """The rows of `vectors` that values of `body` stand for; None if one of them is a value of the provider's own.

        Returns (n, d), without a copy if they are all there are, in their order.
        """
        places = [place for raw in raws if (place := self.place(raw)) is not None]
        if len(places) < len(raws):
            return None
        is_in_order = places == list(range(len(self.vectors)))
        return self.vectors if is_in_order else self.vectors[places]


class HttpReply(Struct, frozen=True):
    """An answer: header names in lower case, the body decompressed; of a failed call its beginning only.

    `secrets` are what no message may show: the key and the inputs of the call. They are there when it failed.
    `scanned` has vectors that were read as the answer arrived; `body` is then what it left.
    """

    provider: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: tuple[str, ...] = ()
    scanned: ScannedReply | None = None

    def __repr__(self) -> str:
        """Without headers, body and secrets, which no log may show."""
        return f"HttpReply({self.provider!r}, {self.status})"

    def quote(self, text: str) -> str:
        """The provider's own words, cut and cleaned of secrets, so that an error message may hold them."""
        return quote(text, self.secrets)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one provider is reached, and with which credential.

    `provider` is its name in messages. `key` goes into the header `key_header` behind `key_prefix`, and nowhere
    else. `max_parallel` is how many calls may be in flight at once. `is_public_only`: its host must be on the internet
    whenever it is connected to. Raises ConfigError for what cannot be used.
    """

    provider: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    max_parallel: int = 8
    is_public_only: bool = False

    def __post_init__(self) -> None:
        """Check what a person wrote."""
        place = f"providers.{self.provider}"
        mistakes = [f"{place}: base_url {mistake}" for mistake in _url_mistakes(self.base_url)]
        if self.key is not None and not _KEY.fullmatch(self.key):
            mistakes.append(f"{place}: the key holds blanks or other characters that no key has; copy it again")
        if self.max_parallel < 1:
            mistakes.append(f"{place}: max_parallel is {self.max_parallel}; it must be at least 1")
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def may_use_proxy(self) -> bool:
        """Whether the system's proxy settings apply: for remote hosts over TLS only.

        Over plain HTTP a proxy would read key and inputs, and a server on this machine is never behind one.
        """
        url = urllib.parse.urlsplit(self.base_url)
        return url.scheme == "https" and not _is_loopback(url.hostname or "")

    @property
    def keeps_secrets(self) -> bool:
        """Whether what is sent there is read by nobody on the way: over TLS, or on this machine."""
        url = urllib.parse.urlsplit(self.base_url)
        return url.scheme == "https" or _is_loopback(url.hostname or "")

    def url(self, path: str) -> str:
        """The address of a call."""
        return self.base_url.rstrip("/") + path


Signer = Callable[[HttpCall], Mapping[str, str]]
"""The headers that prove who makes a call. The only part of a vendor that sees a credential and the time."""


_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class HttpUnary(Generic[_Request, _Reply]):
    """How a vendor is asked unary requests of one action, such as rerank, as two pure functions.

    `build` makes the call of one request; raises InvalidInput for what the vendor would not read to its end. `parse`
    reads a 2xx reply as it stands there, not yet checked; raises UpstreamGarbled.
    """

    build: Callable[[_Request, Route], HttpCall]
    parse: Callable[[HttpReply, _Request, Route], _Reply]


class Chat(Struct, frozen=True, forbid_unknown_fields=True):
    """How a host is asked to complete chats, in OpenAI's form. What the fields mean is at the top of `hosts.toml`."""

    path: str = "/chat/completions"
    key_header: str | None = None
    key_prefix: str | None = None
    model_prefix: str = ""
    asks_usage: bool = False


@dataclass(frozen=True, slots=True)
class HttpProvider:
    """A vendor as three pure functions. None of them sees a credential, a socket or a clock.

    `build` makes the call of one batch. `parse` reads a 2xx reply: vectors in the order of the batch's inputs;
    raises UpstreamGarbled. `fault` names what any other reply means; retries follow from the class of the error.
    `signer` is for vendors that want calls signed: from an endpoint it makes what signs them, or None if the key goes
    into its header there; raises DependencyMissing. `chat` is there for vendors that complete chats, `unary` has the
    other actions that a vendor knows. `vector_field`: the key before each vector in an answer, if `parse` reads it by
    `read_embeddings`; vectors of a large answer are then read as they arrive.
    """

    build: Callable[[Batch, Route], HttpCall]
    parse: Callable[[HttpReply, Batch, Route], ProviderReply]
    fault: Callable[[HttpReply], GatewayError]
    signer: Callable[[Endpoint], Signer | None] | None = None
    chat: Chat | None = None
    unary: Mapping[ActionName, HttpUnary[Any, Any]] = field(default_factory=dict)
    vector_field: str | None = None


def _url_mistakes(base_url: str) -> list[str]:
    """What is wrong with an address. It may hold a credential by mistake, so it is not repeated."""
    try:
        url = urllib.parse.urlsplit(base_url)
        has_host = bool(url.hostname) and url.port != 0
    except ValueError:
        return ["is not an address; write it as https://host/path"]
    if url.scheme not in ("http", "https") or not has_host:
        return ["is not an http or https address; write it as https://host/path"]
    mistakes = []
    if url.username is not None or url.password is not None:
        mistakes.append("holds a user name or password; give the key with api_key_env or api_key_file instead")
    if url.query or url.fragment:
        mistakes.append("must end with its path, without ? or #")
    return mistakes


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
