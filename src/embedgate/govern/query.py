"""The query of a URL, read into a struct."""

from collections import Counter
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from embedgate.core.errors import MalformedRequest

T = TypeVar("T")


def query_fields(raw: bytes) -> dict[str, str]:
    """The fields by name. Raises MalformedRequest if the query is not URL-encoded UTF-8, or names a field twice."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise MalformedRequest("The query is not URL-encoded UTF-8.", param="query") from error
    given = dict(pairs)
    if len(given) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedRequest(f"The query has {twice[:100]!r} more than once.", param=twice[:100])
    return given


def read_query(raw: bytes, kind: type[T]) -> T:
    """The query as a struct of that type. Raises MalformedRequest if it does not fit.

    Whether fields that the type does not know are refused is the type's matter.
    """
    try:
        return msgspec.convert(query_fields(raw), kind, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"The query does not fit: {error}.", param="query") from error
