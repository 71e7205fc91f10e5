"""Outbound HTTP: the only way to a provider. Drives vendor modules, which hold translation and nothing else.

Each name is imported when it is first used: the client needs none of what the gateway's driver imports.
"""

from typing import TYPE_CHECKING

from embedgate.core.lazy import imported_on_use

if TYPE_CHECKING:
    from embedgate.transport.bodies import encode, input_type_word, put, wishes
    from embedgate.transport.concurrency_limit import ConcurrencyLimit, QueueBounds
    from embedgate.transport.driver import CallTimeouts, HttpDriver
    from embedgate.transport.faults import classify, retry_after_s
    from embedgate.transport.records import Chat, Endpoint, HttpCall, HttpProvider, HttpReply, HttpUnary, Signer
    from embedgate.transport.replies import (
        NOTHING_TOLD,
        decode,
        read_count,
        read_embeddings,
        read_object,
        read_usage,
        read_vector,
        read_vectors,
    )

__all__ = [
    "NOTHING_TOLD",
    "CallTimeouts",
    "Chat",
    "ConcurrencyLimit",
    "Endpoint",
    "HttpCall",
    "HttpDriver",
    "HttpProvider",
    "HttpReply",
    "HttpUnary",
    "QueueBounds",
    "Signer",
    "classify",
    "decode",
    "encode",
    "input_type_word",
    "put",
    "read_count",
    "read_embeddings",
    "read_object",
    "read_usage",
    "read_vector",
    "read_vectors",
    "retry_after_s",
    "wishes",
]

_HOMES = {
    "CallTimeouts": "driver",
    "Chat": "records",
    "ConcurrencyLimit": "concurrency_limit",
    "Endpoint": "records",
    "HttpCall": "records",
    "HttpDriver": "driver",
    "HttpProvider": "records",
    "HttpReply": "records",
    "HttpUnary": "records",
    "NOTHING_TOLD": "replies",
    "QueueBounds": "concurrency_limit",
    "Signer": "records",
    "classify": "faults",
    "decode": "replies",
    "encode": "bodies",
    "input_type_word": "bodies",
    "put": "bodies",
    "read_count": "replies",
    "read_embeddings": "replies",
    "read_object": "replies",
    "read_usage": "replies",
    "read_vector": "replies",
    "read_vectors": "replies",
    "retry_after_s": "faults",
    "wishes": "bodies",
}

if not TYPE_CHECKING:
    __getattr__ = imported_on_use(__name__, {name: f"embedgate.transport.{module}" for name, module in _HOMES.items()})
