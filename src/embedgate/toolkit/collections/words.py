"""Words of texts and questions, as stores without a tokenizer of their own compare them: small letters, no accents."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def folded_words(text: str) -> list[str]:
    """The words of a text in their order: runs of letters and digits, case folded, without accents."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return _WORD.findall(plain.casefold())
