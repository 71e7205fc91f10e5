"""Maps: neighbours beside brute force, coordinates that are the same each time, a page that loads nothing."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit import mapping
from embedgate.toolkit.map_page import PALETTE, colourings, map_html, map_png
from embedgate.toolkit.mapping import make_map, map_table, nearest_neighbours
from embedgate.toolkit.records import Origin, Record

N = 60


def texts_in_groups(n: int = N) -> Vectors:
    random = np.random.default_rng(4)
    return (np.eye(12)[np.arange(n) % 3] + 0.2 * random.standard_normal((n, 12))).astype(np.float32)


RECORDS = [
    Record(f"r{at}", f"text {at} </script><b>", Origin("a.csv", at), at, {"topic": f"t{at % 3}", "n": at, "same": "x"})
    for at in range(N)
]


def test_neighbours_are_those_of_brute_force_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts_in_groups().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    monkeypatch.setattr(mapping, "_BLOCK", 7)
    nearest, cosines = nearest_neighbours(rows, 5)
    for at in range(N):
        expected = sorted((other for other in range(N) if other != at), key=lambda other: -(rows[at] @ rows[other]))[:5]
        assert nearest[at].tolist() == expected
        np.testing.assert_allclose(cosines[at], rows[expected] @ rows[at], atol=1e-9)


def test_principal_components_are_those_of_scikit_learn() -> None:
    vectors = texts_in_groups()
    found = make_map(vectors, layout="pca")
    rows = vectors.astype(np.float64)
    model = PCA(2, svd_solver="full").fit(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    reference = model.transform(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    np.testing.assert_allclose(abs(found.coordinates), abs(reference), atol=1e-9)
    assert found.explained == pytest.approx(model.explained_variance_ratio_.sum(), abs=1e-9)


def test_t_sne_keeps_neighbours_and_is_the_same_with_the_same_seed() -> None:
    vectors = texts_in_groups()
    found, again = make_map(vectors, seed=1), make_map(vectors, seed=1)
    np.testing.assert_array_equal(found.coordinates, again.coordinates)
    assert (found.layout, found.explained, found.neighbours.shape) == ("tsne", None, (N, 10))
    assert trustworthiness(vectors, found.coordinates, n_neighbors=10) > 0.85


def test_few_texts_are_laid_out_by_principal_components() -> None:
    found = make_map(np.eye(2, dtype=np.float32))
    assert (found.layout, found.neighbours.tolist()) == ("pca", [[1], [0]])
    assert make_map(np.array([[1.0], [-1.0]], dtype=np.float32)).coordinates.shape == (2, 2)


@pytest.mark.parametrize(
    ("vectors", "perplexity", "said"),
    [
        (np.ones((1, 3)), 30, "A map takes at least 2 texts; there is 1"),
        (np.ones((4, 3)), 30, "a map would be one point"),
        (np.eye(4), 0.5, "the least is 1"),
    ],
)
def test_what_cannot_be_mapped_is_refused(vectors: Vectors, perplexity: float, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_map(vectors, perplexity=perplexity)


class Sources(HTMLParser):
    """Collects whatever a page would load, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str | None] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def test_a_page_loads_nothing_and_cannot_be_broken_by_a_text() -> None:
    found = make_map(texts_in_groups(), layout="pca")
    page = map_html(
        found, RECORDS, colourings(RECORDS, {"cluster": [f"c{at % 2}" for at in range(N)]}), title="<b> & c"
    )
    seen = Sources()
    seen.feed(page.decode())
    assert seen.loaded == []
    assert seen.tags.count("script") == 2
    assert "b" not in seen.tags
    assert not re.search(rb"https?:|@import|url\(", page)
    assert b"default-src 'none'" in page
    data = json.loads(seen.scripts[0])
    assert data["texts"][7] == RECORDS[7].text
    assert list(data["columns"]) == ["cluster", "topic"]  # `n` differs in every text, `same` in none
    assert data["orders"]["topic"] == ["t0", "t1", "t2"]
    assert data["neighbours"][3] == found.neighbours[3, :6].tolist()
    np.testing.assert_allclose(data["x"], found.coordinates[:, 0], atol=1e-4)


def test_a_picture_has_a_size_and_is_the_same_each_time() -> None:
    found = make_map(texts_in_groups(), layout="pca")
    many = [str(at % (len(PALETTE) + 3)) for at in range(N)]
    picture = map_png(found, many, title="a title")
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture == map_png(found, many, title="a title")
    assert map_png(found) != picture


def test_a_table_has_coordinates_metadata_and_neighbours() -> None:
    from pyarrow import parquet

    found = make_map(texts_in_groups(), layout="pca", neighbours=4)
    sink = io.BytesIO()
    parquet.write_table(map_table(found, RECORDS, ["a", None] * (N // 2)), sink)
    table = parquet.read_table(sink)
    assert table.column_names == ["id", "text", "x", "y", "group", "topic", "n", "same", "neighbors"]
    row = table.to_pylist()[5]
    assert (row["id"], row["group"], row["topic"], row["n"]) == ("r5", None, "t2", 5)
    assert row["neighbors"]["ids"] == found.neighbours[5].tolist()
    assert row["neighbors"]["distances"] == pytest.approx(1 - found.cosines[5], abs=1e-12)
