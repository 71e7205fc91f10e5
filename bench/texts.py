"""Request bodies of the load.

Every text starts with MARK, by which the upstream counts inputs without parsing JSON, and with a number, which decides
whether a cache can have seen it. Texts for local models are words of one token each instead.
"""

import random
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import orjson

Encoding = Literal["float", "base64"]
Kind = Literal["fresh", "repeated", "half", "words"]

MARK = "~"
"""First character of every numbered text; it occurs nowhere else in a body."""

_FRESH = b"FRESH_NUMBER"
_REPEATED = b"AGAIN_NUMBER"
_FILLER = (
    "A gateway stands between a program and the models that turn its texts into vectors; it counts what is sent, "
    "checks what comes back, and writes down what was spent, so that a bill can be read line by line. "
)
# Each is one token of the vocabulary that BERT's uncased models share; a run checks the counts that come back.
_WORD_LIST = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face level office door health person art war history party result change morning reason research"
)
_WORDS = _WORD_LIST.split()
_SPECIAL_TOKENS = 2


class Texts(msgspec.Struct, frozen=True):
    """Texts of the requests of one stream.

    inputs: texts per request. kind: `fresh` texts were never sent before; `repeated` ones come from `distinct`
    requests over and over; `half` of each request is of either kind; `words` are fresh texts of exactly `tokens`
    tokens. size_bytes: of each text, unless its kind is `words`. first_number: where the numbers of fresh texts begin.
    """

    inputs: int = 1
    kind: Kind = "fresh"
    size_bytes: int = 100
    distinct: int = 256
    tokens: int = 0
    first_number: int = 0


def bodies(texts: Texts, model: str, encoding: Encoding) -> Iterator[bytes]:
    """Endless iterator of the request bodies of one stream. Each takes microseconds, except those of words."""
    make = word_lists(texts) if texts.kind == "words" else None
    if make is None:
        template = _body(model, encoding, [_numbered(texts, position) for position in range(texts.inputs)])
        yield from _filled(template, texts)
    else:
        for number in _count(texts.first_number):
            yield _body(model, encoding, make(number))


def _filled(template: bytes, texts: Texts) -> Iterator[bytes]:
    for count, number in enumerate(_count(texts.first_number)):
        body = template.replace(_FRESH, b"%012d" % number)
        yield body.replace(_REPEATED, b"%012d" % (count % texts.distinct))


def word_lists(texts: Texts) -> Callable[[int], list[str]]:
    """A function from a request's number to its texts of `texts.tokens` tokens each, special tokens included."""
    n_words = texts.tokens - _SPECIAL_TOKENS

    def make(number: int) -> list[str]:
        chosen = random.Random(number)
        return [" ".join(chosen.choices(_WORDS, k=n_words)) for _ in range(texts.inputs)]

    return make


def _count(first: int) -> Iterator[int]:
    number = first
    while True:
        yield number
        number += 1


def _numbered(texts: Texts, position: int) -> str:
    is_repeated = texts.kind == "repeated" or (texts.kind == "half" and position < texts.inputs // 2)
    number = (_REPEATED if is_repeated else _FRESH).decode()
    lead = f"{MARK}{number}.{position:04d} "
    filler = _FILLER * (texts.size_bytes // len(_FILLER) + 1)
    return lead + filler[: max(0, texts.size_bytes - len(lead))]


def _body(model: str, encoding: Encoding, inputs: list[str]) -> bytes:
    # One text goes as a text, as the SDKs send it.
    asked = inputs[0] if len(inputs) == 1 else inputs
    return orjson.dumps({"model": model, "input": asked, "encoding_format": encoding})
