"""Outbound HTTP: the only way to a provider. Drives vendor modules, which hold translation and nothing else."""

from embedgate.transport.bodies import decode, encode, input_type_word, put, wishes
from embedgate.transport.concurrency_limit import ConcurrencyLimit, QueueBounds
from embedgate.transport.driver import CallTimeouts, HttpDriver
from embedgate.transport.faults import classify, retry_after_s
from embedgate.transport.records import Chat, Endpoint, HttpCall, HttpProvider, HttpReply, HttpReranker, Signer
from embedgate.transport.replies import read_count, read_embeddings, read_vector

__all__ = [
    "CallTimeouts",
    "Chat",
    "ConcurrencyLimit",
    "Endpoint",
    "HttpCall",
    "HttpDriver",
    "HttpProvider",
    "HttpReply",
    "HttpReranker",
    "QueueBounds",
    "Signer",
    "classify",
    "decode",
    "encode",
    "input_type_word",
    "put",
    "read_count",
    "read_embeddings",
    "read_vector",
    "retry_after_s",
    "wishes",
]
