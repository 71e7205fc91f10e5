"""The API described, for programs and for people. Describes only: what is true is decided by the dialects."""

from embedgate.server.describe.description import Description

__all__ = ["Description"]
