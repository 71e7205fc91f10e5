"""Table of provider hosts. Vendors that speak the OpenAI format are a row in `hosts.toml` and need no module.

A vendor with its own API is a module beside this one, named like the provider, without further registration:
`HOST` is its row, and `provider(host)` its translation. Such a module may also be in another installed package, which
names it in an entry point of the group `embedgate.providers`. Prices and sizes of models are in the
catalogue.
"""

import functools
import importlib
import importlib.metadata
import importlib.resources
import pkgutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal, Protocol, cast

import msgspec

import embedgate.providers
from embedgate.core.actions import ActionName
from embedgate.core.errors import ConfigError
from embedgate.core.models import BatchLimits, ParamValue, Route, Truncate
from embedgate.transport import Chat, HttpProvider, HttpUnary

GENERIC = "generic"
"""The row of a provider that is in the settings only."""
ENTRY_POINTS = "embedgate.providers"
"""The group of entry points in which other packages name their vendor modules."""


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Row of the host table. The meaning of each field is at the top of `hosts.toml`."""

    note: str
    base_url: str | None = None
    path: str = "/embeddings"
    key_variables: tuple[str, ...] = ()
    key_required: bool = True
    is_free: bool = False
    ignores_model: bool = False
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    base_url_by_key: Mapping[str, str] = {}
    base64: Literal["yes", "by-model", "no"] = "no"
    base64_field: str = "encoding_format"
    accepts_dim: bool = False
    dim_field: str | None = None
    accepts_token_ids: bool = False
    accepts_user: bool = False
    accepts_unknown_options: bool = False
    sends_usage: bool = True
    names_freely: bool = False
    extra: Mapping[str, ParamValue] = {}
    truncate: Mapping[Truncate, Mapping[str, ParamValue]] = {}
    unary: Mapping[ActionName, Mapping[str, ParamValue]] = {}
    chat: Chat | None = None
    embeds: bool = True
    precision: str = "f32"
    limits: BatchLimits = BatchLimits()
    module: str = "openai"
    package: str = "embedgate.providers"
    """Package of `module`; empty if it is in none."""

    def address(self, key: str | None) -> str | None:
        """The base URL for a key; None if the settings must give it."""
        found = (url for start, url in self.base_url_by_key.items() if key is not None and key.startswith(start))
        return next(found, self.base_url)

    def adapt(self, route: Route) -> Route:
        """The route with this host's habits and limits applied.

        The catalogue's fields take precedence over the row's, except that a host's "no" to
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
            # cl100k_base ids mean other tokens to models that are not OpenAI's.
            accepts_token_ids=self.accepts_token_ids and route.tokenizer == "tiktoken:cl100k_base",
            accepts_user=self.accepts_user or route.accepts_user,
            accepts_unknown_options=self.accepts_unknown_options or route.accepts_unknown_options,
            accepts_truncate=route.accepts_truncate or bool(self.truncate.keys() - {"none"}),
            # With truncation set in every call, nothing is truncated silently.
            truncates_silently=route.truncates_silently and "none" not in self.truncate,
            truncate_params=self.truncate,
            names_freely=self.names_freely or route.names_freely,
            precision=self.precision,
            required_params=tuple({**self.extra, **dict(route.required_params)}.items()),
        )


class _Vendor(Protocol):
    """Vendor module: translates requests and replies."""

    @staticmethod
    def provider(host: Host) -> HttpProvider:
        """The translation functions for one host."""
        ...


class _Unary(Protocol):
    """The module of the format in which several vendors serve an action; it has the action's name."""

    @staticmethod
    def unary(params: Mapping[str, ParamValue]) -> HttpUnary[Any, Any]:
        """The translation functions for a host that needs these fields in every call."""
        ...


def load() -> Mapping[str, Host]:
    """The table by provider name, `generic` included. The file is read once.

    Raises ConfigError if vendor modules of other packages cannot be used.
    """
    rows = _table()
    own: dict[str, Host] = {**rows, **dict(_native()), GENERIC: rows[GENERIC]}
    installed = _installed()
    taken = own.keys() | {found.name for found in pkgutil.iter_modules(embedgate.providers.__path__)}
    twice = [point for point, _ in installed if point.name in taken]
    if twice:
        raise ConfigError(
            [f"{_of(each)}: a provider of that name is built in; rename the entry point" for each in twice]
        )
    return own | {point.name: row for point, row in installed}


def vendor(host: Host) -> HttpProvider:
    """The vendor module of a host. Raises DependencyMissing if it needs an extra that is not installed."""
    provider = cast(_Vendor, _import(host.package, host.module)).provider(host)
    unary = {action: cast(_Unary, _import(__package__, action)).unary(params) for action, params in host.unary.items()}
    return replace(provider, chat=host.chat, unary={**provider.unary, **unary})


@functools.cache
def _table() -> Mapping[str, Host]:
    """The rows of the file."""
    text = importlib.resources.files(__package__).joinpath("hosts.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Host])


def _native() -> Iterator[tuple[str, Host]]:
    """The rows that vendor modules define."""
    for found in pkgutil.iter_modules(embedgate.providers.__path__):
        row = getattr(importlib.import_module(f"{__package__}.{found.name}"), "HOST", None)
        if isinstance(row, Host):
            yield found.name, msgspec.structs.replace(row, module=found.name)


@functools.cache
def _installed() -> tuple[tuple[importlib.metadata.EntryPoint, Host], ...]:
    """The vendor modules of other packages. Looked up once: a package installed later needs a restart."""
    found: dict[str, tuple[importlib.metadata.EntryPoint, Host]] = {}
    mistakes = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name in found:
            mistakes.append(f"{_of(point)}: {_of(found[point.name][0])} has the same name; uninstall one of them")
            continue
        package, _, module = point.module.rpartition(".")
        try:
            vendor_module = _import(package, module)
        except Exception as error:  # noqa: BLE001 - a third-party module may raise anything
            mistakes.append(f"{_of(point)} cannot be imported: {type(error).__name__}: {error}. Fix or uninstall it")
            continue
        row = getattr(vendor_module, "HOST", None)
        if isinstance(row, Host) and callable(getattr(vendor_module, "provider", None)):
            found[point.name] = point, msgspec.structs.replace(row, module=module, package=package)
        else:
            mistakes.append(f"{_of(point)}: {point.module} needs HOST, a Host, and provider(host). Fix or uninstall it")
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(found.values())


def _of(point: importlib.metadata.EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
    return f"the provider {point.name} of {package}"


def _import(package: str, module: str) -> ModuleType:
    return importlib.import_module(f"{package}.{module}" if package else module)
