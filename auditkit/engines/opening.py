"""Open a table in an engine, and check that its columns are there and of the right kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auditkit.engines.base import Column, Engine
from auditkit.engines.statements import Roles
from auditkit.errors import InputError, SchemaError
from auditkit.table_roles import describe_missing


def open_engine(table: Any, engine: str, *, max_gib: float | None = None) -> Engine:
    """The table in the named engine; a Spark frame is always Spark's.

    Raises:
        InputError: There is no such engine, or the table cannot be opened.
    """
    if engine == "spark" or type(table).__module__.startswith("pyspark."):
        from auditkit.engines.spark_engine import SparkEngine

        return SparkEngine(table)
    if engine != "duckdb":
        whole = "; a table that is read whole into memory is auditkit.load_table's" if engine == "pandas" else ""
        raise InputError(f'engine must be "duckdb" or "spark"; got {engine!r}{whole}')
    from auditkit.engines.duckdb_engine import DuckDBEngine

    return DuckDBEngine(table, max_gib=max_gib)


def check_columns(engine: Engine, roles: Roles) -> None:
    """Raise for the first named column that the table lacks.

    Raises:
        SchemaError: There is one.
    """
    for role, names in {**roles.named(), **roles.mentioned}.items():
        for name in names:
            if name not in engine.names:
                raise SchemaError(describe_missing(role, name, engine.names))


def check_kinds(engine: Engine, columns: Mapping[str, Column], roles: Roles) -> None:
    """Raise where there are no numbers though numbers are needed; a label in words needs the value that counts as 1.

    Raises:
        SchemaError: A column has the wrong kind.
    """
    for role, names in roles.named().items():
        name = names[0] if names else ""
        if role in ("attributes", "cluster") or (role == "label" and roles.positive_label is not None):
            continue
        if columns[name].kind in ("text", "other"):
            numbers = f"name a column of numbers; the table has: {', '.join(engine.names)}"
            hint = "pass positive_label, the value that counts as 1" if role == "label" else numbers
            raise SchemaError(f"{role} column {name!r} of {engine.source} holds {columns[name].type_name}; {hint}")
    for name, key in roles.keys.items():
        if key.bins is not None and columns[key.source].kind not in ("integer", "number"):
            raise SchemaError(
                f"attribute {name!r}: only numeric columns can be cut into bins; "
                f"{key.source!r} is {columns[key.source].type_name}"
            )
        if key.expression is not None:
            key.expression.check({source: columns[source].kind for source in key.sources})
