"""Actions: the kinds of requests, and everything that differs between them outside their own rooms in the engine."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

ActionName = Literal["embedding", "chat", "rerank"]
PolicyAction = Literal["embedding", "completion", "rerank"]
Modality = Literal["embedding", "text", "score"]


class Action(Struct, frozen=True, kw_only=True):
    """One kind of request: embedding, completion or rerank.

    `name` is its name in the catalogue and `/v1/models`, `policy_name` that in policies, the ledger and the audit
    trail, `api_name` that in `/v1/generation`. `modality` is the output of its models, `makes` the same in words.
    `purpose` and `verb` are for messages: "a model for ...", "... the model". `has_default_model` says whether a model
    can be suggested when a request names no fitting one; `is_batched`, whether a host's limits of a batch apply to its
    models.
    """

    name: ActionName
    policy_name: PolicyAction
    api_name: str
    modality: Modality
    makes: str
    purpose: str
    verb: str
    has_default_model: bool = False
    is_batched: bool = False


EMBEDDING = Action(
    name="embedding",
    policy_name="embedding",
    api_name="embeddings",
    modality="embedding",
    makes="vectors",
    purpose="embeddings",
    verb="embedding with",
    has_default_model=True,
    is_batched=True,
)
CHAT = Action(
    name="chat",
    policy_name="completion",
    api_name="chat.completions",
    modality="text",
    makes="chat; no vectors",
    purpose="chat",
    verb="chat with",
)
RERANK = Action(
    name="rerank",
    policy_name="rerank",
    api_name="rerank",
    modality="score",
    makes="an order of documents; no vectors",
    purpose="reranking",
    verb="ranking with",
    is_batched=True,
)
ACTIONS: Mapping[ActionName, Action] = {action.name: action for action in (EMBEDDING, CHAT, RERANK)}
POLICY_NAMES = ", ".join(action.policy_name for action in ACTIONS.values())
"""Of all actions, for descriptions."""
BY_POLICY_NAME: Mapping[str, Action] = {action.policy_name: action for action in ACTIONS.values()}
