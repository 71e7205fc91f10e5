"""Policy templates: a text for each, with parameters to fill in.

A text is in `template_texts/<id>.cedar`; its description is its `@description`. Saving a policy happens elsewhere.
"""

import functools
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedgate.core.access import PolicyRecord
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.core.near_names import did_you_mean
from embedgate.policy.lexer import annotations, read_lexemes

_BLANK = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A policy template. `parameters` are the placeholders of its text, each written `{{name}}`."""

    id: str
    description: str
    text: str
    parameters: tuple[str, ...] = ()


@functools.cache
def templates() -> tuple[Template, ...]:
    """All templates, in alphabetical order of their ids."""
    folder = importlib.resources.files(__package__).joinpath("template_texts")
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".cedar")]
    return tuple(sorted(map(_read, texts), key=lambda template: template.id))


def render(template_id: str, parameters: Mapping[str, str] | None = None, policy_id: str | None = None) -> PolicyRecord:
    """Render a policy from a template. The values are escaped; they cannot change the structure of the text.

    policy_id: the id of the new policy, if not that of the template.
    Raises UnknownEntity if there is no such template, InvalidInput if a parameter is missing, empty or unknown.
    """
    template = _find(template_id)
    given = dict(parameters or {})
    unknown = sorted(given.keys() - set(template.parameters))
    missing = [name for name in template.parameters if not given.get(name)]
    if unknown or missing:
        takes = ", ".join(template.parameters) or "none"
        reason = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
        raise InvalidInput(f"Template {template_id} takes the parameters {takes}; {reason}.", param="parameters")
    text = _BLANK.sub(lambda match: _escape(given[match[1]]), template.text)
    new_id = template.id if policy_id is None else policy_id
    text = text.replace(f'@id("{template.id}")', f'@id("{_escape(new_id)}")', 1)
    return PolicyRecord(id=new_id, text=text, description=template.description)


def _find(template_id: str) -> Template:
    for template in templates():
        if template.id == template_id:
            return template
    raise unknown_template(template_id)


def unknown_template(template_id: str) -> UnknownEntity:
    """The error for a template that there is not."""
    known = [template.id for template in templates()]
    near = did_you_mean(template_id, known)
    return UnknownEntity(f"There is no template {template_id!r}. {near}There are {', '.join(known)}.", param="template")


def _read(text: str) -> Template:
    noted = {name.text: value.text[1:-1] for name, value, _ in annotations(read_lexemes(text)[0]) if value}
    return Template(noted["id"], noted["description"], text, tuple(dict.fromkeys(_BLANK.findall(text))))


def _escape(value: str) -> str:
    """A value escaped for the quotes of a Cedar text."""
    return "".join(each if each.isprintable() and each not in '"\\' else f"\\u{{{ord(each):x}}}" for each in value)
