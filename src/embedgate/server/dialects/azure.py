"""Azure OpenAI on the wire: `POST /openai/deployments/{id}/embeddings` and `/chat/completions`, header `api-key`.

Bodies and answers are OpenAI's; the path names the model, and `api-version` is ignored. Owns its error table.
"""

from typing import Literal

import orjson
from msgspec.structs import replace

from embedgate.core import types
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError, RateLimited, UnknownModel
from embedgate.core.types import ChatRequest
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.dialects.dialect import SplitName

NAME: Literal["azure"] = "azure"


class Deployment(openai.Engine):
    """The API of one deployment: the model of the path."""

    NAME: types.Dialect = NAME

    def read_chat(self, body: bytes, split_name: SplitName) -> ChatRequest:
        """The chat completion in a body. Raises a RequestError naming the field at fault."""
        return openai.read_chat(body, split_name, self.model)

    def write_chat(self, completion: ChatResult | ChatStream, request_id: str) -> Answer:
        """The answer to a chat completion: what the provider sent."""
        return openai.write_chat(completion, request_id)

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API: OpenAI's, but for the codes that Azure's own gate has."""
    answer = openai.write_error(error, request_id)
    code = "DeploymentNotFound" if isinstance(error, UnknownModel) else str(answer.status)
    if not isinstance(error, UnknownModel | RateLimited) and answer.status != 401:
        return answer
    body = orjson.loads(answer.body)
    body["error"]["code"] = code
    return replace(answer, body=orjson.dumps(body))
