"""Filters as conditions of Qdrant, over a payload that keeps every value under a name of its type.

Qdrant compares numbers as float64 and has no order of texts: filters that need more have no condition here, and are
applied to the metadata themselves.
"""

from collections.abc import Mapping
from typing import Any

from embedgate.toolkit.collections.filters import AllOf, Compare, Filter, Not
from embedgate.toolkit.records import Scalar

FIELD = "fields"
"""Of the payload: what filters see."""
_LARGEST_EXACT = 2**53
_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_TYPES = "tnb"
"""Texts, numbers, truth values."""


def fields_of(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Metadata under names that tell their types, and mean nothing in a path of JSON. What is null is left out."""
    return {_name(name, _type(value)): value for name, value in metadata.items() if value is not None}


def condition_of(where: Filter, models: Any) -> Any | None:
    """The condition of a filter; None if Qdrant has none of that meaning. models: `qdrant_client.models`."""
    if isinstance(where, Compare):
        return _comparison(where, models)
    parts = [condition_of(part, models) for part in ((where.part,) if isinstance(where, Not) else where.parts)]
    if any(part is None for part in parts):
        return None
    if isinstance(where, Not):
        return models.Filter(must_not=parts)
    return models.Filter(must=parts) if isinstance(where, AllOf) else models.Filter(should=parts)


def _comparison(where: Compare, models: Any) -> Any | None:
    value = where.value
    if value is None:
        keys = [f"{FIELD}.{_name(where.field, kind)}" for kind in _TYPES]
        return models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in keys])
    key = f"{FIELD}.{_name(where.field, _type(value))}"
    if isinstance(value, bool | str):
        if where.comparison != "=":
            return None
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    if abs(value) > _LARGEST_EXACT:
        return None
    limits = {"gte": value, "lte": value} if where.comparison == "=" else {_RANGES[where.comparison]: value}
    return models.FieldCondition(key=key, range=models.Range(**limits))


def _type(value: Scalar) -> str:
    return "t" if isinstance(value, str) else "b" if isinstance(value, bool) else "n"


def _name(field: str, kind: str) -> str:
    return kind + field.encode().hex()
