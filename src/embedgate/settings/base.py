"""Types of settings, and the base of every section. Reads nothing."""

import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _check_network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_check_network)]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+$")]
"""Of a web page, as browsers write it."""
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Item = TypeVar("_Item")


def _listed(value: object) -> object:
    """A single value as a list of one."""
    if isinstance(value, (str, Path)):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a text or a list of texts")  # noqa: TRY004 - pydantic reports this one
    return value


Usd = Annotated[Decimal, Field(ge=0, le=1_000, decimal_places=12)]
Listed = Annotated[tuple[_Item, ...], BeforeValidator(_listed)]


class Section(BaseModel):
    """A section of the tree: refuses unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
