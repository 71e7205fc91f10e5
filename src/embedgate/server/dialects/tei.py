"""The API of Text Embeddings Inference on the wire: `POST /tei/{id}/embed` and `/embed`, bare lists of vectors.

Such a server has one model, so that no request names any: the base URL of its client does. `/embed` takes the field
`model` as well. Owns the translation of its JSON and its error table.
"""

from collections.abc import Mapping
from typing import Literal

import orjson

from embedgate.core.errors import (
    AccessError,
    GatewayError,
    MissingFields,
    Overloaded,
    RateLimited,
    RequestError,
    UnsupportedOption,
)
from embedgate.core.models import Truncate
from embedgate.core.types import EmbedRequest, EmbedResult, InputType
from embedgate.server.answer import Answer, common_headers, error_headers, error_message, rows_answer
from embedgate.server.credential import bearer_or_key
from embedgate.server.dialect import SplitName
from embedgate.server.fields import Fields

NAME: Literal["tei"] = "tei"
PROMPTS: Mapping[str, InputType] = {"query": "query", "document": "document", "passage": "document"}
"""The usual names of the prompts that sentence-transformers' models have."""
DIRECTIONS: Mapping[str, Truncate] = {"Right": "end", "Left": "start", "right": "end", "left": "start"}
"""As the server writes them, and as clients of Hugging Face do."""
SPELLINGS: Mapping[str, str] = {'"truncate": "end"': '"truncate": true'}
"""What this API calls the fields of advice."""
_NO_MODEL = (
    "No model is named. A server of this API has one, and this gateway has many: give the client the address of this "
    "gateway, /tei/ and the model, such as /tei/local/all-minilm-l6-v2, or send model."
)


class Server:
    """The API of one model. model: the one in the path; None for the one in the body."""

    NAME: Literal["tei"] = NAME

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    secret = staticmethod(bearer_or_key)

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the encoding format, which is always that of floats.

        Raises a RequestError naming the field at fault.
        """
        fields = Fields(body)
        named = fields.text("model")
        if not (wanted := self._model or named):
            raise MissingFields(_NO_MODEL, param="model")
        fields.required(("inputs",), "inputs is required: a text or a list of texts.")
        model, provider = split_name(wanted)
        if fields.flag("normalize") is False:
            raise UnsupportedOption("Vectors come at unit length here; leave normalize out.", param="normalize")
        prompt, direction = (
            fields.choice("prompt_name", tuple(PROMPTS)),
            fields.choice("truncation_direction", tuple(DIRECTIONS)),
        )
        is_cut = fields.flag("truncate")
        request = EmbedRequest(
            model=model,
            inputs=fields.inputs("inputs"),
            dim=fields.whole("dimensions"),
            input_type=PROMPTS[prompt] if prompt else None,
            truncate=DIRECTIONS[direction or "Right"] if is_cut else "none",
            provider=provider,
            options=fields.rest(),
        )
        return request, "float"

    def write(self, result: EmbedResult, _encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        return rows_answer(result, common_headers(request_id, result.rate), [(b"[", "float")], b"]")

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API. `code` is ours."""
    body = {"error": error_message(error, request_id, SPELLINGS), "error_type": _type(error), "code": error.code}
    return Answer(error.status, [*common_headers(request_id, error.rate), *error_headers(error)], orjson.dumps(body))


def _type(error: GatewayError) -> str:
    if isinstance(error, (RateLimited, Overloaded)):
        return "Overloaded"
    if isinstance(error, AccessError):
        return "Unauthorized"
    return "Validation" if isinstance(error, RequestError) else "Backend"
