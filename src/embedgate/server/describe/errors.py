"""Errors in the OpenAPI document: one sample of each, and the dialects' answers to it.

Statuses, codes, headers and example bodies are taken from those answers, so that they cannot drift from the code.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from embedgate.core import errors
from embedgate.core.access import PolicyMistake, Rate
from embedgate.core.errors import GatewayError
from embedgate.core.models import Model
from embedgate.server.answer import Answer
from embedgate.server.fields import ENCODING_FORMATS
from embedgate.settings import Settings

Json = dict[str, object]

REQUEST_ID = "req_4f1d2c3b5a6978807f6e5d4c3b2a1908"
"""The request id of every example."""
EXAMPLE_RATE = Rate(60, 58, 2.0, 100_000, 98_500, 0.9)
"""Of a caller with limits, who gets every header that tells of them."""
_RESET_AT = "2026-01-01T00:00:30.000Z"
"""`resetAt` of every example: a dialect reads the clock for it, and the document shall not change with the time."""


def error_samples(settings: Settings, model: Model) -> tuple[GatewayError, ...]:
    """A realistic instance of each error that a caller can get. model: the one in the messages."""
    samples = (*_of_access(settings.keys.prefix), *_of_requests(settings, model), *_of_upstream())
    for sample in samples:
        sample.rate = EXAMPLE_RATE
    return samples


def _of_access(prefix: str) -> tuple[GatewayError, ...]:
    return (
        errors.UnsupportedEncoding("content-encoding is br; gzip and deflate are decoded here."),
        errors.MissingKey("No API key came with the request. Send it as `Authorization: Bearer <key>`."),
        errors.MalformedKey(
            "The API key does not have the form of a key. Keys of this gateway are "
            f"`{prefix}_` and 32 hexadecimal digits."
        ),
        errors.UnknownKey("The API key is not known here. Check it, or ask your administrator for one."),
        errors.RevokedKey("The API key was revoked or its user disabled. Ask your administrator for a new one."),
        errors.InvalidCredentials("The name or the password is wrong."),
        errors.NotPermitted("A policy forbids this model to this key."),
        errors.BudgetExhausted("The request may cost 0.0002 dollars; 0.0001 are left of the budget."),
        errors.RateLimited("60 requests per minute are allowed. Try again in 12 seconds.", retry_after_s=12),
        errors.Overloaded("No place is free for the request right now. Try again.", retry_after_s=1),
        errors.RequestInProgress("A request with this Idempotency-Key is in progress.", retry_after_s=1),
        errors.LedgerUnavailable("The ledger cannot be written right now. Try again.", retry_after_s=5),
    )


def _of_requests(settings: Settings, model: Model) -> tuple[GatewayError, ...]:
    max_tokens, max_body_bytes = settings.limits.max_tokens, settings.server.max_body_bytes
    sizes = model.dims.describe() if model.dims else "one size"
    return (
        errors.MissingFields("input is required: a text or a list of texts.", param="input"),
        errors.MalformedRequest("dimensions must be a whole number; Expected `int`, got `str`.", param="dimensions"),
        errors.InvalidInput("is empty; every input needs at least one character or token.", index=3),
        errors.InputTooLong.measured(0, model.max_input_tokens + 99, model.max_input_tokens),
        errors.TooManyTokens(
            f"The inputs have {max_tokens + 1204} tokens together; at most {max_tokens} are allowed in "
            "one request. Send them in several requests.",
            param="input",
        ),
        errors.InvalidDimension(
            f"dimensions is 0; {model.id} makes vectors of {sizes}. Leave dimensions out for its own size.",
            param="dimensions",
        ),
        errors.UnsupportedOption(
            f"encoding_format is 'hex'; it can be {' or '.join(ENCODING_FORMATS)}.", param="encoding_format"
        ),
        errors.NotAnEmbeddingModel(
            f"Model gpt-4o does not support embedding action. Use {model.id} instead.", param="model"
        ),
        errors.WrongAction(
            f"Model {model.id} does not support completion action. See GET /v1/models for models that do.",
            param="model",
        ),
        errors.UnknownModel(
            f"The model 'no/such' does not exist here. Use {model.id}, or see GET /v1/models.", param="model"
        ),
        errors.UnknownProvider("There is no provider 'nowhere' here.", param="provider"),
        errors.ModelNotAtProvider("Model text-embedding-3-small is not served by local.", param="model"),
        errors.ProviderKeyMissing(
            "openai/text-embedding-3-small is known, but no provider that serves it is switched on: "
            "set OPENAI_API_KEY for openai.",
            param="model",
        ),
        errors.PriceUnknown(
            "acme/embed at acme has no known price, and a budget applies to this caller. Ask an administrator to "
            "set it, 0 if nothing is billed: embedgate prices set acme/embed acme <dollars per million input tokens>.",
            param="model",
        ),
        errors.IdempotencyKeyReused("This Idempotency-Key came before with another request.", param="Idempotency-Key"),
        errors.AnswerNotKept("The request with this Idempotency-Key was answered by a stream."),
        errors.BodyTooSlow(
            f"The body did not arrive within {settings.server.body_timeout_s:g} seconds; "
            "send it faster or in smaller requests."
        ),
        errors.BodyTooLarge(
            f"The body has {max_body_bytes + 1} bytes or more; at most "
            f"{max_body_bytes} are taken. Send fewer inputs per request."
        ),
        errors.UnknownEntity("There is no user 'alice'. List the users to see their names and ids."),
        errors.Conflict("There is already a user named 'alice'. Choose another name.", param="name"),
        errors.SpaceChange("house stands for vectors of another space; send allow_space_change if that is meant."),
        errors.InvalidPolicy([PolicyMistake("unexpected end of input", 3, 1)]),
        errors.NotFound("There is no route /v2/embeddings. /docs lists those there are."),
        errors.MethodNotAllowed("/v1/embeddings takes POST, not GET.", allowed=("POST",)),
    )


def _of_upstream() -> tuple[GatewayError, ...]:
    """Samples of upstream and internal errors."""
    return (
        errors.UpstreamRejected("openai refused the call: this model does not take dimensions."),
        errors.UpstreamTooLarge("openai takes fewer tokens in one call than this input has."),
        errors.UpstreamMisconfigured("openai refused the call (status 404): The model does not exist."),
        errors.UpstreamDenied("openai refused the credential of this gateway."),
        errors.UpstreamBusy("openai limits the rate of calls.", retry_after_s=5),
        errors.UpstreamLimited(
            "The limits of the account openai leave no room for this call for 5 s.", retry_after_s=5
        ),
        errors.UpstreamQueueFull("10000 calls with 4000000 bytes wait for openai already", retry_after_s=1),
        errors.UpstreamFailed("openai could not be reached."),
        errors.UpstreamLost("The connection to openai broke: connection closed before message completed"),
        errors.UpstreamTimeout("openai did not answer within the time of the request."),
        errors.UpstreamNotAsked("openai could not be asked within the call's time."),
        errors.UpstreamGarbled("openai for openai/text-embedding-3-small: a vector of zeros came back"),
        errors.UpstreamMismatch("openai for openai/text-embedding-3-small: 1 vectors came back for 2 inputs"),
        errors.InternalError("for the log only"),
        errors.DependencyMissing("for the log only"),
    )


@dataclass(frozen=True, slots=True)
class _Answered:
    """A sample, and a dialect's answer to it."""

    error: GatewayError
    status: int
    code: str
    type: str | None
    headers: tuple[str, ...]
    body: Json


