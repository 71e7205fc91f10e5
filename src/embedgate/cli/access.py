"""How a command reaches what it administers: the data folder of the settings, or a running gateway at an address.

Both run the same operations and give the same results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET, Struct

from embedgate.core.errors import UpstreamGarbled
from embedgate.govern.change import Invocation
from embedgate.govern.lists import MAX_PAGE_ITEMS, Listed, ListQuery
from embedgate.govern.operation import File, Operation

if TYPE_CHECKING:
    from embedgate.client import Client
    from embedgate.config import Loaded

P = TypeVar("P", bound=Struct)
Q = TypeVar("Q", bound=ListQuery)
R = TypeVar("R")


class Access(Protocol):
    """Runs operations of administration, wherever they run."""

    def call(self, operation: Operation[P, R], parameters: P) -> R:
        """The result of an operation. Raises a GatewayError, or ConfigError."""
        ...

    def file(self, operation: Operation[P, R | File], parameters: P) -> Iterator[bytes]:
        """The pieces of the file that an operation answers with. parameters: ask for one. Raises as `call`."""
        ...


class LocalAccess:
    """Operations on the database of a data folder, whether or not a gateway runs on it."""

    def __init__(self, invocation: Callable[[], Invocation]) -> None:
        """invocation: makes what each operation runs with."""
        self._invocation = invocation

    def call(self, operation: Operation[P, R], parameters: P) -> R:
        """The result of an operation, in this process."""
        return operation.run(self._invocation(), parameters)

    def file(self, operation: Operation[P, R | File], parameters: P) -> Iterator[bytes]:
        """The pieces of the file that an operation answers with, made while they are taken."""
        result = operation.run(self._invocation(), parameters)
        if not isinstance(result, File):
            raise TypeError(f"{operation.name} was not asked for a file")
        return result.pieces


class RemoteAccess:
    """Operations of a gateway elsewhere, over its administration API."""

    def __init__(self, client: "Client") -> None:
        """client: with the key of an administrator; closed by its owner."""
        self._client = client

    def call(self, operation: Operation[P, R], parameters: P) -> R:
        """The result of an operation, as the gateway answers it. Raises GatewayRefused with the gateway's message."""
        try:
            return operation.read(self._answer(operation, parameters))
        except msgspec.DecodeError as error:
            raise UpstreamGarbled(
                f"the gateway's answer to {operation.name} is not the expected one: {error}; is it of another version?"
            ) from error

    def file(self, operation: Operation[P, R | File], parameters: P) -> Iterator[bytes]:
        """The file that an operation answers with, in one piece."""
        return iter([self._answer(operation, parameters)])

    def _answer(self, operation: Operation[P, R], parameters: P) -> bytes:
        path, query, body = _written(operation, parameters)
        return bytes(self._client.administer(operation.method, f"{path}?{query}" if query else path, body))


@contextmanager
def local(loaded: "Loaded") -> Iterator[Access]:
    """The data folder of the settings. Makes the database if it is not there. Raises ConfigError."""
    from embedgate.wiring import open_operations  # brings all that the gateway is made of

    with open_operations(loaded) as invocation:
        yield LocalAccess(invocation)


@contextmanager
def remote(url: str, api_key: str | None) -> Iterator[Access]:
    """The gateway at an address. Raises ConfigError for an address or a key that cannot be used."""
    from embedgate.client import Client  # brings numpy

    with Client(api_key, url) as client:
        yield RemoteAccess(client)


def items_of(read: Callable[[Q], Listed[R]], query: Q) -> Iterator[R]:
    """The items of a whole list, read page by page while they are taken."""
    n_read = 0
    while True:
        page = read(msgspec.structs.replace(query, offset=n_read, limit=MAX_PAGE_ITEMS))
        yield from page.items
        n_read += len(page.items)
        if not page.items or n_read >= page.total:
            return


def every(read: Callable[[Q], Listed[R]], query: Q) -> Listed[R]:
    """A whole list, in memory."""
    items = tuple(items_of(read, query))
    return Listed(items, len(items), 0, len(items))


def _written(operation: Operation[P, R], parameters: P) -> tuple[str, str, bytes | None]:
    """Path, query and body of an operation's HTTP request."""
    values = {name: getattr(parameters, name) for name in parameters.__struct_fields__}
    segments = {name: quote(str(values[name]), safe="") for name in operation.path_parameters}
    query = "" if operation.query is None else urlencode(_texts(operation.query, values))
    body = None
    if operation.body is not None:
        given = {name: values[name] for name in operation.body.__struct_fields__ if values[name] is not UNSET}
        body = msgspec.json.encode(given)
    return operation.path.format(**segments), query, body


def _texts(query: type[Struct], values: dict[str, object]) -> dict[str, str]:
    """The fields of a query that differ from their defaults, as text."""
    texts: dict[str, str] = {}
    for parameter in msgspec.structs.fields(query):
        value = values[parameter.name]
        if value is not None and value != parameter.default:
            plain = msgspec.to_builtins(value)
            texts[parameter.name] = str(plain).lower() if isinstance(plain, bool) else str(plain)
    return texts
