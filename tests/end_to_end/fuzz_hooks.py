"""What the fuzzer loads: leads it to things that are there, and away from the user and the keys that it works with.

Says too which server error is none: the ZIRI API has 500 for a provider that is off.
"""

import json
import os
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure

_protected = frozenset(json.loads(os.environ["EMBEDGATE_FUZZ_PROTECTED"]))
_known: dict[str, str] = json.loads(os.environ["EMBEDGATE_FUZZ_KNOWN"])


@schemathesis.hook
def map_path_parameters(
    context: schemathesis.HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Every other time a name that somebody has: few are found by chance."""
    given = path_parameters or {}
    known = {name: _known[name] for name, value in given.items() if name in _known and len(str(value)) % 2}
    return {**given, **known} if known else path_parameters


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Aim at nobody instead."""
    for name, value in (case.path_parameters or {}).items():
        if value in _protected:
            case.path_parameters[name] = "nobody"


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Whether it is one."""
    return b'"PROVIDER_KEY_MISSING"' not in response.content
