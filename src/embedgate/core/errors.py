"""Error tree: every error that embedgate raises on purpose. Mapping to HTTP or an exit code happens elsewhere.

    GatewayError                     code, status, may_retry, may_reroute
      RequestError                   the caller can correct it
        InvalidInput  InputTooLong  TooManyTokens  InvalidDimension  UnsupportedOption  MalformedRequest
        MissingFields  UnknownModel  UnknownProvider  ModelNotAtProvider  ProviderKeyMissing  SpaceChange
        NotAnEmbeddingModel  WrongAction  BodyTooLarge  BodyTooSlow  PriceUnknown  IdempotencyKeyReused
        AnswerNotKept  UnknownEntity  Conflict  InvalidPolicy  NotFound  MethodNotAllowed  UnsupportedEncoding
      AccessError                    rights and limits
        MissingKey  MalformedKey  UnknownKey  RevokedKey  InvalidCredentials  NotPermitted
        RateLimited  BudgetExhausted  Overloaded  LedgerUnavailable  RequestInProgress  CallerLeft
      UpstreamError                  the far side of a provider call
        UpstreamRejected  UpstreamBusy  UpstreamFailed  UpstreamTimeout  UpstreamGarbled  UpstreamDenied  UpstreamLost
        UpstreamMisconfigured  UpstreamLimited  UpstreamQueueFull  UpstreamTooLarge  UpstreamNotAsked  UpstreamMismatch
      InternalError                  our own fault; only an id leaves the process
        DependencyMissing
      GatewayRefused                 another gateway's answer, raised by the client
    ConfigError                      at start-up only

A class fixes five facts: a stable `code`, the HTTP `status` of the OpenAI dialect, whether the same call may
be tried again (`may_retry`), whether another route may be tried (`may_reroute`), and whether a provider may bill the
call that failed so (`may_be_billed`): it was sent, and no bill came back. Such a call is charged by estimate. A message
gives the value seen, the value allowed and the next step; never a key, an input or a vector.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:  # every command loads the errors, and these records take as long as all else that `--help` needs
    from embedgate.core.access import PolicyMistake, Rate

NOT_SENT = "not sent"
"""Message of a CancelledError raised before the provider was called, so that nothing is billed."""

MAX_MESSAGE_CHARACTERS = 4_000
"""Of a message: more is cut. It may quote a provider, and goes into answers and logs."""


class GatewayError(Exception):
    """Base of all errors that a request can end with.

    Code, status and retry facts belong to the class, except those of GatewayRefused.
    """

    code: str = "internal_error"
    status: int = 500
    may_retry: bool = False
    may_reroute: ClassVar[bool] = False
    may_be_billed: bool = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        """message: for the caller. param: the field at fault. retry_after_s: how long to wait before a retry."""
        if len(message) > MAX_MESSAGE_CHARACTERS:
            message = f"{message[:MAX_MESSAGE_CHARACTERS]}…"
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.rate: Rate | None = None
        """Rate-limit state of the caller, for response headers; None without limits."""
        self.is_charged = False
        """Whether the request that ended with it cost something all the same."""


class RequestError(GatewayError):
    """The request is wrong and the caller can correct it."""

    code = "invalid_request"
    status = 400


class MalformedRequest(RequestError):
    """The body is not the JSON object that the route takes."""

    code = "invalid_request"


class MissingFields(RequestError):
    """A required field is absent."""

    code = "missing_fields"


class InvalidInput(RequestError):
    """The `input` field is of the wrong type, empty, or has an item that cannot be embedded."""

    code = "invalid_input"

    def __init__(self, reason: str, *, index: int | None = None, param: str = "input") -> None:
        """index: position of the faulty item in the sequence that was passed in; it starts the message."""
        super().__init__(reason if index is None else f"input[{index}] {reason}", param=param)
        self.reason = reason
        self.index = index

    def at(self, index: int) -> Self:
        """The same error for another position: batches count within themselves, callers within their request."""
        return type(self)(self.reason, index=index)


class InputTooLong(InvalidInput):
    """One input has more tokens than the model takes."""

    code = "context_length_exceeded"

    @classmethod
    def measured(cls, index: int, tokens: int, max_tokens: int, *, can_cut: bool = True) -> Self:
        """The error for an input of `tokens` tokens where `max_tokens` are allowed. can_cut: if a route can cut it."""
        advice = 'Shorten it, split it, or send "truncate": "end".' if can_cut else "Shorten it or split it."
        reason = f"has {tokens} tokens; this model's maximum context length is {max_tokens} tokens. {advice}"
        return cls(reason, index=index)


class TooManyTokens(RequestError):
    """All inputs together have more tokens than one request may carry."""

    code = "max_tokens_per_request"


class InvalidDimension(RequestError):
    """The model has no vectors of the requested size."""

    code = "invalid_dimensions"


class UnsupportedOption(RequestError):
    """The model or its routes do not support a requested option."""

    code = "unsupported_option"


class UnknownModel(RequestError):
    """No model of that name is known or enabled."""

    code = "model_not_found"
    status = 404


class UnknownProvider(RequestError):
    """No provider of that name."""

    code = "provider_not_found"
    status = 404


class ModelNotAtProvider(RequestError):
    """The provider exists but does not serve that model."""

    code = "model_not_supported"
    status = 404


class ProviderKeyMissing(RequestError):
    """The model is known, but no provider that serves it is enabled."""

    code = "model_not_found"
    status = 404


class NotAnEmbeddingModel(RequestError):
    """The model exists but does not produce embeddings. The message names one that does."""

    code = "model_not_embedding"


class WrongAction(RequestError):
    """The model exists but does not support this action: chat completion or rerank."""

    code = "model_wrong_action"


class PriceUnknown(RequestError):
    """A budget applies to the caller, and no route of the model has a known price. The message says which to set."""

    code = "price_unknown"


class IdempotencyKeyReused(RequestError):
    """The idempotency key came before, with another request."""

    code = "idempotency_key_reused"
    status = 422


class AnswerNotKept(RequestError):
    """The request with this idempotency key was answered, and its answer is not kept: a stream, or too large."""

    code = "idempotency_answer_not_kept"
    status = 409


class BodyTooLarge(RequestError):
    """The request body exceeds the size limit."""

    code = "body_too_large"
    status = 413


class BodyTooSlow(RequestError):
    """The request body did not arrive within its deadline."""

    code = "request_timeout"
    status = 408


class UnsupportedEncoding(RequestError):
    """The request body is compressed in a way that is not decoded here."""

    code = "unsupported_encoding"
    status = 415


class UnknownEntity(RequestError):
    """No user, key, project, role or rule of that name or id."""

    code = "unknown_entity"
    status = 404


class Conflict(RequestError):
    """The change conflicts with existing data: the name is taken, or something still depends on it."""

    code = "conflict"
    status = 409


class SpaceChange(Conflict):
    """A name would stand for a model of another vector space; send `allow_space_change` if that is meant."""

    code = "space_change"


class InvalidPolicy(RequestError):
    """The text is not a valid policy. `mistakes` lists everything wrong with it."""

    code = "invalid_policy"

    def __init__(self, mistakes: "Sequence[PolicyMistake]") -> None:
        """mistakes: at least one; the message gives the place of each."""
        super().__init__(f"The policy cannot be saved: {'; '.join(map(str, mistakes))}.", param="text")
        self.mistakes = tuple(mistakes)


class NotFound(RequestError):
    """No such route."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """The route exists, but not for that method. `allowed` lists its methods."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        """allowed: HTTP methods of the route."""
        super().__init__(message)
        self.allowed = tuple(allowed)


class AccessError(GatewayError):
    """The caller lacks the right, or has reached a limit."""

    code = "permission_denied"
    status = 403


class MissingKey(AccessError):
    """No credential came with the request."""

    code = "invalid_api_key"
    status = 401


class MalformedKey(AccessError):
    """The credential does not have the form of a key."""

    code = "invalid_api_key"
    status = 401


class UnknownKey(AccessError):
    """The credential is well formed, but no such key exists."""

    code = "invalid_api_key"
    status = 401


class RevokedKey(AccessError):
    """The key was revoked, or its user disabled."""

    code = "invalid_api_key"
    status = 401


class InvalidCredentials(AccessError):
    """The name or password is wrong, or the login has expired."""

    code = "invalid_credentials"
    status = 401


class NotPermitted(AccessError):
    """A policy forbids it, or none permits it. `policies` are those that forbid."""

    def __init__(self, message: str, *, policies: Sequence[str] = ()) -> None:
        """policies: ids."""
        super().__init__(message)
        self.policies = tuple(policies)


class RateLimited(AccessError):
    """A rate limit, of requests or tokens per minute, is reached."""

    code = "rate_limit_exceeded"
    status = 429


class BudgetExhausted(AccessError):
    """The request could cost more than what is left of the budget."""

    code = "insufficient_quota"
    status = 402


class Overloaded(AccessError):
    """The gateway is at its concurrency limit and its queue is full."""

    code = "overloaded"
    status = 503


class LedgerUnavailable(Overloaded):
    """The ledger cannot be written, so nothing is sent that may have to be paid for."""

    code = "ledger_unavailable"


class RequestInProgress(AccessError):
    """A request with this idempotency key is in progress."""

    code = "idempotency_in_progress"
    status = 409


class CallerLeft(AccessError):
    """The caller closed the connection before the answer was complete. Recorded in the ledger only."""

    code = "cancelled"
    status = 499


class UpstreamError(GatewayError):
    """A provider call failed."""

    code = "upstream_error"
    status = 502
    may_reroute = True


class UpstreamRejected(UpstreamError):
    """The provider rejected what the caller sent, who has to correct it; the same call cannot succeed there."""

    code = "upstream_rejected"
    status = 400


class UpstreamTooLarge(UpstreamRejected):
    """The call exceeds the provider's limit of inputs or tokens; each half of it may succeed."""


