"""Markdown as plain text, for excerpts that people read in a terminal."""

from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token


def of_markdown(text: str) -> str:
    """The words of a Markdown text without its marks: headings, emphasis, addresses of links, lines of tables.

    Code stays, HTML goes. A heading ends with a colon. A part of a document that begins in the
    middle of a block is taken as it stands.
    """
    parser = MarkdownIt("commonmark").enable("table")
    return " ".join(part for part in _parts(parser.parse(text)) if part)


def _parts(tokens: Sequence[Token]) -> Iterator[str]:
    is_heading = False
    for token in tokens:
        if token.type in ("fence", "code_block"):
            yield token.content.strip()
        elif token.type == "inline":
            words = _without_bars("".join(_words(token.children or [])))
            yield f"{words}:" if is_heading and words[-1:].isalnum() else words
        is_heading = token.type == "heading_open"


def _words(children: Sequence[Token]) -> Iterator[str]:
    for child in children:
        if child.type in ("text", "code_inline", "image"):
            yield child.content
        elif child.type in ("softbreak", "hardbreak"):
            yield " "


def _without_bars(text: str) -> str:
    """Rows of a table whose head is in another part of the document, without the bars between their cells."""
    return " ".join(text.replace("|", " ").split()) if text.startswith("|") else text
