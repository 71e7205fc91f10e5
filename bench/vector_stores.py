"""The embedded store of a collection beside usearch and LanceDB: adding ready vectors, exact and approximate search.

    python -m bench.vector_stores                                             100,000 vectors of 384, some minutes
    python -m bench.vector_stores --vectors 20000
    python -m bench.vector_stores --vectors 1000000 --engines approximate     twenty minutes and more

Each runs in a process of its own, on one core. Vectors have clusters, as those of texts have: random ones are the worst
case of every approximate index.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.collections.shelves import shelf_at
from embedgate.toolkit.collections.store import Facts, Item

DIM = 384
K = 10
N_QUERIES = 200
IN_A_PUT = 2_000
ENGINES = ("sqlite", "approximate", "usearch", "lancedb")


class Measured(NamedTuple):
    """Of one engine. CPU times say what it takes when others use the machine, too. recall: of the ten nearest."""

    add_s: float
    add_cpu_s: float
    first_ms: float
    p50_ms: float
    cpu_ms: float
    p99_ms: float
    recall: float
    disk_mb: float
    memory_mb: float


def made_vectors(n: int, seed: int) -> Vectors:
    """(n, 384) of unit length around a thousand centres."""
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((1_000, DIM)).astype(np.float32)
    noise = dice.standard_normal((n, DIM)).astype(np.float32)
    return normalise(centres[dice.integers(0, len(centres), n)] + noise)


def sqlite(folder: Path, vectors: Vectors) -> tuple[float, Callable[[Vectors], list[int]]]:
    """Our store, texts and keywords included."""
    return collection(folder, vectors, is_approximate=False)


def approximate(folder: Path, vectors: Vectors) -> tuple[float, Callable[[Vectors], list[int]]]:
    """The same with its approximate index, which is built after all vectors are there."""
    return collection(folder, vectors, is_approximate=True)


def collection(folder: Path, vectors: Vectors, *, is_approximate: bool) -> tuple[float, Callable[[Vectors], list[int]]]:
    """A collection as `embedgate index add` fills it, opened anew to be searched."""
    shelf = shelf_at(folder)
    store = shelf.create(Facts.of_new("c", "m", "s", DIM, None, is_approximate=is_approximate))
    start_s = time.perf_counter()
    for first in range(0, len(vectors), IN_A_PUT):
        numbers = range(first, min(first + IN_A_PUT, len(vectors)))
        items = [Item(str(n), f"text {n} of the collection, as long as a short sentence") for n in numbers]
        store.put(1, items, vectors[first : first + IN_A_PUT])
    store.optimize(1)
    add_s = time.perf_counter() - start_s
    store.close()
    opened = shelf.find("c")
    assert opened is not None
    return add_s, lambda query: [int(hit.id) for hit in opened.nearest(1, query, K)]


def usearch(folder: Path, vectors: Vectors) -> tuple[float, Callable[[Vectors], list[int]]]:
    """HNSW with its defaults, saved to a file."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="cos", dtype="f32")
    start_s = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors, threads=1)
    index.save(folder / "c.usearch")
    add_s = time.perf_counter() - start_s
    return add_s, lambda query: [int(key) for key in index.search(query, K).keys]


def lancedb(folder: Path, vectors: Vectors) -> tuple[float, Callable[[Vectors], list[int]]]:
    """A table without an index, which is searched exactly, as ours is."""
    import lancedb as lance
    import pyarrow as pa

    db = lance.connect(folder)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIM))])
    table = db.create_table("c", schema=schema)
    start_s = time.perf_counter()
    for first in range(0, len(vectors), IN_A_PUT):
        part = vectors[first : first + IN_A_PUT]
        numbers = range(first, first + len(part))
        texts = [f"text {n} of the collection, as long as a short sentence" for n in numbers]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM)
        table.add(pa.table([pa.array(numbers), pa.array(texts), flat], schema=schema))
    add_s = time.perf_counter() - start_s

    def search(query: Vectors) -> list[int]:
        builder: Any = table.search(query)
        found = builder.distance_type("cosine").select(["id"]).limit(K).to_arrow()
        return list(found["id"].to_pylist())

    return add_s, search


def measure(engine: str, n: int) -> Measured:
    """One engine in this process."""
    vectors, queries = made_vectors(n, 2), made_vectors(N_QUERIES, 3)
    # One by one: all scores of a million vectors at once would count as memory.
    nearest = np.stack([np.argpartition(-(vectors @ query), K)[:K] for query in queries])
    folder = Path(tempfile.mkdtemp(prefix="collections-"))
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start_cpu_s = time.process_time()
        add_s, search = {"sqlite": sqlite, "approximate": approximate, "usearch": usearch, "lancedb": lancedb}[engine](
            folder, vectors
        )
        add_cpu_s = time.process_time() - start_cpu_s
        start_s = time.perf_counter()
        search(queries[0])
        first_ms = (time.perf_counter() - start_s) * 1e3
        took, n_right = [], 0
        start_cpu_s = time.process_time()
        for query, expected in zip(queries, nearest, strict=True):
            start_s = time.perf_counter()
            found = search(query)
            took.append((time.perf_counter() - start_s) * 1e3)
            n_right += len({*found} & {*expected.tolist()})
        cpu_ms = (time.process_time() - start_cpu_s) * 1e3 / N_QUERIES
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    finally:
        shutil.rmtree(folder)
    p50, p99 = np.percentile(took, [50, 99])
    return Measured(add_s, add_cpu_s, first_ms, p50, cpu_ms, p99, n_right / (K * N_QUERIES), disk / 1e6, memory / 1e3)


def main() -> None:
    """Measure each engine in a process of its own, held to one core, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vectors", "--n", dest="n", type=int, default=100_000, help="how many vectors")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, help="only these")
    parser.add_argument("--engine", choices=ENGINES, help="this one in this process, as numbers")
    given = parser.parse_args()
    if given.engine:
        print(*measure(given.engine, given.n))
        return
    print(f"{given.n:,} vectors of {DIM}, {N_QUERIES} searches for {K}, one core\n")
    print(
        "| engine | add s | add CPU s | first search ms | p50 ms | CPU ms | p99 ms | recall@10 | disk MB | memory MB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for engine in given.engines or ENGINES:
        one_core = ["env", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "taskset", "-c", "0"]
        command = [*one_core, sys.executable, "-m", "bench.vector_stores"]
        ended = subprocess.run(
            [*command, "--n", str(given.n), "--engine", engine],
            check=True,
            capture_output=True,
            text=True,
        )
        result = Measured(*map(float, ended.stdout.split()))
        print(
            f"| {engine} | {result.add_s:.1f} | {result.add_cpu_s:.1f} | {result.first_ms:.0f} | {result.p50_ms:.1f} | "
            f"{result.cpu_ms:.1f} | {result.p99_ms:.1f} | "
            f"{result.recall:.3f} | {result.disk_mb:.0f} | {result.memory_mb:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
