"""embedgate: one OpenAI-compatible door to every text-embedding model."""

__version__ = "0.1.0"
