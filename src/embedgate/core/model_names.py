"""Names of models in the answers of hosts: whether one means the model that was asked."""

import re
from collections.abc import Iterable

_LONGEST_NAME = 512
# A date (`-2024-08-06`, `-20240806`, `-2505`), Google's version (`@001`), or the build in LM Studio (`@q8_0`, `:2`).
_VERSION = re.compile(r"(-20\d\d-?[01]\d-?[0-3]\d|-2\d(0[1-9]|1[0-2])|@\d{3}|@[a-z]*q\d\w*|:\d)$")


def is_name_of(named: str, names: Iterable[str]) -> bool:
    """Whether hosts may mean a model of those names by `named`: one of them, in a path, with a version's tag or date.

    Close names are other models: `m-v2` and `m-large` are not `m`.
    """
    known = {bare_name(name) for name in names}
    bare = bare_name(named)
    return bare in known or _VERSION.sub("", bare) in known


def bare_name(name: str) -> str:
    """A name without its case, the path that it is in, and the tag that means the usual build."""
    return name[:_LONGEST_NAME].casefold().rpartition("/")[2].removesuffix(":latest")