class UpstreamMisconfigured(UpstreamRejected):
    """The provider does not know the address, the model or the kind of call that it is configured for."""

    code = UpstreamError.code
    status = UpstreamError.status


class UpstreamDenied(UpstreamError):
    """The provider refused the gateway's credential, or its account has no credit left."""


class UpstreamBusy(UpstreamError):
    """The provider rate-limits the gateway or is overloaded."""

    may_retry = True


class UpstreamLimited(UpstreamBusy):
    """The limits of the gateway's credential leave no room for the call; the provider was not called."""


class UpstreamQueueFull(UpstreamLimited):
    """Too many calls wait for a place at the provider already; it was not called.

    A request that no other route serves ends with `Overloaded`.
    """


class UpstreamFailed(UpstreamError):
    """The provider, or the connection to it, failed: it answered with an error, or could not be asked.

    An error that a proxy in front of the host gives in its place leaves open what the host did: it `may_be_billed`.
    """

    may_retry = True


class UpstreamLost(UpstreamFailed):
    """The call was sent, and its connection ended before a whole answer came."""

    may_be_billed = True


class UpstreamTimeout(UpstreamError):
    """The provider did not answer within the deadline of the request, or of the call.

    `names_limit`: the message says which setting gave the call its time.
    """

    code = "upstream_timeout"
    status = 504
    names_limit = False
    may_be_billed = True


