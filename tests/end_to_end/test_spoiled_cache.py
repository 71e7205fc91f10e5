"""Files of the cache that are cut short under a running gateway: it asks its provider anew, and goes on."""

import os
from pathlib import Path

import numpy as np

from running import gateway
from upstream import Upstream
from waiting import wait_until
from wire import call

MODEL = "openai/text-embedding-3-small"
TEXTS = [f"text {n}" for n in range(50)]


def test_a_gateway_outlives_the_truncation_of_every_file_of_its_cache(tmp_path: Path, far_side: Upstream) -> None:
    far_side.reset()
    config = f"""
        [providers.local]
        enabled = false
        [providers.openai]
        base_url = "{far_side.base_url}"
        [cache]
        memory_bytes = 0
    """
    with gateway(tmp_path, config, {"OPENAI_API_KEY": "sk-upstream"}) as running:

        def embed() -> str:
            body = {"model": MODEL, "input": TEXTS, "encoding_format": "float"}
            reply = call(running.url, "/v1/embeddings", body, {"x-api-key": running.key})
            assert reply.status == 200, reply.body
            vectors = np.array([item["embedding"] for item in reply.json["data"]], np.float32)
            np.testing.assert_allclose(vectors, [Upstream.vector(text, 1536) for text in TEXTS], atol=1e-5)
            return reply.headers["x-embedgate-cached-tokens"]

        def is_cached() -> bool:
            return embed() != "0"

        wait_until("the vectors are on disk", is_cached)
        for size in (0, 4096, 1):
            for path in sorted((tmp_path / "cache").rglob("*")):
                if path.is_file():
                    os.truncate(path, size)
            for _ in range(3):
                embed()
        assert running.terminate() == 0
