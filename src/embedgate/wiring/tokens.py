"""The tokenizer and the limit of a model, for commands that cut texts for it, without opening a gateway."""

from typing import NamedTuple

from embedgate.config import Loaded
from embedgate.core.errors import UnknownModel
from embedgate.core.ports import TokenCounter
from embedgate.inference.counters import KnownTokenizers
from embedgate.wiring.administration import decide_as_stored


class ModelTokens(NamedTuple):
    """A model's token counter, and the most tokens of a text, special tokens included."""

    model: str
    counter: TokenCounter
    max_tokens: int


def open_tokens(loaded: Loaded, name: str) -> ModelTokens:
    """Those of a model in the catalogue, whether or not it can be used. Raises UnknownModel, ConfigError."""
    decided = decide_as_stored(loaded)
    catalog = decided.catalog
    model = decided.find_model(catalog.parse_model_name(name)[0])
    if model is None or model.action != "embedding":
        near = catalog.close_matches(name, "embedding")
        hint = f" Did you mean {' or '.join(near)}?" if near else " See `embedgate models list`."
        raise UnknownModel(f"There is no embedding model {name!r} whose tokens could be counted.{hint}", param="model")
    counter = KnownTokenizers(decided.local_models, loaded.settings.local.cl100k_file).counter(model.routes[0])
    return ModelTokens(model.id, counter, model.max_input_tokens)
