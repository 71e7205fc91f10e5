"""A vendor that nobody here has heard of: its module, and a catalogue with the one model that it serves."""

NAME = "acme_made_up"
MODULE = '''
"""A made-up vendor that wants its words in a list of its own."""

import msgspec

from embedgate.providers.hosts import Host
from embedgate.transport import HttpCall, HttpProvider, classify, decode, encode, read_embeddings, wishes

HOST = Host(note="Made up.", key_variables=("ACME_TEST_KEY",), key_header="x-acme-key", key_prefix="", accepts_dim=True)


class _Body(msgspec.Struct):
    numbers: list[msgspec.Raw]


_BODY = msgspec.json.Decoder(_Body)


def provider(_host):
    return HttpProvider(build, parse, classify)


def build(batch, route):
    return HttpCall("POST", "/vectors", encode(wishes(batch, route) | {"words": batch.inputs}))


def parse(reply, batch, _route):
    return read_embeddings(reply, batch, decode(reply, _BODY).numbers)
'''
CATALOG = """
[[model]]
id = "acme/words"
dims = { default = 2 }
max_input_tokens = 100
normalised = true

[[model.route]]
provider = "acme_made_up"
upstream_model = "w"
"""
