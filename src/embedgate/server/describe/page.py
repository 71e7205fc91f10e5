"""HTML page of the OpenAPI document, self-contained.

Everything that comes out of the document is escaped on its way into the page.
"""

import html
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from embedgate.server.describe.reading import Document, MediaType, Operation, Response, Schema, Tag, read
from embedgate.server.describe.style import STYLE

_LINE = 88
"""Columns of an example before it is wrapped."""
_SHOWN_OPTIONS = 4
"""For longer enumerations, those of the error tables, the page gives the type only."""
_FIELD_HEADS = ("Name", "Type", "Required", "Meaning")
_KEY_HEADERS = {"bearer": "Authorization: Bearer $KEY", "apiKey": "X-API-Key: $KEY"}


@dataclass(frozen=True, slots=True)
class _PageOperation:
    """One operation at its main path, and its alias paths."""

    method: str
    path: str
    operation: Operation
    aliases: tuple[str, ...]


def page(document: bytes, port: int) -> bytes:
    """The page of an OpenAPI document in UTF-8. port: of the address in its examples."""
    return _Page(read(document), port).whole().encode()


class _Page:
    """Renderer of one page. Its methods return HTML."""

    def __init__(self, document: Document, port: int) -> None:
        self._document = document
        self._address = f"http://127.0.0.1:{port}"
        self._places = _places(document)

    def whole(self) -> str:
        info = self._document.info
        sections = [self._start(), *(self._tag(tag) for tag in self._document.tags), self._headers()]
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_text(info.title)} API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            '<a class="skip" href="#main">Skip to the content</a>\n'
            f"<header>\n<h1>The {_text(info.title)} API</h1>\n<p>{_prose(info.description)}</p>\n"
            f'<p class="soft">Version {_text(info.version)}. '
            'For programs: <a href="openapi.json">openapi.json</a>.</p>\n</header>\n'
            f'{self._contents()}\n<main id="main" tabindex="-1">\n{"".join(sections)}</main>\n</body>\n</html>\n'
        )

    def _contents(self) -> str:
        groups = [_list([_link("start", "Before the first call")])]
        for tag in self._document.tags:
            links = [
                _link(place.operation.operation_id, f"{_method(place.method)} {_text(place.path)}")
                for place in self._of(tag)
            ]
            if tag.errors:
                links.append(_link(_errors_id(tag), "Errors"))
            groups.append(f'<p class="group">{_text(tag.name)}</p>\n{_list(links)}')
        groups.append(_list([_link("headers", "Headers of answers")]))
        return f'<nav aria-label="Contents">\n{"".join(groups)}</nav>'

    def _start(self) -> str:
        schemes = "".join(
            f"<dt>{_text(name)}</dt>\n<dd>{_prose(scheme.description)}</dd>\n"
            for name, scheme in self._document.components.security_schemes.items()
        )
        variables = f"GATEWAY={self._address}  # or the address this page came from\nKEY=…  # your key"
        return (
            '<section aria-labelledby="start">\n<h2 id="start">Before the first call</h2>\n'
            "<p>The examples below can be pasted into a shell where these two are set:</p>\n"
            f"{_code(variables)}"
            f"<p>The key goes into a header:</p>\n<dl>\n{schemes}</dl>\n</section>\n"
        )

    def _tag(self, tag: Tag) -> str:
        name = _text(tag.name)
        operations = "".join(self._operation(place, tag) for place in self._of(tag))
        return (
            f'<section aria-labelledby="tag-{name}">\n<h2 id="tag-{name}">{name}</h2>\n'
            f"<p>{_prose(tag.description)}</p>\n{operations}{_error_table(tag)}</section>\n"
        )

    def _operation(self, place: _PageOperation, tag: Tag) -> str:
        operation = place.operation
        name = _text(operation.operation_id)
        also = (
            f" Also at {' and '.join(f'<code>{_text(path)}</code>' for path in place.aliases)}."
            if place.aliases
            else ""
        )
        words = f"{_prose(operation.description)}{also}".strip()
        described = f"<p>{words}</p>\n" if words else ""
        status, main = next(iter(operation.responses.items()))
        return (
            f'<section aria-labelledby="{name}">\n<h3 id="{name}">{_text(operation.summary)}</h3>\n'
            f'<p class="path">{_method(place.method)} {_text(place.path)}</p>\n'
            f"{described}"
            f"{self._request(place)}<h4>Example</h4>\n{_code(self._curl(place))}"
            f"{self._main_answer(status, main)}{self._other_answers(operation, tag)}</section>\n"
        )

    def _request(self, place: _PageOperation) -> str:
        operation, title = place.operation, f"{place.method} {place.path}"
        parts = []
        for where in ("path", "query"):
            rows = [
                _field(parameter.name, self._type(parameter.schema), parameter.required, parameter.description)
                for parameter in operation.parameters
                if parameter.place == where
            ]
            if rows:
                caption = f"{where.capitalize()} parameters of {title}"
                parts.append(f"<h4>In the {where}</h4>\n{_table(caption, _FIELD_HEADS, rows)}")
        schema = self._schema(operation.request_body.content) if operation.request_body else None
        if schema:
            rows = list(self._fields(schema))
            parts.append(f"<h4>Body</h4>\n{_table(f'Fields of the body of {title}', _FIELD_HEADS, rows)}")
            parts.append(f"<p>{_prose(schema.description)}</p>\n")
        return "".join(parts)

    def _main_answer(self, status: str, response: Response) -> str:
        example = response.example()
        shown = "" if example is None else _code(_json_text(example))
        schema = self._schema(response.content)
        rows = list(self._fields(schema)) if schema else []
        table = _table("Fields of the answer", _FIELD_HEADS, rows)
        fields = f"<details>\n<summary>Fields of the answer</summary>\n{table}</details>\n" if rows else ""
        names = ", ".join(f"<code>{_text(name)}</code>" for name in response.headers)
        headers = f'<p class="soft">{_link("headers", "Headers")}: {names}.</p>\n' if names else ""
        return f"<h4>Answer {_text(status)}</h4>\n<p>{_prose(response.description)}</p>\n{shown}{fields}{headers}"

    def _other_answers(self, operation: Operation, tag: Tag) -> str:
        rows = [
            (_name(status), _prose(response.description)) for status, response in list(operation.responses.items())[1:]
        ]
        link = _link(_errors_id(tag), _errors_title(tag))
        more = f"<p>What the codes mean: {link}.</p>\n" if tag.errors else ""
        title = f"Other answers of {operation.operation_id}"
        return f"<h4>Other answers</h4>\n{_table(title, ('Status', 'Meaning'), rows)}{more}"

    def _headers(self) -> str:
        rows = [
            (_name(name), "always" if header.required else "at times", _prose(header.description))
            for name, header in self._document.components.headers.items()
        ]
        return (
            '<section aria-labelledby="headers">\n<h2 id="headers">Headers of answers</h2>\n'
            f"{_table('Headers of answers', ('Name', 'There', 'Meaning'), rows)}</section>\n"
        )

    def _of(self, tag: Tag) -> list[_PageOperation]:
        return [place for place in self._places if tag.name in place.operation.tags]

    def _curl(self, place: _PageOperation) -> str:
        """A curl command that works unchanged once GATEWAY and KEY are set."""
        operation, path = place.operation, place.path
        for parameter in operation.parameters:
            path = path.replace(f"{{{parameter.name}}}", quote(str(parameter.example)))
        asked = {each.name: each.example for each in operation.parameters if each.place == "query" and each.required}
        if asked:
            path += f"?{urlencode(asked)}"
        words = [f'curl "$GATEWAY{path}"']
        if operation.security:
            words += [f'-H "{_KEY_HEADERS[name]}"' for name in operation.security[0]]
        schema = self._schema(operation.request_body.content) if operation.request_body else None
        if schema and schema.examples:
            words += ['-H "Content-Type: application/json"', f"-d {shlex.quote(_json_text(schema.examples[0]))}"]
        elif place.method != "GET":
            words.append(f"-X {place.method}")
        return (" \\\n  " if len(words) > 2 else " ").join(words)

    def _schema(self, content: dict[str, MediaType]) -> Schema | None:
        media = content.get("application/json")
        return self._resolved(media.schema) if media else None

    def _resolved(self, schema: Schema) -> Schema:
        return self._document.components.schemas[schema.ref.rpartition("/")[2]] if schema.ref else schema

    def _fields(self, schema: Schema, prefix: str = "") -> Iterator[Sequence[str]]:
        """A row for each field, then its own fields: `provider.routing`, `data[].index`."""
        for name, written in schema.properties.items():
            field = self._resolved(written)
            meaning = written.description or field.description
            if field.default is not None:
                meaning = f"{meaning} Default `{json.dumps(field.default)}`."
            yield _field(prefix + name, self._type(field), name in schema.required, meaning)
            yield from self._fields(field, f"{prefix}{name}.")
            if field.items:
                yield from self._fields(self._resolved(field.items), f"{prefix}{name}[].")

    def _type(self, schema: Schema, plural: str = "") -> str:
        """The type in words, without null: an optional field may always be null. plural: `s` or empty."""
        schema = self._resolved(schema)
        if options := [option for option in (*schema.one_of, *schema.any_of) if option.type != "null"]:
            return _any_of([self._type(option, plural) for option in options])
        if schema.const is not None:
            return json.dumps(schema.const)
        words = [json.dumps(value) for value in schema.enum if value is not None]
        if words and len(words) <= _SHOWN_OPTIONS:
            return _any_of(words)
        if schema.items:
            return f"list{plural} of {self._type(schema.items, 's')}"
        return schema.types()[0] + plural


