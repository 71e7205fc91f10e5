"""Embeddings: validate, weigh, plan, execute."""
