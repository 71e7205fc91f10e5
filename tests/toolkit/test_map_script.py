"""The script of a map, run by Node.js with a stub of a browser: it opens, shows texts as they are, and reacts."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedgate.core.vectors import normalise
from embedgate.toolkit.map_page import colourings, map_html, map_png
from embedgate.toolkit.mapping import make_map
from embedgate.toolkit.records import Origin, Record

N = 24
NODE = shutil.which("node")
STUB = Path(__file__).parent / "page_stub.js"
TOPICS = ["$a_{$", "_hidden", "日本語 🙂", "very long " * 20, ""]
RECORDS = [
    Record(f"r{at}", f"text {at} </script><b>&amp; ${{x}} \u2028", Origin("a.csv", at), at, {"2024": TOPICS[at % 5]})
    for at in range(N)
]
FOUND = make_map(normalise(np.random.default_rng(1).standard_normal((N, 8)).astype(np.float32)), layout="pca")


def shown_by(folder: Path, at: int) -> Any:
    """What the page shows while the text at that position is pointed to, clicked, searched and coloured anew."""
    colours = colourings(RECORDS, {"cluster": [f"<i>{number % 2}" for number in range(N)]})
    page = folder / "map.html"
    page.write_bytes(map_html(FOUND, RECORDS, colours, title="</title><b>", note="a & b"))
    assert NODE is not None
    ended = subprocess.run([NODE, str(STUB), str(page), str(at)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.mark.skipif(NODE is None, reason="Node.js runs the script")
def test_the_script_runs_and_shows_texts_as_they_are(tmp_path: Path) -> None:
    shown = shown_by(tmp_path, 3)
    text = RECORDS[3].text
    assert (shown["title"], shown["note"]) == ("</title><b>", "a & b")
    assert shown["colours"] == ["cluster", "2024"]  # what was given first stays first, whatever the column is called
    assert shown["legend"] == ["<i>012", "<i>112"]
    assert shown["tip"] == f"{text}r3 · cluster: <i>1 · 2024: {TOPICS[3]}"
    assert shown["chosen"].startswith(f"Chosen{text}r3 · ")
    nearest = [RECORDS[other] for other in FOUND.neighbours[3, :6]]
    cosines = [f"{cosine:.3f}" for cosine in FOUND.cosines[3, :6]]
    assert shown["near"] == [f"{how}  {each.text}" for how, each in zip(cosines, nearest, strict=True)]
    assert shown["next"].startswith(f"Chosen{nearest[0].text}")
    assert shown["search"] == "11 of 24 texts have “text 1”"
    assert shown["recoloured"][-1] == "(empty)4"


def test_a_picture_shows_any_text_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    values = [str(record.metadata["2024"]) for record in RECORDS]
    assert map_png(FOUND, values, title=r"$\frac{_x$")[:8] == b"\x89PNG\r\n\x1a\n"
    assert capfd.readouterr() == ("", "")
