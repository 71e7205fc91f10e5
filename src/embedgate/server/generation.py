"""What one request cost and who served it, by its id: `GET /v1/generation?id=`, under the names of the ZenMux API.

Reads the ledger, whose entry is on disk before the answer to the request leaves: there is nothing to wait for.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from embedgate.core.actions import BY_POLICY_NAME
from embedgate.core.errors import MissingFields
from embedgate.core.money import usd_text
from embedgate.core.types import Dialect, LedgerEntry
from embedgate.govern.change import Actor
from embedgate.govern.entries import find_entry
from embedgate.govern.query import read_query
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.respond import Request
from embedgate.wiring import Gateway

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Dollars = Annotated[
    msgspec.Raw, Meta(description="Cost in dollars, exactly.", extra_json_schema={"type": "number", "minimum": 0})
]
"""An amount as a JSON number with all its digits: a float would round it."""


class GenerationQuery(Struct):
    """Which request."""

    id: Annotated[str, Meta(description="Its id: the header `x-request-id` of its answer.")] = ""


class CachedTokens(Struct, frozen=True):
    """Of the input tokens, those that were not computed for this request."""

    cached_tokens: int


class NativeTokens(Struct, frozen=True):
    """What the request weighed, in tokens of the model."""

    prompt_tokens: Annotated[int, Meta(description="Of the input, billed or reused.")]
    completion_tokens: Annotated[int, Meta(description="That a chat model wrote.")]
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Generation(Struct, frozen=True, rename="camel"):
    """What one request cost and who served it."""

    api: Annotated[str, Meta(description="`embeddings`, `chat.completions` or `rerank`.")]
    generation_id: Annotated[str, Meta(description="The id of the request.")]
    model: str
    create_at: Annotated[datetime, Meta(description="When the request came.")]
    generation_time: Annotated[int, Meta(description="Milliseconds at the provider, all calls together.")]
    latency: Annotated[int, Meta(description="Milliseconds in all.")]
    native_tokens: NativeTokens
    usage: Dollars
    provider: Annotated[str, Meta(description="The route that served it.")]
    upstream_model: Annotated[str, Meta(description="What the provider calls the model.")]
    action: Annotated[str, Meta(description="What policies call it: embedding, completion or rerank.")]
    dialect: Annotated[Dialect, Meta(description="The API that the request spoke.")]
    outcome: Annotated[str, Meta(description="`ok`, or the code of the error that it ended with.")]


class Generations:
    """The handler."""

    def __init__(self, gateway: Gateway) -> None:
        """gateway: whose ledger is read."""
        self._gateway = gateway

    async def show(self, request: Request) -> Answer:
        """One request of the caller's user; an administrator sees anybody's.

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

        entry = await asyncio.to_thread(find)
        return Answer(200, openai.headers(request.id), msgspec.json.encode(generation_of(entry)))


def generation_of(entry: LedgerEntry) -> Generation:
    """An entry of the ledger as it is answered."""
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
    """What the API calls the action of a ledger entry; an action that this version does not know keeps its name."""
    action = BY_POLICY_NAME.get(policy_name)
    return action.api_name if action else policy_name
