"""Reranking: weigh, rank."""
