"""Vendors: one module each, pure translation, and a table of those that speak the OpenAI format."""
