"""Credentials of a provider, and their limits."""
