"""Expressions as SQL that DuckDB and Spark answer alike: names are aliases, texts parameters, numbers exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auditkit.engines.base import Column
from auditkit.expressions import Expression, Node, Value

_NAN = "CAST('NaN' AS DOUBLE)"


def write_expression(expression: Expression, columns: Mapping[str, Column]) -> tuple[str, tuple[Any, ...]]:
    """SQL for an expression, and the values of its question marks in order.

    Raises:
        SchemaError: A column does not suit what is done with it.
    """
    expression.check({name: columns[name].kind for name in expression.columns})
    writer = _Writer(columns)
    return writer.write(expression.root), tuple(writer.parameters)


class _Writer:
    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = columns
        self.parameters: list[Any] = []

    def write(self, node: Node) -> str:
        match node.step:
            case "column":
                return self.column(self.columns[str(node.value)])
            case "literal":
                return self.literal(node.value)
            case "in":
                inner = self.write(node.parts[0])
                return f"({inner} IN ({', '.join(self.literal(value) for value in node.values)}))"
            case "if":
                return self.choice(node)
        parts = [self.write(part) for part in node.parts]
        match node.step:
            case "not":
                return f"(NOT {parts[0]})"
            case "negate":
                return f"(-{parts[0]})"
            case "and" | "or":
                return f"({f' {node.step.upper()} '.join(parts)})"
            case "is_missing":
                return f"({parts[0]} IS NULL)"
            case "compare":
                return f"({parts[0]} {node.sign} {parts[1]})"
        # what is no number is missing, which also ends NaN = NaN, on which engines differ from floating point
        right = f"nullif({parts[1]}, 0e0)" if node.sign == "/" else parts[1]
        return f"nullif({parts[0]} {node.sign} {right}, {_NAN})"

    def column(self, column: Column) -> str:
        if column.kind == "integer":
            return f"CAST({column.alias} AS DOUBLE)"
        return f"nullif(CAST({column.alias} AS DOUBLE), {_NAN})" if column.kind == "number" else column.alias

    def literal(self, value: Value) -> str:
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, str):
            self.parameters.append(value)
            return "?"
        return f"CAST('{value!r}' AS DOUBLE)"

    def choice(self, node: Node) -> str:
        """A missing condition leaves the value missing; the condition is written once, so that parameters are too."""
        condition, chosen, other = (self.write(part) for part in node.parts)
        return f"(CASE {condition} WHEN TRUE THEN {chosen} WHEN FALSE THEN {other} END)"
