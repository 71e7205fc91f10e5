"""The documentation says what the code does: generated pages are fresh, and whatever a page names exists."""

import ast
import functools
import inspect
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import generate_docs
import msgspec
import pytest

from embedgate import config
from embedgate.catalog import Catalog
from embedgate.core import errors
from embedgate.core.actions import ACTIONS
from embedgate.core.errors import GatewayError
from embedgate.providers import hosts
from embedgate.providers.hosts import Host
from embedgate.settings import Settings
from embedgate.settings_reference import fields

ROOT = Path(__file__).parents[2]
OUTSIDE_DOCS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CONVENTIONS.md", "examples/README.md"]
PAGES = sorted([*(ROOT / name for name in OUTSIDE_DOCS), *(ROOT / "docs").rglob("*.md")])
HAND_WRITTEN = [page for page in PAGES if page.parent != generate_docs.FOLDER]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_VARIABLE = re.compile(r"EMBEDGATE_[A-Z0-9_<>]+")
_PROGRAM = re.compile(r"(?:^|[\s(;&])(?:\.venv/bin/)?embedgate( [^|;&#)\n]*)?(?=$|[|;&#)\n])", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return [code for found, code in _FENCE.findall(text_of(page)) if found == language]


def inline_codes(page: Path) -> list[str]:
    """What stands between single backquotes, on one line or broken over two."""
    return [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text_of(page)))]


def shell_lines(page: Path) -> list[str]:
    """Commands of a page: shell blocks with their continued lines joined, and inline code."""
    blocks = "\n".join(fences(page, "sh")).replace("\\\n", " ")
    return [*blocks.splitlines(), *inline_codes(page)]


def test_reference_pages_are_what_the_generator_writes() -> None:
    written = {page.name: text_of(page) for page in generate_docs.FOLDER.iterdir()}
    expected = generate_docs.pages()
    assert written.keys() == expected.keys()
    stale = [name for name, text in expected.items() if written[name] != text]
    assert stale == [], "run `make docs`"


def test_no_setting_is_missing() -> None:
    page = text_of(generate_docs.FOLDER / "settings.md")
    for info in fields():
        assert f"| `{info.path}` | `{generate_docs.variable(info.path)}` |" in page
        assert info.description in page or "<" in info.description


def test_no_setting_is_without_effect() -> None:
    source = ROOT / "src" / "embedgate"
    read = {
        node.attr
        for path in source.rglob("*.py")
        if path.parent.name != "settings"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert [info.path for info in fields() if info.path.rpartition(".")[2] not in read] == []


def test_no_error_is_missing() -> None:
    page = text_of(generate_docs.FOLDER / "errors.md")
    # Families are never raised themselves, GatewayRefused repeats to a client what a gateway has answered, and of
    # CallerLeft nobody is told.
    families = (GatewayError, errors.RequestError, errors.AccessError, errors.UpstreamError)
    unseen = (*families, errors.GatewayRefused, errors.CallerLeft)
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, GatewayError) and kind not in unseen:
            rows = [line for line in page.splitlines() if line.startswith((f"| {name} |", f"| {name} \\*"))]
            assert len(rows) == 1, name
            assert f"{kind.status} `" in rows[0]
            assert f"`{kind.code}`" in rows[0]


def test_no_model_and_no_provider_is_missing() -> None:
    models = text_of(generate_docs.FOLDER / "models.md")
    assert [model.id for model in Catalog.builtin().models() if f"`{model.id}`" not in models] == []
    providers = text_of(generate_docs.FOLDER / "providers.md")
    assert [name for name in {*hosts.load(), *Catalog.builtin().providers()} if f"`{name}`" not in providers] == []


def test_the_readme_counts_the_models() -> None:
    n = Counter(model.action for model in Catalog.builtin().models())
    kinds = [f"{n[name]} {name}" for name in ACTIONS]
    counted = f"{', '.join(kinds[:-1])} and {kinds[-1]} models"
    assert counted in text_of(ROOT / "README.md")


def test_no_command_is_missing() -> None:
    page = text_of(generate_docs.FOLDER / "commands.md")
    for command in generate_docs.commands():
        assert f"## {command.path}\n" in page
        assert command.help, f"{command.path} does not say what it does"
    assert {"embedgate serve", "embedgate keys create"} <= {command.path for command in generate_docs.commands()}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def is_setting(path: list[str]) -> bool:
    """Whether this is a setting, or a table of them. What stands for a name of one's own fits any."""
    for info in fields():
        known = info.path.split(".")
        pairs = list(zip(path, known, strict=False))
        if len(path) <= len(known) and all(part == other or "<" in part + other for part, other in pairs):
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_variables_exist(page: Path) -> None:
    known = {*config.SHORT_NAMES, *config.OF_COMMANDS}
    for name in _VARIABLE.findall(text_of(page)):
        path = name.removeprefix(config.PREFIX).lower().split("__")
        assert name in known or (len(path) > 1 and is_setting(path)), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_named_in_the_text_exist(page: Path) -> None:
    for code in inline_codes(page):
        section, dot, _ = code.partition(".")
        if dot and section in Settings.model_fields and re.fullmatch(r"[\w.<>-]+(?<!\.toml)(?<!\.lock)", code):
            assert is_setting(code.split(".")), code


@functools.cache
def known_commands() -> dict[str, generate_docs.Command]:
    """Every command of the program, by its path. Building them all takes 50 ms."""
    return {command.path: command for command in generate_docs.commands()}


def mistakes_in(line: str) -> Iterator[str]:
    """What is wrong with the calls of our program in one line of shell."""
    known = known_commands()
    for match in _PROGRAM.finditer(line):
        words = shlex.split(match.group(1) or "")
        path = generate_docs.PROGRAM
        while words and f"{path} {words[0]}" in known:
            path = f"{path} {words.pop(0)}"
        groups = [other for other in known if other.startswith(f"{path} ")]
        if groups and words and not words[0].startswith("-"):
            yield f"{path} has no command {words[0]}"
        given = {word.partition("=")[0] for word in words if re.match(r"--?\w", word)}
        yield from (f"{path} has no option {name}" for name in given - known[path].names)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_options_exist(page: Path) -> None:
    assert [mistake for line in shell_lines(page) for mistake in mistakes_in(line)] == []


def test_wrong_commands_would_be_found() -> None:
    wrong = [
        "embedgate fly",
        "embedgate serve --prot 1",
        ".venv/bin/embedgate keys make x",
        "a | embedgate embed --x",
    ]
    assert [len(list(mistakes_in(line))) for line in wrong] == [1, 1, 1, 1]
    right = ["embedgate --help", "embedgate serve --port 1", "X=1 embedgate keys create --user a --name b", "embedgate"]
    assert [mistake for line in right for mistake in mistakes_in(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    used = {target for line in shell_lines(page) for target in re.findall(r"(?:^|\s)make ([a-z]+)", line)}
    assert used <= targets


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=named)
def test_settings_and_catalogues_in_the_text_are_valid(page: Path, tmp_path: Path) -> None:
    for code in fences(page, "toml"):
        content = tomllib.loads(code)
        if "model" in content:
            file = tmp_path / "models.toml"
            file.write_text(code, encoding="utf-8")
            Catalog.load(file)
        elif "project" in content:
            assert content["project"]["entry-points"].keys() == {hosts.ENTRY_POINTS}
        elif page.name == "add-a-provider.md":
            msgspec.convert(content, dict[str, Host])
        else:
            Settings.model_validate(content)
