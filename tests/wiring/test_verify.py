"""Which routes must give the same vectors: those of one model, and its twins in this process."""

from embedgate.core.models import DimRange, Model, Route
from embedgate.engine.routing.verify import comparable, same_vectors


def model(model_id: str, *providers: str, space: str) -> Model:
    dims = DimRange(8, 8, 8)
    routes = tuple(Route(provider, model_id, dims, 512, "unknown") for provider in providers)
    return Model(model_id, "embedding", routes, space=space, dims=dims)


def places(of: Model, usable: list[Model]) -> list[str]:
    return [f"{candidate.model.id} at {candidate.route.provider}" for candidate in same_vectors(of, usable)]


LARGE = model("voyage/large", "voyage", space="voyage/4")
LITE = model("voyage/lite", "voyage", space="voyage/4")
OPEN = model("open/encoder", "first", "second", space="open/encoder")
TWIN = model("local/encoder", "local", space="open/encoder")
ALONE = model("local/other", "local", space="local/other")
USABLE = [TWIN, LARGE, LITE, OPEN, ALONE]


def test_models_that_share_a_space_are_compared_only_with_a_local_one() -> None:
    assert places(LARGE, USABLE) == ["voyage/large at voyage"]
    everywhere = ["open/encoder at first", "open/encoder at second", "local/encoder at local"]
    assert places(OPEN, USABLE) == everywhere
    assert sorted(places(TWIN, USABLE)) == sorted(everywhere)
    assert places(OPEN, [LARGE]) == []


def test_every_set_of_routes_is_compared_once() -> None:
    assert comparable(USABLE) == [OPEN]
    assert comparable([TWIN, ALONE, LARGE]) == []
    second_twin = model("local/copy", "local", space="open/encoder")
    assert comparable([TWIN, second_twin]) == [TWIN]
