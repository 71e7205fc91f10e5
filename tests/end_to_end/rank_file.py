"""Gives tiktoken its table of cl100k_base without a download: written from the ranks that rs-bpe carries inside."""

import base64
import hashlib
from pathlib import Path

from rs_bpe.bpe import openai
from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it has no types

from embedgate.inference.cl100k import RANK_FILE_SHA256, VOCABULARY_SIZE


def write_rank_file(folder: Path) -> dict[str, str]:
    """Put the file where tiktoken looks before it downloads. Returns the environment that names the folder."""
    ranks = openai.cl100k_base().bpe()
    tokens = (base64.b64encode(ranks.decode_tokens([rank])) for rank in range(VOCABULARY_SIZE))
    content = b"".join(b"%s %d\n" % (token, rank) for rank, token in enumerate(tokens))
    assert hashlib.sha256(content).hexdigest() == RANK_FILE_SHA256
    constants = openai_public.cl100k_base.__code__.co_consts
    url = next(constant for constant in constants if isinstance(constant, str) and "://" in constant)
    (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)
    return {"TIKTOKEN_CACHE_DIR": str(folder)}
