"""Which new passwords are refused as too easily guessed, as NIST SP 800-63B (3.1.1.2) wants: no rules of composition.

Refused are few different characters, repetitions, runs of the keyboard or the alphabet, and what is made of the
commonest words, the user's own name or address, and this product's name. Letters written as digits, digits and signs
around words change nothing. Four words of one's own choice are well beyond all of it.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

_LEAST_DIFFERENT = 5
_MOST_UNKNOWN = 3
"""Characters of a password beside common words, runs and digits that add next to nothing."""
_LEAST_WORDS = 4
"""So many common words, all of them different, are a phrase."""
_LEAST_RUN = 3
_LEAST_OWN = 3
"""Letters of a name that count as a word; shorter ones are in many words by chance."""

# Written for this list, by kind: what people choose when a system asks for a password.
_COMMON = """
    password passwort passwd pass passphrase passcode secret geheim login logon letmein welcome willkommen hello hallo
    admin administrator root user users guest test tester testing demo default changeme changeit change newpassword
    temp temporary system server access open master super superuser manager support service backup database computer
    internet network security private example sample company office work home house family
    love iloveyou loveme lovely forever angel baby babe honey sweet sweetheart princess prince queen king dragon
    monkey tiger lion eagle falcon panther wolf bear dog cat kitty puppy horse fish bird butterfly unicorn
    football baseball basketball soccer hockey tennis golf racing player winner champion trustno one
    sunshine summer winter spring autumn fall sommer herbst fruehling january february march april may june july august
    september october november december monday tuesday wednesday thursday friday saturday sunday today tomorrow
    red blue green black white yellow orange purple silver gold golden diamond
    michael jennifer jordan thomas daniel andrew charlie robert matthew jessica ashley nicole michelle amanda anthony
    william joshua martin george alexander maria anna peter hans
    star starwars superman batman spiderman pokemon naruto matrix ninja samurai wizard shadow phoenix thunder hunter
    killer freedom liberty america london berlin paris madrid rome texas dallas chelsea liverpool arsenal barcelona
    cheese cookie chocolate banana apple coffee pepper ginger flower rose money lucky happy smile
    whatever nothing something anything asdf qwerty qwertz azerty abc abcd zxcvbn qazwsx
    embedgate gateway embedding embeddings openai api apikey token
"""
_WORDS = frozenset(_COMMON.split())
_ROWS = ("qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "1234567890")
_COLUMNS = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik", "9ol")
_NEIGHBOURS = frozenset(
    pair for line in (*_ROWS, *_COLUMNS) for each in (line, line[::-1]) for pair in itertools.pairwise(each)
)
_AS_LETTERS = str.maketrans("01345789@$!|", "oieastbgasii")
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def find_weakness(password: str, about: Sequence[str] = ()) -> str | None:
    """Why a password is too easily guessed, in words that end a sentence; None if it is not.

    about: the user's names and addresses. The answer does not repeat the password.
    """
    plain = unicodedata.normalize("NFKC", password).casefold()
    dense = "".join(plain.split())
    if len(set(dense)) < _LEAST_DIFFERENT:
        return f"has fewer than {_LEAST_DIFFERENT} different characters beside blanks"
    if _is_repetition(dense):
        return "repeats one short piece"
    if sum(1 for _ in _beside_runs(dense)) <= _MOST_UNKNOWN + 1:
        return "is a run of neighbouring keys, letters or digits"
    own = frozenset(part for name in about for part in _parts(name))
    if any(_is_made_of(form, _WORDS, own) for form in (dense, dense.translate(_AS_LETTERS))):
        return "is made of common words, or of this user's name or address, with little else"
    return None


def _is_repetition(text: str) -> bool:
    """Whether it is one piece again and again, cut off anywhere, and the piece is no longer than a word."""
    return any((text[:n] * (len(text) // n + 1)).startswith(text) for n in range(1, min(len(text) // 2, 8) + 1))


def _beside_runs(text: str) -> Iterator[str]:
    """The characters, but of each run of neighbours only the first."""
    start = 0
    while start < len(text):
        yield text[start]
        start = _end_of_run(text, start)


def _end_of_run(text: str, start: int) -> int:
    """Where the run ends that begins there; one character if it is none."""
    end = start + 1
    while end < len(text) and _follows(text, start, end):
        end += 1
    return end if end - start >= _LEAST_RUN else start + 1


def _follows(text: str, start: int, at: int) -> bool:
    """Whether the character goes on with the run that begins at `start`: the same, the next in order, the next key."""
    before, here = text[at - 1], text[at]
    step = ord(here) - ord(before)
    if at == start + 1:
        return step in (-1, 0, 1) or (before, here) in _NEIGHBOURS
    was = ord(before) - ord(text[at - 2])
    return (step == was and step in (-1, 0, 1)) or (
        (before, here) in _NEIGHBOURS and (text[at - 2], before) in _NEIGHBOURS
    )


def _parts(name: str) -> Iterator[str]:
    """A name or an address as it may be found in a password: whole, and its words."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    for part in (_NOT_LETTERS.sub("", plain), *_NOT_LETTERS.split(plain)):
        if len(part) >= _LEAST_OWN:
            yield part


def _is_made_of(text: str, common: frozenset[str], own: frozenset[str]) -> bool:
    """Whether known words, runs and digits leave next to nothing of a text.

    The longest word at each place counts. The user's own words are no phrase, however many there are.
    """
    longest = max(map(len, common | own))
    used: set[str] = set()
    unknown = at = 0
    while at < len(text):
        word = next(
            (text[at:end] for end in range(min(len(text), at + longest), at, -1) if text[at:end] in common | own), None
        )
        if word is not None:
            used |= {word} - own
            at += len(word)
            continue
        end = _end_of_run(text, at)
        unknown += end == at + 1 and text[at].isalpha()
        at = end
    return unknown <= _MOST_UNKNOWN and len(used) < _LEAST_WORDS
