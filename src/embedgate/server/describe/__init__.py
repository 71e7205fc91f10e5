"""API description: the OpenAPI document and its HTML page. The dialects decide what is true."""

from embedgate.server.describe.description import Description

__all__ = ["Description"]
