"""Filters as conditions of PostgreSQL over a column `metadata` of JSON: true or false, never null."""

from embedgate.toolkit.collections.filters import Compare, Filter, kind_of, sql_of

Condition = tuple[str, list[str]]
"""SQL with placeholders, and their values."""


def condition_of(where: Filter | None) -> Condition:
    """The condition of a filter; of none, true."""
    return ("true", []) if where is None else sql_of(where, _comparison)


def _comparison(where: Compare) -> Condition:
    field, value = where.field, where.value
    kind = "coalesce(json_typeof(metadata->%s), 'null')"
    if value is None:
        return f"({kind} = 'null')", [field]
    if isinstance(value, bool):
        return _typed("boolean", "metadata->>%s = %s", [field, "true" if value else "false"])
    if kind_of(value) is str:
        # The collation C orders by code point, as Python does.
        return _typed("string", f'(metadata->>%s) collate "C" {where.comparison} %s', [field, str(value)])
    # Decimals compare numbers of any size exactly; the shortest text of a float stands for it in JSON, too.
    return _typed("number", f"(metadata->>%s)::numeric {where.comparison} (%s)::numeric", [field, repr(value)])


def _typed(kind: str, compared: str, values: list[str]) -> Condition:
    """A comparison that is made only of what has that type: PostgreSQL does not say which part of an `and` is first."""
    sql = f"(case when json_typeof(metadata->%s) = '{kind}' then {compared} else false end)"
    return sql, [values[0], *values]
