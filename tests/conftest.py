"""The hooks of the whole suite, in a module that the type checker sees: to it, there is one `conftest` only."""

from postgres_server import postgres, postgres_server
from suite_hooks import (
    forks_end,
    pytest_asyncio_loop_factories,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
)

__all__ = [
    "forks_end",
    "postgres",
    "postgres_server",
    "pytest_asyncio_loop_factories",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
]
