"""Vendors that speak the OpenAI format and so need no module of their own: a row each in `hosts.toml`.

Reads the table and puts a row's facts over a route. What a model costs and how large it is stands in the catalogue.
"""

import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import msgspec

from embedgate.core.types import BatchLimits, ParamValue, Route

GENERIC = "generic"
"""The row for a provider that is in the settings only."""


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table. The meaning of each field is at the top of `hosts.toml`."""

    note: str
    base_url: str | None = None
    path: str = "/embeddings"
    key_variables: tuple[str, ...] = ()
    key_required: bool = True
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    base64: Literal["yes", "by-model", "no"] = "no"
    accepts_dim: bool = False
    dim_field: str | None = None
    accepts_token_ids: bool = False
    accepts_user: bool = False
    accepts_unknown_options: bool = False
    sends_usage: bool = True
    extra: Mapping[str, ParamValue] = {}
    limits: BatchLimits = BatchLimits()

    def adapt(self, route: Route) -> Route:
        """The route with what this host takes.

        What the catalogue says of the model goes before what the row says of the host, except that a host's "no" to
        sizes, token ids and base64 holds for all its models.
        """
        own = route.limits
        return replace(
            route,
            limits=BatchLimits(
                max_inputs=own.max_inputs or self.limits.max_inputs,
                max_tokens=own.max_tokens or self.limits.max_tokens,
                max_bytes=own.max_bytes or self.limits.max_bytes,
                max_parallel=self.limits.max_parallel,
            ),
            accepts_base64=self.base64 == "yes" or (self.base64 == "by-model" and route.accepts_base64),
            accepts_dim=self.accepts_dim and route.accepts_dim,
            dim_field=self.dim_field or route.dim_field,
            # Elsewhere than at OpenAI's models the same numbers are other words.
            accepts_token_ids=self.accepts_token_ids and route.tokenizer == "tiktoken:cl100k_base",
            accepts_user=self.accepts_user or route.accepts_user,
            accepts_unknown_options=self.accepts_unknown_options or route.accepts_unknown_options,
            required_params=tuple({**self.extra, **dict(route.required_params)}.items()),
        )


def load() -> Mapping[str, Host]:
    """The table by provider name, `generic` included. Reads the file at each call."""
    text = importlib.resources.files(__package__).joinpath("hosts.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Host])
