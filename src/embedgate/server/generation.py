"""`GET /v1/generation?id=`: cost and route of one request, with the field names of the ZenMux API.

Reads the ledger, whose entry is on disk before the answer to the request is sent.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from embedgate.core.actions import ACTIONS, BY_POLICY_NAME, POLICY_NAMES
from embedgate.core.errors import MissingFields
from embedgate.core.money import usd_text
from embedgate.core.types import Dialect, LedgerEntry
from embedgate.govern.change import Actor
from embedgate.govern.entries import find_entry
from embedgate.govern.query import read_query
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.respond import Request
from embedgate.server.work_queue import WorkQueue
from embedgate.wiring import Gateway

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Dollars = Annotated[
    msgspec.Raw, Meta(description="Cost in dollars, exactly.", extra_json_schema={"type": "number", "minimum": 0})
]
"""An amount as a JSON number with all its digits: a float would round it."""


class GenerationQuery(Struct):
    """Query for one request."""

    id: Annotated[str, Meta(description="Its id: the header `x-request-id` of its answer.")] = ""


class CachedTokens(Struct, frozen=True):
    """Input tokens that were not computed for this request."""

    cached_tokens: int


class NativeTokens(Struct, frozen=True):
    """Token usage of the request."""

    prompt_tokens: Annotated[int, Meta(description="Input tokens, billed or reused.")]
    completion_tokens: Annotated[int, Meta(description="Output tokens of a chat model.")]
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Generation(Struct, frozen=True, rename="camel"):
    """Cost and route of one request."""

    api: Annotated[
        str, Meta(description="As in its path: " + ", ".join(f"`{action.api_name}`" for action in ACTIONS.values()))
    ]
    generation_id: Annotated[str, Meta(description="The id of the request.")]
    model: str
    create_at: Annotated[datetime, Meta(description="When the request arrived.")]
    generation_time: Annotated[int, Meta(description="Milliseconds at the provider, all calls together.")]
    latency: Annotated[int, Meta(description="Milliseconds in total.")]
    native_tokens: NativeTokens
    usage: Dollars
    provider: Annotated[str, Meta(description="The route that served it.")]
    upstream_model: Annotated[str, Meta(description="What the provider calls the model.")]
    action: Annotated[str, Meta(description=f"What policies call it: {POLICY_NAMES}.")]
    dialect: Annotated[Dialect, Meta(description="The dialect of the request.")]
    outcome: Annotated[str, Meta(description="`ok`, or the code of the error that it ended with.")]


class Generations:
    """The handler."""

    def __init__(self, gateway: Gateway, queue: WorkQueue) -> None:
        """gateway: whose ledger is read. queue: where it is."""
        self._gateway = gateway
        self._queue = queue

    async def show(self, request: Request) -> Answer:
        """Show one request of the caller's user; an administrator sees any.

        Raises MissingFields without an id, UnknownEntity for what is not in the ledger or another's, alike.
        """
        caller = await self._gateway.pipeline.identify(openai.secret(request.headers))
        request_id = read_query(request.query, GenerationQuery).id
        if not request_id:
            raise MissingFields("id is required: that of the header x-request-id of an answer.", param="id")
        invocation = self._gateway.invocation(Actor(caller.user_id, request.id))
        owner_id = None if caller.is_admin else caller.user_id

        def find() -> LedgerEntry:
            with invocation.read() as reading:
                return find_entry(reading, request_id, owner_id)

        with self._queue.place(caller.user_id):
            entry = await self._queue.run(find, request.demand)
        return Answer(200, openai.headers(request.id), msgspec.json.encode(generation_of(entry)))


def generation_of(entry: LedgerEntry) -> Generation:
    """The answer for a ledger entry."""
    prompt_tokens = entry.tokens + entry.reused_tokens
    return Generation(
        api=_api_name(entry.action),
        generation_id=entry.request_id,
        model=entry.model,
        create_at=_EPOCH + timedelta(milliseconds=entry.at_ms - round(entry.total_ms)),
        generation_time=round(entry.upstream_ms),
        latency=round(entry.total_ms),
        native_tokens=NativeTokens(
            prompt_tokens=prompt_tokens,
            completion_tokens=entry.output_tokens,
            total_tokens=prompt_tokens + entry.output_tokens,
            prompt_tokens_details=CachedTokens(entry.reused_tokens),
        ),
        usage=msgspec.Raw(usd_text(entry.cost_picodollars).encode()),
        provider=entry.provider,
        upstream_model=entry.upstream_model,
        action=entry.action,
        dialect=entry.dialect,
        outcome=entry.outcome,
    )


def _api_name(policy_name: str) -> str:
    """The API's name of a ledger entry's action; an unknown action keeps its name."""
    action = BY_POLICY_NAME.get(policy_name)
    return action.api_name if action else policy_name