class DialectErrors:
    """The errors of one dialect."""

    def __init__(
        self, write_error: Callable[[GatewayError, str], Answer], schema: str, samples: Iterable[GatewayError]
    ) -> None:
        """schema: name of the schema that every error body of the dialect has."""
        self._schema = schema
        self._answers = [_answered(error, write_error(error, REQUEST_ID)) for error in samples]

    def responses(
        self, *kinds: type[GatewayError], without: tuple[type[GatewayError], ...] = (), has_examples: bool = True
    ) -> dict[str, Json]:
        """Response objects by status for errors of these classes, subclasses included, in the order of statuses."""
        chosen = self._chosen(kinds, without)
        statuses = sorted({answered.status for answered in chosen})
        return {
            str(status): self._response([answered for answered in chosen if answered.status == status], has_examples)
            for status in statuses
        }

    def rows(self, *kinds: type[GatewayError], without: tuple[type[GatewayError], ...] = ()) -> list[Json]:
        """The error table: each status and code once, with all its meanings. kinds: as in `responses`, or all."""
        rows: dict[tuple[int, str], Json] = {}
        meanings: dict[tuple[int, str], list[str]] = {}
        chosen = self._chosen(kinds or (GatewayError,), without)
        for answered in sorted(chosen, key=lambda answered: (answered.status, answered.code)):
            key = (answered.status, answered.code)
            meanings.setdefault(key, []).append(_meaning(answered.error))
            named = {"type": answered.type} if answered.type else {}
            rows[key] = {"status": answered.status, **named, "code": answered.code, "meanings": meanings[key]}
        return list(rows.values())

    def codes(self) -> list[str]:
        """Every code, sorted."""
        return sorted({answered.code for answered in self._answers})

    def types(self) -> list[str]:
        """Every error type, sorted; none in a dialect without types."""
        return sorted({answered.type for answered in self._answers if answered.type})

    def _chosen(
        self, kinds: tuple[type[GatewayError], ...], without: tuple[type[GatewayError], ...]
    ) -> list[_Answered]:
        return [
            answered
            for answered in self._answers
            if isinstance(answered.error, kinds) and not isinstance(answered.error, without)
        ]

    def _response(self, chosen: list[_Answered], has_examples: bool) -> Json:
        *others, last = dict.fromkeys(f"`{answered.code}`" for answered in chosen)
        codes = f"{', '.join(others)} or {last}" if others else last
        examples = {
            type(answered.error).__name__: {"summary": _meaning(answered.error), "value": answered.body}
            for answered in chosen
        }
        content: Json = {"schema": {"$ref": f"#/components/schemas/{self._schema}"}}
        return {
            "description": f"Code {codes}.",
            "headers": header_references(name for answered in chosen for name in answered.headers),
            "content": {"application/json": {**content, "examples": examples} if has_examples else content},
        }


def header_references(names: Iterable[str]) -> Json:
    """References to the described headers of these names, each once; those of every HTTP answer are left out."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names) if name != "content-type"}


def header_names(answer: Answer) -> tuple[str, ...]:
    """The names of an answer's headers."""
    return tuple(name.decode() for name, _ in answer.headers)


def _answered(error: GatewayError, answer: Answer) -> _Answered:
    body = orjson.loads(answer.body)
    if "resetAt" in body:
        body["resetAt"] = _RESET_AT
    facts = body["error"] if isinstance(body.get("error"), dict) else body
    kind = facts.get("type") or facts.get("error_type")
    return _Answered(error, answer.status, facts["code"], kind, header_names(answer), body)


def _meaning(error: GatewayError) -> str:
    """The first sentence of the class's docstring; empty where the interpreter strips docstrings."""
    line = (inspect.getdoc(type(error)) or "").partition("\n")[0]
    return line.partition(". ")[0].rstrip(".") + "." if line else ""
