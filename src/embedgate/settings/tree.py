"""Settings as one typed tree; each has a type, a default, a unit and a description. Reads nothing.

`config` reads the values from a file and the environment.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from embedgate.settings.base import Listed, Network, Origin, Port, Positive, Seconds, Section, Usd
from embedgate.settings.keys import KeySettings
from embedgate.settings.storage import CacheSettings, IdempotencySettings, StorageSettings

MIN_VERIFY_PAUSE_S = 60


class ServerSettings(Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="Address to listen on. Only this machine can reach the default.")
    port: Port = Field(3100, description="TCP port to listen on; 0 takes a free one.")
    max_body_bytes: Positive = Field(
        40_000_000,
        description="Largest request body, in bytes. Too small refuses big batches with 413; too large lets one "
        "caller take that much memory.",
    )
    max_memory_bytes: Positive | None = Field(
        None,
        description="Memory that bodies of requests, what is made of them, and unsent answers may take together, in "
        "bytes. If absent: two fifths of what the machine or container has. Requests beyond it wait, then get 503; a "
        "body that alone needs more gets 413.",
    )
    max_memory_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.75,
        description="Part of that memory that the requests of one user may hold together, so that others find room; a "
        "single request may need more. Those beyond it wait, then get 503. 1 lets one user have all.",
    )
    memory_wait_s: Seconds = Field(5.0, description="Seconds that a request may wait for memory before it gets 503.")
    max_body_values: Positive = Field(
        400_000,
        description="Values in one body: items of lists and fields of objects, token ids included. More get 413: they "
        "cost far more time and memory than their bytes.",
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
    stream_heartbeat_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        15.0,
        description="Seconds of silence after which a chat stream gets a comment, so that no proxy cuts it while the "
        "model thinks. A stream whose answer has not begun by then opens, and tells errors as an event from then on. 0 "
        "turns it off.",
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (),
        description="Addresses or networks of proxies in front, whose X-Forwarded-For or Forwarded gives the client "
        "address. Policies see that address.",
    )
    cors_origins: tuple[Origin | Literal["*"], ...] = Field(
        (),
        description="Sites whose pages may call this gateway from a browser, such as https://app.example.com; * for "
        "every site. If absent, browsers let no other site read an answer.",
    )
    drain_timeout_s: Seconds = Field(
        60.0, description="Seconds that requests in flight may still take after SIGTERM before they are aborted."
    )
    tls_cert_file: Path | None = Field(
        None, description="Certificate chain for HTTPS, PEM, leaf first. Read at the start and on SIGHUP."
    )
    tls_key_file: Path | None = Field(
        None,
        description="Private key of the certificate, PEM, no passphrase. If absent: in the same file.",
    )
    allow_plain_http: bool = Field(
        False,
        description="true serves HTTP without TLS on an address that other machines can reach: behind a proxy with "
        "TLS, or in a trusted network. Without it or a certificate the gateway does not start on such an address.",
    )
    max_connections: Positive = Field(2_000, description="Open connections of callers. More get 503.")
    max_connections_per_address: Positive | None = Field(
        None,
        description="Open connections of one address (of one /64 network, for IPv6); trusted proxies have no such "
        "limit. If absent, one address may have all. With all taken, those of the address that has the most are closed "
        "for callers from another, unless a whole request is being served.",
    )
    max_pipelined: Positive = Field(
        16,
        description="Requests that may wait on one connection behind the one that is served. Further ones are not read "
        "from the network until there is room.",
    )
    max_admin_requests: Positive = Field(
        200,
        description="Requests to the administration API that run or wait, as many logins, and a tenth as many exports; "
        "one user, or one address without a login, has a quarter. More get 503.",
    )
    max_head_bytes: Positive = Field(32_768, description="Largest request line and headers, in bytes. More gets 400.")
    head_timeout_s: Seconds = Field(
        10.0,
        description="Seconds from the start of a connection or request to the end of its headers. Slower ones are "
        "closed.",
    )
    max_lag_s: Annotated[float, Field(ge=0, le=60)] = Field(
        5.0,
        description="Load shedding: when the event loop runs that many seconds late for `server.lag_patience_s`, new "
        "requests get 503 until it is half as late. Health and metrics are answered. 0 turns it off.",
    )
    lag_patience_s: Seconds = Field(
        10.0,
        description="Seconds that the event loop must be late before requests are refused, and then on time again.",
    )
    keep_alive_s: Positive = Field(
        75, description="Keep-alive timeout, whole seconds. Set it above that of a proxy in front."
    )
    unread_timeout_s: Seconds = Field(
        60.0, description="Seconds without progress in sending an answer after which the connection is closed."
    )
    max_unsent_bytes: Positive = Field(
        65_536,
        description="Buffer of a streamed chat for a caller who reads slowly, in bytes. When it is full, the provider "
        "is read as slowly (backpressure).",
    )


def _check_pause(pause_s: float) -> float:
    if pause_s != 0 and not MIN_VERIFY_PAUSE_S <= pause_s < math.inf:  # nor is NaN
        raise ValueError(f"must be 0, for no checks, or at least {MIN_VERIFY_PAUSE_S}")
    return pause_s


class UpstreamSettings(Section):
    """Calls to providers: order of routes, timeouts, retries, hedging and the circuit breaker."""

    order: Literal["list", "weight", "latency", "price", "throughput"] = Field(
        "list",
        description="Which route of a model is tried first: in catalogue order, drawn by `providers.<name>.weight`, "
        "the lowest latency, the lowest price, or the most tokens per second. A request may ask for another order.",
    )
    max_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2,
        description="Retries of one provider call after a transient failure, where no other route is left. 0 turns "
        "them off; many delay the error.",
    )
    retry_wait_s: Seconds = Field(
        0.5, description="Longest wait before the first retry; doubled for each further one, with full jitter."
    )
    max_wait_s: Seconds = Field(
        10.0,
        description="Longest wait of a request before a retry, also where the provider asks for more. If it asks for "
        "more, the request fails over to the next route, or fails.",
    )
    max_retry_after_s: Seconds = Field(
        300.0,
        le=3_600,
        description="Longest wait that a provider can ask for (`retry-after`). A longer one counts as this much, "
        "also in what callers are told. A test or a change of the provider ends the wait.",
    )
    retry_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Retry budget: retries per call of a route. A high share can overload a failing provider."
    )
    retry_reserve: Annotated[int, Field(ge=0)] = Field(
        30, description="Retries of a route in ten to twenty seconds beside those of `retry_share`."
    )
    attempt_timeout_s: Seconds = Field(
        60.0,
        description="Timeout of one call in seconds, from when it is sent, on the last route, too. Where another route "
        "can be tried, waiting for a free slot counts. A stream must have begun by then. Too small cuts off slow hosts "
        "and repeats their work; too large lets one that hangs keep its places.",
    )
    completion_timeout_s: Seconds = Field(
        300.0,
        description="Timeout of one call, in seconds, for a completion that is not streamed: it comes when all of "
        "it is written.",
    )
    stream_idle_timeout_s: Seconds = Field(
        120.0,
        description="Seconds without a byte after which a stream of a provider is cut off. Models that think in "
        "silence may need more.",
    )
    max_queued_calls: Positive = Field(
        10_000,
        description="Calls that may wait for a place at one provider (`providers.<name>.max_parallel`). More go to the "
        "next route, or get 503.",
    )
    max_queued_bytes: Positive = Field(
        256_000_000,
        description="Bytes of such calls together, per provider, and of the inputs that wait for one model with "
        "adaptive batching. More go to the next route, or get 503.",
    )
    hedge: bool = Field(
        False,
        description="true calls the next route, too, when a call takes longer than the route's 95th percentile; the "
        "first good answer counts. Cuts tail latency, and costs up to `retry_share` more.",
    )
    left_stream_costs: Literal["by_budget", "held", "what_came"] = Field(
        "by_budget",
        description="Cost of a streamed chat whose caller leaves before the provider has told its usage, marked as "
        "estimated: all that was held, so that no provider can bill more, or what came of it, by rule of thumb. "
        "`by_budget` is the first for callers with a budget, and the second for others.",
    )
    circuit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25,
        description="Share of failures in a route's last 20 calls, three at least, that opens its circuit breaker: "
        "other routes are used until probes succeed.",
    )
    circuit_failures: Positive = Field(
        5,
        description="Consecutive failures after which a route with an open circuit refuses requests that have no "
        "other route, once `upstream.circuit_patience_s` have passed, too.",
    )
    circuit_patience_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0, description="Seconds without success before a route refuses requests that have no other."
    )
    circuit_wait_s: Seconds = Field(
        1.0, description="Seconds until a route with an open circuit is probed; doubled after each failed probe."
    )
    circuit_max_wait_s: Seconds = Field(
        60.0, description="Longest time between probes. Where a provider refuses the key, the time until the first."
    )
    max_waiting: Positive = Field(
        10_000,
        description="Requests that may wait for one model at its concurrency limit, with adaptive batching. More get "
        "503.",
    )
    max_limit_wait_s: Annotated[float, Field(ge=0, le=60)] = Field(
        2.0,
        description="Longest wait of a call for the rate limits of a provider's key. Calls that would wait longer go "
        "to another key or the next route. 0 turns it off.",
    )
    max_limit_waiting: Positive = Field(
        1_000,
        description="Calls that may wait so at the same time, for each key of a provider. Further ones go on at once.",
    )
    verify_every_s: Annotated[float, AfterValidator(_check_pause)] = Field(
        0.0,
        description="Seconds between drift checks of every embedding route: the first at the start, in the "
        "background. Each costs some 600 tokens per route, billed in the ledger to `operator`. 0 turns them off, else "
        "at least 60; 86,400 is once a day.",
    )


class AccessSettings(Section):
    """Policies, and the secrets that the database holds."""

    is_emergency: bool = Field(False, description="Value of `context.is_emergency` in policies.")
    heeds_callers_emergency: bool = Field(
        False,
        description="Whether `isEmergency: true` in a request of the ZIRI dialect makes `context.is_emergency` true "
        "for it. Every caller can say so. If not, the field has no effect; no provider ever sees it.",
    )
    login_origins: tuple[Origin, ...] = Field(
        (),
        description="Origins of web pages of other sites that may log in, such as `https://console.example.org`. A "
        "page of any other site than the gateway's own is refused, lest it try passwords from its readers' addresses.",
    )
    refusal_summary_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0,
        description="Seconds over which equal refusals (same key, action, model and reason) become one event of the "
        "audit trail, with their number. 0 writes each of them, which lets one key fill the disk.",
    )
    master_key_env: str | None = Field(
        None,
        description="Environment variable with the master key that encrypts stored provider keys, 64 hex digits. If "
        "absent: the file secrets.key in the data folder, made when it is first needed.",
    )


class LimitSettings(Section):
    """Size limits of one request, independent of the provider."""

    max_inputs: Positive = Field(2048, description="Inputs per request.")
    max_tokens: Positive = Field(300_000, description="Tokens per request, all inputs together.")
    # Some models read all documents together, and their host takes 2,048 in a call; more would need several calls.
    max_documents: Positive = Field(1_000, le=2_048, description="Documents per rerank request, at most 2048.")
    max_chat_output_tokens: Positive = Field(
        16_384,
        description="Assumed maximum of output tokens per choice of a chat completion, where neither the request nor "
        "the catalogue gives one. Their price is held until the true cost is known.",
    )
    paid_options: dict[str, Usd] = Field(
        default_factory=dict,
        description="Options beside the tokens that callers with a budget may use, each with the most that it can "
        "cost in a request, in dollars (for embeddings: for each input). That much is held, and booked. Names are "
        'those of refusals, such as `prediction` or `"tools.web_search"`. Too low overspends budgets.',
    )


class LocalModelSettings(Section):
    """One local model, from a folder. Its id is `local/<name>`."""

    path: Path = Field(
        description="Folder with config.json, tokenizer.json, and weights: an ONNX file, or model.safetensors of the "
        "BERT family."
    )
    file: str | None = Field(
        None,
        description="File in the folder that is run, such as `onnx/model_quantized.onnx`. If absent: model.safetensors "
        "if it is of the BERT family, else `model.onnx`, else `model_quantized.onnx`, each in `onnx` or in the folder.",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="SHA-256 that the file must have; any other is refused. Of an ONNX file with external data: of the "
        "file followed by these, in the order of their names.",
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


class LocalSettings(Section):
    """Models that run in the process."""

    default_model: str = Field(
        "local/all-minilm-l6-v2",
        description="The model that is loaded at start-up and suggested in messages.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Processor cores that one local model may use; 0 means all of them."
    )
    micro_batch_tokens: Positive = Field(
        512,
        description="Padded tokens per run of the model. Much smaller adds overhead; much larger delays other "
        "requests and is slower.",
    )
    cl100k_file: Path | None = Field(
        None,
        description="cl100k_base.tiktoken, the rank file for tiktoken, to count and decode cl100k_base tokens where "
        "rs-bpe is not installed.",
    )
    hub_url: str = Field(
        "https://huggingface.co",
        description="Hub of models that `models pull` asks, or a mirror of it; HF_ENDPOINT in the environment counts "
        "before it.",
    )
    max_model_bytes: Positive = Field(
        8 * 2**30,
        description="Size of the weights of one model, and of all files that `models pull` downloads. A larger one is "
        "refused before it is read; too much for the machine's memory ends the process.",
    )
    models: dict[str, LocalModelSettings] = Field(
        default_factory=dict,
        description="Further models by id, each a folder with an ONNX file or safetensors weights and tokenizer.json.",
    )


class ProviderSettings(Section):
    """One provider. A key in its usual environment variable, or this section, enables it."""

    enabled: bool | None = Field(
        None,
        description="true or false enables or disables it; absent means enabled when it has a key (or needs none).",
    )
    host: str | None = Field(
        None, description="The row of the provider table that this entry follows; its own name if absent."
    )
    base_url: str | None = Field(None, description="Address of its API, without `/embeddings`.")
    models: tuple[str, ...] | None = Field(
        None,
        description="Ids of the models that it serves, if not all that the catalogue has at such a host. Required for "
        "servers that have one model and use it for any name (tei, llamacpp).",
    )
    api_key_env: Listed[str] = Field(
        (), description="Environment variable that holds the key. A list of several for a provider with several keys."
    )
    api_key_file: Listed[Path] = Field(
        (), description="File that holds the key and nothing else, or a list of such files."
    )
    free: bool | None = Field(
        None,
        description="true: a server of your own, whose models cost nothing unless a price is set. false: a price that "
        "is not known is not zero, and callers with a budget are refused. If absent: as in the provider table.",
    )
    max_parallel: Positive | None = Field(None, description="Concurrency limit: calls in flight, over all keys.")
    weight: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Share of requests, relative to the weights of the model's other providers, where "
        "`upstream.order` is `weight`. 0 gets only requests that no other can serve.",
    )
    requests_per_minute: Positive | None = Field(
        None,
        description="Requests per minute of one key, over all models. If absent: as the provider reports in its "
        "answers, for each model.",
    )
    tokens_per_minute: Positive | None = Field(
        None, description="Tokens per minute of one key. If absent: as the provider reports, for each model."
    )
    precision: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")] | None = Field(
        None,
        description="Precision of the weights at this provider: `f32`, `f16`, `bf16`, or a quantisation such as "
        "`fp8`, `int8` or `q4_k_m`. Only vectors of one precision share the cache. If absent: as in the table.",
    )
    revision: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Name for what is served at this provider, in place of its address: cached vectors outlast a move "
        "to another `base_url` while it stays, and a new name makes all vectors of its models be computed anew. If "
        "absent: its address.",
    )
    names_freely: bool | None = Field(
        None,
        description="true takes answers that name another model than the one asked, for servers with names of their "
        "own; names of known models of another space are refused all the same. false refuses them, since they are how "
        "a wrong model shows. If absent: as in the table.",
    )
    batching: bool | None = Field(
        None,
        description="Adaptive batching: inputs of different requests may share a call while the provider is at "
        "max_parallel. If absent: on for local models, off for others.",
    )


class CatalogSettings(Section):
    """The model catalogue."""

    file: Path | None = Field(
        None, description="A catalogue file with further models, and overrides of prices and limits."
    )
    unpriced: Literal["refuse", "free"] = Field(
        "free",
        description="A model without a known price is refused, or costs nothing. Callers with a budget are refused in "
        "any case.",
    )
    max_aliases: Positive = Field(
        1_000,
        description="Aliases of models, of everybody and all projects together. One more is refused; every gateway "
        "holds all of them in memory.",
    )


class TransportSettings(Section):
    """Connections to providers."""

    connect_timeout_s: Seconds = Field(10.0, description="Timeout of opening a connection, DNS and TLS included.")
    max_reply_bytes: Positive = Field(
        256_000_000,
        description="Largest answer of a provider, in bytes after decompression. 2,048 vectors of 3,072 numbers are "
        "80 MB as decimals; too large lets a broken provider take that much memory per call.",
    )
    pool_idle_timeout_s: Seconds = Field(
        60.0,
        description="Seconds after which an idle connection is closed. Keep it below that of the provider's load "
        "balancer.",
    )
    pool_max_idle: Positive = Field(64, description="Idle connections in the pool, per provider.")


class LogSettings(Section):
    """Logging. Inputs, vectors and credentials are never logged."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is written.")
    format: Literal["text", "json"] = Field("text", description="One line per event, for people or for programs.")


class Settings(Section):
    """The settings tree."""

    server: ServerSettings = ServerSettings()
    keys: KeySettings = KeySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    storage: StorageSettings = StorageSettings()
    cache: CacheSettings = CacheSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    local: LocalSettings = LocalSettings()
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    catalog: CatalogSettings = CatalogSettings()
    transport: TransportSettings = TransportSettings()
    log: LogSettings = LogSettings()