def _places(document: Document) -> list[_PageOperation]:
    aliases: dict[str, list[str]] = {}
    main = []
    for path, item in document.paths.items():
        for method, operation in item.items():
            if operation.alias_of:
                aliases.setdefault(operation.alias_of, []).append(path)
            else:
                main.append((method.upper(), path, operation))
    return [_PageOperation(method, path, operation, tuple(aliases.get(path, ()))) for method, path, operation in main]


def _error_table(tag: Tag) -> str:
    if not tag.errors:
        return ""
    has_types = any(row.type for row in tag.errors)
    heads = ("Code", "Status", "Type", "Meaning") if has_types else ("Code", "Status", "Meaning")
    rows = []
    for row in tag.errors:
        types = [f"<code>{_text(row.type)}</code>"] if has_types else []
        meaning = _prose(" ".join(row.meanings))
        rows.append((_name(row.code), str(row.status), *types, meaning))
    return f'<h3 id="{_text(_errors_id(tag))}">{_errors_title(tag)}</h3>\n{_table("Errors", heads, rows)}'


def _errors_id(tag: Tag) -> str:
    return f"errors-{tag.name}"


def _link(target: str, label: str) -> str:
    """label: as HTML."""
    return f'<a href="#{_text(target)}">{label}</a>'


def _list(items: Sequence[str]) -> str:
    """items: as HTML."""
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f"<ul>\n{lines}</ul>\n"


