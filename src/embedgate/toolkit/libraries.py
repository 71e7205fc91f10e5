"""The libraries that the toolkit imports when they are used, and the extra that brings each."""

from types import ModuleType

from embedgate.inference.extras import import_extra

EXTRAS = {
    "ftfy": "toolkit",
    "lancedb": "lancedb",
    "matplotlib": "toolkit",
    "openTSNE": "toolkit",
    "pgvector": "pgvector",
    "psycopg": "pgvector",
    "pyarrow": "toolkit",
    "qdrant_client": "qdrant",
    "sklearn": "toolkit",
    "threadpoolctl": "toolkit",
    "usearch": "usearch",
}
"""Extra by the name that is imported."""


def library(module: str) -> ModuleType:
    """Import a library or one of its modules, such as `sklearn.cluster`.

    Raises DependencyMissing, which names the extra, if it is not installed.
    """
    return import_extra(module, EXTRAS[module.partition(".")[0]])
