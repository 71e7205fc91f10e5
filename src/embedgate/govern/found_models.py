"""What a provider's server says of its models, and what trying one has found out."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.actions import ActionName


class ModelThere(Struct, frozen=True):
    """A model that a server has."""

    name: Annotated[str, Meta(description="What the server calls it.")]
    id: Annotated[str, Meta(description="The id that it has here, or is proposed.")]
    is_served: Annotated[bool, Meta(description="Whether it can be asked for already.")]
    is_known: Annotated[bool, Meta(description="Whether the catalogue knows the model.")]
    action: Annotated[ActionName | None, Meta(description="What it is for; null: the server does not say.")] = None
    dim: Annotated[int | None, Meta(description="As the server says.")] = None
    max_tokens: Annotated[int | None, Meta(description="As the server says.")] = None


class ModelsThere(Struct, frozen=True):
    """The models of a provider's server, those that look like models for embeddings first."""

    provider: str
    models: tuple[ModelThere, ...]


class Probed(Struct, frozen=True):
    """What trying a model has found out. null: it could not be found out, as `notes` say."""

    name: str
    makes_vectors: bool
    dim: int | None
    is_normalised: bool | None
    is_matryoshka: bool | None
    max_tokens: int | None
    tokens: Annotated[int, Meta(description="What was spent on it, by the server's count.")]
    ms: float
    notes: tuple[str, ...]
