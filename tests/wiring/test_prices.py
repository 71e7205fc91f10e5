"""A price that an administrator sets counts before the catalogue's, and changes nothing else that a model costs."""

from pathlib import Path

from embedgate.config import Loaded, Secrets
from embedgate.core.access import PriceRule
from embedgate.core.models import Price
from embedgate.govern.selection import Stored, decide
from embedgate.settings import ProviderSettings, Settings, StorageSettings

MODEL = "openai/gpt-4o-mini"


def price_of(tmp_path: Path, *prices: PriceRule) -> Price | None:
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path), providers={"local": ProviderSettings(enabled=False)}
    )
    decided = decide(Loaded(settings, None, Secrets({"OPENAI_API_KEY": "sk-x"})), Stored(prices=prices))
    model = decided.catalog.find(MODEL)
    assert model is not None
    return model.routes[0].price


def test_the_price_of_output_and_of_cached_input_stays_what_the_catalogue_says(tmp_path: Path) -> None:
    listed = price_of(tmp_path)
    ours = price_of(tmp_path, PriceRule(MODEL, "openai", 7, 86_400_000))
    assert listed is not None
    assert ours is not None
    assert (ours.picodollars_per_token, ours.as_of, ours.source) == (7, "1970-01-02", "set by an administrator")
    assert ours.output_picodollars_per_token == listed.output_picodollars_per_token == 600_000
    assert ours.cached_input_picodollars_per_token == listed.cached_input_picodollars_per_token == 75_000


def test_the_price_of_a_search_stays_what_the_catalogue_says(tmp_path: Path) -> None:
    model, provider = "cohere/rerank-v3.5", "cohere"
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path), providers={"local": ProviderSettings(enabled=False)}
    )
    loaded = Loaded(settings, None, Secrets({"COHERE_API_KEY": "x"}))
    found = [
        decide(loaded, Stored(prices=prices)).catalog.find(model)
        for prices in ((), (PriceRule(model, provider, 7, 0),))
    ]
    listed, ours = (next(route.price for route in each.routes if route.provider == provider) for each in found if each)
    assert listed is not None
    assert ours is not None
    assert (ours.picodollars_per_token, ours.picodollars_per_search) == (7, listed.picodollars_per_search)
    assert ours.picodollars_per_search