def _errors_title(tag: Tag) -> str:
    return _text(f"Errors of the {tag.name} API")


def _any_of(options: list[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def _field(name: str, kind: str, is_required: bool, meaning: str) -> Sequence[str]:
    return _name(name), _text(kind), "yes" if is_required else "no", _prose(meaning)


def _name(name: str) -> str:
    """The first cell of a row. A long name may be broken after dots and underscores."""
    shown = re.sub(r"([._])", r"\1<wbr>", _text(name))
    return f"<code>{shown}</code>"


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """rows: cells as HTML. The roles keep it a table for screen readers where narrow screens lay it out as blocks."""
    head = "".join(f'<th role="columnheader" scope="col">{_text(name)}</th>' for name in heads)
    lines = []
    for first, *rest in rows:
        cells = "".join(
            f'<td role="cell" data-label="{_text(name)}">{cell}</td>'
            for name, cell in zip(heads[1:], rest, strict=True)
        )
        lines.append(f'<tr role="row"><th role="rowheader" scope="row">{first}</th>{cells}</tr>\n')
    return (
        f'<table role="table">\n<caption>{_text(caption)}</caption>\n'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(lines)}</tbody>\n</table>\n'
    )


def _code(text: str) -> str:
    """Text as it is; focusable, so that the keyboard can scroll long lines."""
    return f'<pre tabindex="0"><code>{_text(text)}</code></pre>\n'


def _method(method: str) -> str:
    return f'<span class="method {_text(method.lower())}">{_text(method)}</span>'


def _text(text: str) -> str:
    return html.escape(text)


def _prose(text: str) -> str:
    """Escaped, with `words in backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _json_text(value: object, indent: str = "") -> str:
    """JSON for people: what fits into a line stays on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= _LINE or not isinstance(value, dict | list):
        return line
    deeper = indent + "  "
    if isinstance(value, list):
        items = [deeper + _json_text(item, deeper) for item in value]
    else:
        items = [f"{deeper}{json.dumps(name)}: {_json_text(item, deeper)}" for name, item in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    lines = ",\n".join(items)
    return f"{opening}\n{lines}\n{indent}{closing}"
