"""Every setting: one typed tree. Each has a type, a default, a unit and a sentence. Reads nothing.

How values come in, from a file and the environment, is in `config`.
"""

import ipaddress
import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MIN_CACHE_DISK_BYTES = 16_000_000
MIN_VERIFY_PAUSE_S = 60


def _check_network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_check_network)]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Item = TypeVar("_Item")


def _listed(value: object) -> object:
    """One value alone is a list of one."""
    if isinstance(value, (str, Path)):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a text or a list of texts")  # noqa: TRY004 - pydantic reports this one
    return value


Listed = Annotated[tuple[_Item, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    """A part of the tree: unknown keys refused, values never changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="Address to listen on. Only this machine can reach the default.")
    port: Port = Field(3100, description="TCP port to listen on; 0 takes a free one.")
    max_body_bytes: Positive = Field(
        40_000_000,
        description="Largest request body, in bytes. Too small refuses big batches with 413; too large lets one "
        "caller take that much memory.",
    )
    body_timeout_s: Seconds = Field(
        60.0, description="Seconds that a request body may take to arrive. Slower callers get 408."
    )
    request_timeout_s: Seconds = Field(
        300.0,
        description="Seconds from the start of a request to its answer. Too small fails long batches on slow "
        "providers with 504.",
    )
    chat_timeout_s: Seconds = Field(
        600.0,
        description="Seconds from the start of a chat completion to the end of its answer. A stream that is not "
        "complete by then is cut off, with an error as its last event.",
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (),
        description="Addresses or networks of proxies in front, whose X-Forwarded-For tells where a request comes "
        "from. Policies see that address.",
    )
    drain_timeout_s: Seconds = Field(
        60.0, description="Seconds that requests in flight may still take after SIGTERM before they are cut."
    )
    tls_cert_file: Path | None = Field(
        None, description="Certificate to serve HTTPS with, PEM, intermediate ones after it. Read at the start only."
    )
    tls_key_file: Path | None = Field(None, description="Its key, PEM, no passphrase. If absent: in the same file.")
    allow_plain_http: bool = Field(
        False,
        description="true serves HTTP without TLS where other machines can reach it: behind a proxy with TLS, or in a "
        "network that may read every key and text. Without it and a certificate the gateway does not start there.",
    )
    max_connections: Positive = Field(2_000, description="Connections of callers at once. More get 503.")
    max_head_bytes: Positive = Field(32_768, description="Largest request line and headers, in bytes. More gets 400.")
    head_timeout_s: Seconds = Field(
        10.0, description="Seconds from the start of a connection or request to the end of its headers. Slower is cut."
    )
    keep_alive_s: Positive = Field(
        75, description="Seconds, whole, that a connection waits for a next request. Above that of a proxy in front."
    )
    unread_timeout_s: Seconds = Field(
        60.0, description="Seconds that a caller may read nothing of an answer before its connection is closed."
    )
    max_unsent_bytes: Positive = Field(
        65_536,
        description="Bytes of a streamed chat that wait for a caller who reads slowly. When there are more, the "
        "provider is read as slowly.",
    )


class KeySettings(_Section):
    """Credentials of callers."""

    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")] = Field(
        "eg",
        description="Start of every key: `<prefix>_` and 32 hex digits. `ziri` suits clients of that API.",
    )
    max_cached: Positive = Field(
        10_000,
        description="Keys that are remembered for a second, and as many unknown ones. Fewer than are in use at once "
        "means that the database is asked more often.",
    )


def _check_pause(pause_s: float) -> float:
    if pause_s != 0 and not MIN_VERIFY_PAUSE_S <= pause_s < math.inf:  # nor is NaN
        raise ValueError(f"must be 0, for no checks, or at least {MIN_VERIFY_PAUSE_S}")
    return pause_s


class UpstreamSettings(_Section):
    """Calls to providers: which route first, how long, how often, and when one is left alone."""

    order: Literal["list", "weight", "latency", "price", "throughput"] = Field(
        "list",
        description="Which route of a model is tried first: as in the catalogue, drawn by `providers.<name>.weight`, "
        "the quickest, the cheapest, or that with most tokens in a second. A request may ask for another order.",
    )
    max_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2,
        description="Further attempts at one provider call that failed in a way that may pass, where no other route is "
        "left. 0 turns them off; many delay the error.",
    )
    retry_wait_s: Seconds = Field(
        0.5, description="Longest wait before the first further attempt; doubled for each one after, with jitter."
    )
    max_wait_s: Seconds = Field(
        10.0,
        description="Longest wait of a request for a provider that asks for one, and before a further attempt. What "
        "takes longer is refused, or goes to the next route.",
    )
    retry_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Further attempts that each call of a route earns. Many can overload a provider that fails."
    )
    retry_reserve: Annotated[int, Field(ge=0)] = Field(
        30, description="Further attempts of a route in ten to twenty seconds that need not be earned."
    )
    attempt_timeout_s: Seconds = Field(
        60.0,
        description="Seconds that one call may take, its wait for a free place included, where another route can be "
        "tried. The last route has as long as the request.",
    )
    hedge: bool = Field(
        False,
        description="true asks the next route, too, when a call takes longer than 95 of 100 do there; the first good "
        "answer counts. Quicker in bad moments, and up to `retry_share` dearer.",
    )
    circuit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25,
        description="Share of a route's last 20 calls, three at least, that fail before its circuit opens: others are "
        "asked instead, until probes succeed.",
    )
    circuit_failures: Positive = Field(
        5,
        description="Calls in a row that fail before a route refuses requests that have no other, if "
        "`upstream.circuit_patience_s` have passed, too.",
    )
    circuit_patience_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0, description="Seconds without one good answer before a route refuses requests that have no other."
    )
    circuit_wait_s: Seconds = Field(
        1.0, description="Seconds until a route whose circuit is open is probed; doubled each time that this fails."
    )
    circuit_max_wait_s: Seconds = Field(
        60.0, description="Longest time until a probe. Where a provider refuses our key, the time until the first."
    )
    max_waiting: Positive = Field(
        10_000,
        description="Requests that may wait for one model while its calls are at their cap, where callers are "
        "batched together. More get 503.",
    )
    max_limit_wait_s: Annotated[float, Field(ge=0, le=60)] = Field(
        2.0,
        description="Longest wait of a call for room within the limits of a provider's account. What takes longer goes "
        "to another key or the next route. 0 turns it off.",
    )
    max_limit_waiting: Positive = Field(
        1_000, description="Calls that may wait so at once, for each key of a provider. More go on at once."
    )
    verify_every_s: Annotated[float, AfterValidator(_check_pause)] = Field(
        0.0,
        description="Seconds between checks whether every embedding route still gives the vectors that it should: the "
        "first at the start, in the background. Each costs money, some 600 tokens of each route, in the ledger under "
        "`operator`. 0 turns it off, else at least 60; 86,400 is once a day.",
    )


class StorageSettings(_Section):
    """What survives a restart."""

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("embedgate", appauthor=False)),
        description="Folder of the database, the keys of the first start and prepared models.",
    )
    synchronous: Literal["normal", "full"] = Field(
        "normal",
        description="How SQLite commits. `normal` survives a killed process; `full` also a power cut, at the "
        "price of a disk sync per group of requests.",
    )
    ledger_max_pending: Positive = Field(
        10_000,
        description="Ledger entries that may wait in memory, about 1 KB each, while the database cannot be written, "
        "and as many audit events. What comes when the queue is full is only logged, and its request fails with 500.",
    )
    ledger_patience_s: Seconds = Field(
        5.0,
        description="Seconds that answers wait for a database that cannot be written, before their requests fail "
        "with 500. Their entries are still written as soon as that is possible.",
    )


def _check_disk_bytes(size_bytes: int) -> int:
    if 0 < size_bytes < MIN_CACHE_DISK_BYTES:
        raise ValueError(f"must be 0, for no cache on disk, or at least {MIN_CACHE_DISK_BYTES}")
    return size_bytes


class CacheSettings(_Section):
    """Vectors that are kept, so that a text is not embedded and paid for twice."""

    enabled: bool = Field(True, description="false embeds every text anew.")
    scope: Literal["project", "user", "shared"] = Field(
        "project",
        description="Who finds what was kept: the keys of one project (of one user, where a key has no project), those "
        "of one user, or everybody. `shared` lets a caller see from cost and speed that another one has embedded the "
        "same text.",
    )
    reuse_costs: Literal["nothing", "full"] = Field(
        "nothing",
        description="What a text costs that was not sent to a provider, because it was kept or in flight: nothing, or "
        "as much as if it had been sent.",
    )
    ttl_s: Seconds | None = Field(
        None,
        description="Seconds after which a kept vector is embedded anew; vectors of one model revision never change.",
    )
    memory_bytes: Annotated[int, Field(ge=0)] = Field(
        64_000_000,
        description="Memory for vectors, in bytes, overhead included. 0 keeps them on disk only. What the disk holds "
        "and the system has in its own memory is found nearly as fast.",
    )
    disk_bytes: Annotated[int, Field(ge=0), AfterValidator(_check_disk_bytes)] = Field(
        4_000_000_000,
        description="Disk for vectors, in bytes, in the folder `cache` of the data folder, which must be on a local "
        "disk. Never exceeded; 0 keeps vectors in memory only, else at least 16,000,000. 4 GB hold 600,000 vectors "
        "of 1,536 numbers.",
    )
    max_pending_bytes: Positive = Field(
        32_000_000,
        description="Vectors that wait to be written to disk, in bytes. What comes when the queue is full stays in "
        "memory only.",
    )


class AccessSettings(_Section):
    """Policies, and the secrets that the database holds."""

    is_emergency: bool = Field(
        False, description="What policies read as `context.is_emergency`, for those that permit more or less then."
    )
    master_key_env: str | None = Field(
        None,
        description="Environment variable with the key that stored provider keys are sealed with, 64 hex digits. If "
        "absent: the file secrets.key in the data folder, made when it is first needed.",
    )


class LimitSettings(_Section):
    """What one request may carry, whatever the provider behind takes."""

    max_inputs: Positive = Field(2048, description="Inputs per request.")
    max_tokens: Positive = Field(300_000, description="Tokens per request, all inputs together.")
    # Some models read all documents together, and their host takes 2,048 in a call; more would be cut into several.
    max_documents: Positive = Field(1_000, le=2_048, description="Documents per request to order them, at most 2048.")
    max_chat_output_tokens: Positive = Field(
        16_384,
        description="Tokens that a choice of a chat completion is taken to have at most, where neither the request nor "
        "the catalogue says. Their price is held until the true one is known.",
    )


class LocalModelSettings(_Section):
    """One model of the BERT family in a folder of yours. Its id is `local/<name>`."""

    path: Path = Field(description="Folder with model.safetensors, config.json and tokenizer.json.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="Digest that model.safetensors must have; anything else is refused."
    )
    space: str | None = Field(
        None, description="Name of its vector space; the id if absent. Same weights elsewhere share a space."
    )
    query_prefix: str | None = Field(
        None, description="Text put before inputs of type query; from the model's own files if absent."
    )
    document_prefix: str | None = Field(
        None, description="Text put before inputs of type document; from the model's own files if absent."
    )
    max_input_tokens: Positive | None = Field(
        None, description="Tokens per input; from the model's own files if absent."
    )


class LocalSettings(_Section):
    """Models in the process."""

    default_model: str = Field(
        "local/all-minilm-l6-v2",
        description="The model that is loaded at start-up and suggested in messages.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Processor cores that one local model may use; 0 means all of them."
    )
    micro_batch_tokens: Positive = Field(
        512,
        description="Padded tokens per run of the model. Much smaller wastes calls; much larger delays other "
        "requests and is slower.",
    )
    cl100k_file: Path | None = Field(
        None,
        description="cl100k_base.tiktoken, the rank file for tiktoken, to count and decode cl100k_base tokens "
        "where rs-bpe is not installed.",
    )
    models: dict[str, LocalModelSettings] = Field(
        default_factory=dict,
        description="Further models by id, each a folder with safetensors weights and tokenizer.json.",
    )


class ProviderSettings(_Section):
    """One provider. It is switched on by a key in its usual environment variable, or here."""

    enabled: bool | None = Field(
        None,
        description="true or false switches it on or off; absent means on when it has a key (or needs none).",
    )
    host: str | None = Field(
        None, description="The row of the provider table that this entry follows; its own name if absent."
    )
    base_url: str | None = Field(None, description="Address of its API, up to and without `/embeddings`.")
    models: tuple[str, ...] | None = Field(
        None,
        description="Ids of the models that it serves, if those are not all that the catalogue knows at such a host. "
        "Required for servers that have one model and answer for any name with it (tei, llamacpp).",
    )
    api_key_env: Listed[str] = Field(
        (), description="Environment variable that holds the key. A list of several for a provider with several keys."
    )
    api_key_file: Listed[Path] = Field(
        (), description="File that holds the key and nothing else, or a list of such files."
    )
    max_parallel: Positive | None = Field(None, description="Calls in flight at once, with all keys together.")
    weight: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Share of requests, beside the weights of the model's other providers, where `upstream.order` is "
        "`weight`. 0 gets only what no other can serve.",
    )
    requests_per_minute: Positive | None = Field(
        None,
        description="Requests that one key may make in a minute, with all models together. If absent: as the provider "
        "says in its answers, for each model.",
    )
    tokens_per_minute: Positive | None = Field(
        None, description="Tokens of one key in a minute. If absent: as the provider says, for each model."
    )
    precision: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")] | None = Field(
        None,
        description="Of the weights that run there: `f32`, `f16`, `bf16`, or a word for how they are rounded, such as "
        "`fp8`, `int8` or `q4_k_m`. Only vectors of one precision are kept together. If absent: as in the table.",
    )
    batching: bool | None = Field(
        None,
        description="Whether inputs of different requests may share a call while the provider is at max_parallel. "
        "On for local models if absent, off for others.",
    )


class CatalogSettings(_Section):
    """The models we know."""

    file: Path | None = Field(
        None, description="A catalogue file of yours: further models, and overrides of prices and limits."
    )
    unpriced: Literal["refuse", "free"] = Field(
        "free",
        description="What to do with a model without a known price: refuse it, or let it cost nothing.",
    )


class TransportSettings(_Section):
    """Connections to providers."""

    connect_timeout_s: Seconds = Field(
        10.0, description="Seconds that opening a connection may take, name lookup and TLS included."
    )
    max_reply_bytes: Positive = Field(
        256_000_000,
        description="Largest answer of a provider, in bytes after decompression. 2,048 vectors of 3,072 numbers are "
        "80 MB as decimals; too large lets a broken provider take that much memory per call.",
    )
    pool_idle_timeout_s: Seconds = Field(
        60.0,
        description="Seconds after which an unused connection is closed. Keep it below that of the provider's load "
        "balancer.",
    )
    pool_max_idle: Positive = Field(64, description="Unused connections that are kept open, per provider.")


class LogSettings(_Section):
    """Logging. Inputs, vectors and credentials are never logged."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")
    format: Literal["text", "json"] = Field("text", description="One line per event, for people or for programs.")


class Settings(_Section):
    """The whole tree."""

    server: ServerSettings = ServerSettings()
    keys: KeySettings = KeySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    storage: StorageSettings = StorageSettings()
    cache: CacheSettings = CacheSettings()
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    local: LocalSettings = LocalSettings()
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    catalog: CatalogSettings = CatalogSettings()
    transport: TransportSettings = TransportSettings()
    log: LogSettings = LogSettings()
