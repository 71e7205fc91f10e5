"""One answer, one vector space, whatever is changed in flight: aliases, models, providers, fallbacks."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from admin_calls import Api
from embedgate.core.vectors import Vectors
from embedgate.providers import fake
from forms import dice, scaled
from upstream import Answer, Upstream, running_upstream

DIM = 64
TEXTS = [f"text {number}" for number in range(150)]
MODELS = {"acme/a": "alpha", "acme/b": "beta"}
"""Each at a provider of its own, in a space of its own."""
ROAMING = "acme/c"
"""A model that is removed, and added again at either provider."""
ALIAS = "enc"


def other(item: str | tuple[int, ...], dim: int) -> Vectors:
    """The vector of a text at the second host."""
    return fake.vector(f"{item} elsewhere", dim)


@pytest.fixture
def hosts() -> Iterator[dict[str, Upstream]]:
    with running_upstream() as first, running_upstream() as second:
        first.dim = second.dim = DIM
        second.vector_of = other
        yield {"alpha": first, "beta": second}


def spaces_of(vectors: Vectors, texts: list[str]) -> set[str]:
    """The hosts whose vectors these are, of a text or more."""
    found = set()
    for text, vector in zip(texts, vectors, strict=True):
        is_first = np.allclose(vector, fake.vector(text, DIM), atol=1e-5)
        assert is_first or np.allclose(vector, other(text, DIM), atol=1e-5), text
        found.add("alpha" if is_first else "beta")
    return found


async def put_provider(api: Api, name: str, host: Upstream) -> None:
    body = {"base_url": host.base_url, "key": "sk-far-side-0123456789", "allow_private": True, "host": "nvidia"}
    await api("PUT", f"/api/providers/{name}", body)  # fifty texts a call, so that a request is several


async def add(api: Api, model: str, provider: str) -> None:
    body = {"model": model, "provider": provider, "dim": DIM, "max_tokens": 512, "usd_per_million_tokens": "1"}
    await api.reply("POST", "/api/models", body)


async def changes(api: Api, hosts: dict[str, Upstream], draw: random.Random, n: int) -> None:
    """Change what names mean, and which hosts work."""
    for _ in range(n):
        match draw.randrange(4):
            case 0:
                await api.reply("PUT", f"/api/aliases/{ALIAS}", {"model": draw.choice([*MODELS, ROAMING])})
            case 1:
                # At both providers at once, it would be declared to be of one space.
                await api.reply("DELETE", f"/api/models/{ROAMING.replace('/', '%2F')}")
                await add(api, ROAMING, draw.choice(list(hosts)))
            case 2:
                host = hosts[draw.choice(list(hosts))]
                host.usually(Answer(status=503) if draw.random() < 0.5 else Answer())
            case _:
                await api.reply("POST", "/api/cache/clear")
        await asyncio.sleep(0)


async def asks(api: Api, draw: random.Random, answered: list[str]) -> None:
    """One request, whose answer is of one space: that of the model that it names."""
    start = draw.randrange(len(TEXTS) - 20)
    texts = TEXTS[start : start + draw.choice([1, 20, 90])]
    body: dict[str, Any] = {"model": draw.choice([*MODELS, ALIAS, ROAMING]), "input": texts}
    if draw.random() < 0.4:
        body |= {"fallback_model": draw.choice([*MODELS, ALIAS, ROAMING]), "allow_space_change": draw.random() < 0.8}
    reply = await api.reply("POST", "/v1/embeddings", {**body, "encoding_format": "float"})
    assert reply.status in {200, 400, 404, 409, 429, 502, 503}, reply.body
    if reply.status != 200:
        return
    vectors = np.array([item["embedding"] for item in reply.json["data"]], np.float32)
    found = spaces_of(vectors, texts)
    assert len(found) == 1, (body["model"], reply.json["model"])
    (space,) = found
    model = reply.json["model"]
    assert MODELS.get(model, space) == space, (body, model)
    answered.append(model)


@pytest.mark.hostile
async def test_no_answer_mixes_two_spaces_whatever_is_changed_meanwhile(
    api: Api, user_api: Api, hosts: dict[str, Upstream]
) -> None:
    draw = dice("one space")
    for name, host in hosts.items():
        await put_provider(api, name, host)
    for model, provider in MODELS.items():
        await add(api, model, provider)
    await add(api, ROAMING, "alpha")
    await api("PUT", f"/api/aliases/{ALIAS}", {"model": "acme/a"})
    answered: list[str] = []
    for _ in range(scaled(8, 300)):
        requests = [asks(user_api, random.Random(draw.random()), answered) for _ in range(6)]
        await asyncio.gather(changes(api, hosts, draw, 3), *requests)
    assert {*MODELS, ROAMING} <= set(answered)