class UpstreamNotAsked(UpstreamTimeout):
    """The deadline passed before the provider was called."""

    may_be_billed = False


class UpstreamGarbled(UpstreamError):
    """The provider's answer is invalid: wrong count, order, size, numbers or shape.

    `billed_tokens` are those that the invalid answer reports as used, and that will be billed; 0 where it reports none.
    """

    may_retry = True
    may_be_billed = True
    billed_tokens = 0


class UpstreamMismatch(UpstreamGarbled):
    """The provider's answer can be read, but does not fit the call: another size, count, model or form.

    The same call would be answered in the same way, and billed again, so it is not repeated there.
    """

    may_retry = False


class InternalError(GatewayError):
    """Internal fault of the gateway. The message is for the log; callers get an id."""


class DependencyMissing(InternalError):
    """An optional dependency is not installed. The message names the extra that brings it."""

    code = "dependency_missing"


class GatewayRefused(GatewayError):
    """A gateway answered its client with an error. Its code, status and retry facts come from that answer.

    status: of HTTP. code: from the body, `http_<status>` if there is none. request_id: to be found in the
    gateway's log. retry_after_s: the wait that the gateway asks for, if any.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        may_retry: bool = False,
    ) -> None:
        """message: as the gateway sent it."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.may_retry = may_retry

    def __str__(self) -> str:
        """The message, and the request id to give to the gateway's operator."""
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.status} {self.code}{request})"


class ConfigError(Exception):
    """The settings are wrong. Carries every mistake found, one line each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        """mistakes: one sentence each, naming the setting, the value seen and what is allowed."""
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)
