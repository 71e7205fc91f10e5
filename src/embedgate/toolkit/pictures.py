"""Pictures by matplotlib: figures, and their PNG, in which the texts of users stand as they are."""

import io
import warnings
from typing import Any

from embedgate.toolkit.libraries import library


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, without a window. Raises DependencyMissing."""
    figures = library("matplotlib.figure")
    library("matplotlib.backends.backend_agg")
    return figures.Figure(figsize=(width, height), dpi=120, layout="constrained")


def png_of(figure: Any) -> bytes:
    """The picture. A text with dollar signs is no formula; a letter that no font here has becomes a box."""
    for text in figure.findobj(library("matplotlib.text").Text):
        text.set_parse_math(False)
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
