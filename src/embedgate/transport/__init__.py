"""Outbound HTTP: the only way to a provider. Drives vendor modules, which hold translation and nothing else."""

from embedgate.transport.bodies import decode, encode, put
from embedgate.transport.driver import HttpDriver
from embedgate.transport.faults import classify, retry_after_s
from embedgate.transport.records import Endpoint, HttpCall, HttpProvider, HttpReply

__all__ = [
    "Endpoint",
    "HttpCall",
    "HttpDriver",
    "HttpProvider",
    "HttpReply",
    "classify",
    "decode",
    "encode",
    "put",
    "retry_after_s",
]
