"""The toolkit: what people do with embeddings, as typed calls. Each name is imported when it is first used.

Calls that embed take an `Embedder`: the client of a gateway, the embedded model, or one of your own. Those that analyse
take vectors, so that texts are embedded once.
"""

from typing import TYPE_CHECKING

from embedgate.core.lazy import imported_on_use

if TYPE_CHECKING:
    from embedgate.toolkit.classification import Classification, Label, by_examples, classify, described
    from embedgate.toolkit.cleaning import Cleaning, Report, clean, clean_records
    from embedgate.toolkit.clustering import Cluster, Clustering, cluster
    from embedgate.toolkit.collections.adding import Added
    from embedgate.toolkit.collections.answers import Answer, retrieve
    from embedgate.toolkit.collections.collection import Collection, Found
    from embedgate.toolkit.collections.reindexing import Reindexing, roll_back
    from embedgate.toolkit.collections.shelves import Collections
    from embedgate.toolkit.duplicates import Duplicates, find_duplicates
    from embedgate.toolkit.embedders import ClientEmbedder, FakeEmbedder, LocalEmbedder, OpenAIEmbedder
    from embedgate.toolkit.embedding import LeftOut, Part, embed_all, embed_in_parts
    from embedgate.toolkit.evaluation import Evaluation, Setting, Source, evaluate
    from embedgate.toolkit.map_page import colourings, map_html, map_png
    from embedgate.toolkit.mapping import Map, make_map, map_table, nearest_neighbours
    from embedgate.toolkit.outliers import Outliers, find_outliers
    from embedgate.toolkit.reading import Reading, read_file, read_files, read_folder
    from embedgate.toolkit.records import Origin, Record
    from embedgate.toolkit.scores import Scores, score
    from embedgate.toolkit.splitting import Piece, Splitter
    from embedgate.toolkit.verdicts import conclusions, curve_png
    from embedgate.toolkit.writing import write_rows, write_vectors

__all__ = [
    "Added",
    "Answer",
    "Classification",
    "Cleaning",
    "ClientEmbedder",
    "Cluster",
    "Clustering",
    "Collection",
    "Collections",
    "Duplicates",
    "Evaluation",
    "FakeEmbedder",
    "Found",
    "Label",
    "LeftOut",
    "LocalEmbedder",
    "Map",
    "OpenAIEmbedder",
    "Origin",
    "Outliers",
    "Part",
    "Piece",
    "Reading",
    "Record",
    "Reindexing",
    "Report",
    "Scores",
    "Setting",
    "Source",
    "Splitter",
    "by_examples",
    "classify",
    "clean",
    "clean_records",
    "cluster",
    "colourings",
    "conclusions",
    "curve_png",
    "described",
    "embed_all",
    "embed_in_parts",
    "evaluate",
    "find_duplicates",
    "find_outliers",
    "make_map",
    "map_html",
    "map_png",
    "map_table",
    "nearest_neighbours",
    "read_file",
    "read_files",
    "read_folder",
    "retrieve",
    "roll_back",
    "score",
    "write_rows",
    "write_vectors",
]

_HOMES = {
    "Added": "collections.adding",
    "Answer": "collections.answers",
    "Classification": "classification",
    "Cleaning": "cleaning",
    "ClientEmbedder": "embedders",
    "Cluster": "clustering",
    "Clustering": "clustering",
    "Collection": "collections.collection",
    "Collections": "collections.shelves",
    "Duplicates": "duplicates",
    "Evaluation": "evaluation",
    "FakeEmbedder": "embedders",
    "Found": "collections.collection",
    "Label": "classification",
    "LeftOut": "embedding",
    "LocalEmbedder": "embedders",
    "Map": "mapping",
    "OpenAIEmbedder": "embedders",
    "Origin": "records",
    "Outliers": "outliers",
    "Part": "embedding",
    "Piece": "splitting",
    "Reading": "reading",
    "Record": "records",
    "Reindexing": "collections.reindexing",
    "Report": "cleaning",
    "Scores": "scores",
    "Setting": "evaluation",
    "Source": "evaluation",
    "Splitter": "splitting",
    "by_examples": "classification",
    "classify": "classification",
    "clean": "cleaning",
    "clean_records": "cleaning",
    "cluster": "clustering",
    "colourings": "map_page",
    "conclusions": "verdicts",
    "curve_png": "verdicts",
    "described": "classification",
    "embed_all": "embedding",
    "embed_in_parts": "embedding",
    "evaluate": "evaluation",
    "find_duplicates": "duplicates",
    "find_outliers": "outliers",
    "make_map": "mapping",
    "map_html": "map_page",
    "map_png": "map_page",
    "map_table": "mapping",
    "nearest_neighbours": "mapping",
    "read_file": "reading",
    "read_files": "reading",
    "read_folder": "reading",
    "retrieve": "collections.answers",
    "roll_back": "collections.reindexing",
    "score": "scores",
    "write_rows": "writing",
    "write_vectors": "writing",
}

if not TYPE_CHECKING:
    __getattr__ = imported_on_use(__name__, {name: f"embedgate.toolkit.{module}" for name, module in _HOMES.items()})
