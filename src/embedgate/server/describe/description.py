"""`GET /openapi.json` and `GET /docs`: handlers of the OpenAPI document and its HTML page."""

from functools import cached_property

import orjson

from embedgate.core.models import Model
from embedgate.server.answer import Answer, untyped
from embedgate.server.describe.document import document
from embedgate.server.describe.page import page
from embedgate.server.dialects import openai
from embedgate.server.respond import Request
from embedgate.wiring import Gateway

_HTML = (b"content-type", b"text/html; charset=utf-8")
_STYLE_ONLY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
"""Content-Security-Policy of the page: its own style sheet only, no script, image or other host."""


class Description:
    """Handlers of the document and the page. Each body is made once, on the first request."""

    def __init__(self, gateway: Gateway) -> None:
        """gateway: whose limits and default model are described."""
        self._gateway = gateway

    async def openapi(self, request: Request) -> Answer:
        """The OpenAPI 3.1 document."""
        return Answer(200, openai.headers(request.id), self._document)

    async def page(self, request: Request) -> Answer:
        """The same as one self-contained HTML page."""
        return Answer(200, [_HTML, _STYLE_ONLY, *untyped(openai.headers(request.id))], self._page)

    @cached_property
    def _document(self) -> bytes:
        return orjson.dumps(document(self._gateway.settings, self._example_model()))

    @cached_property
    def _page(self) -> bytes:
        return page(self._document, self._gateway.settings.server.port)

    def _example_model(self) -> Model:
        """The default model if it is available, so that the examples work unchanged."""
        default = self._gateway.settings.local.default_model
        usable = self._gateway.usable_models()
        named = [model for model in usable if model.id == default]
        return [*named, *usable, *self._gateway.catalog.embedding_models()][0]
