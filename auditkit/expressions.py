"""Attributes as expressions over the columns of a table: a small language that is parsed, never run as Python.

    age >= 65 and not retired            tongue in ["de", "gsw"]
    "urban" if density > 300 else "rural"      income / persons < 12000      column("marital status") == "single"

It has column names (``column("…")`` where a name is no word), numbers, texts, True and False; ``+ - * /``;
comparisons, ``in`` and ``not in`` a list; ``and or not``; ``… if … else …``; and ``is_missing(…)``. What is said of a
missing value is missing, as in SQL (Kleene's logic), and so are a division by zero and what is no number; missing ends
as a group of its own. The same expression gives the same groups in memory (`auditkit.expression_values`) and on every
engine (`auditkit.engines.expression_sql`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from auditkit.errors import SchemaError

MAX_LENGTH = 2000
MAX_DEPTH = 50

ValueKind = Literal["number", "text", "boolean"]
Value = float | str | bool

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: "<>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_ALLOWED = "columns, numbers, texts, + - * /, comparisons, in, and, or, not, … if … else … and is_missing(…)"


@dataclass(frozen=True)
class Node:
    """One step of an expression.

    Attributes:
        step: "column", "literal", "not", "negate", "and", "or", "compare", "in", "arithmetic", "if" or "is_missing".
        parts: The steps that it is made of.
        sign: The comparison or arithmetic sign.
        value: The name of a column, or the value of a literal.
        values: What "in" looks among.
    """

    step: str
    parts: tuple[Node, ...] = ()
    sign: str = ""
    value: Value = ""
    values: tuple[Value, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This step and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Attributes:
        text: As it was written.
        root: Its tree.
    """

    text: str
    root: Node

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, each once."""
        return tuple(dict.fromkeys(str(node.value) for node in self.root.walk() if node.step == "column"))

    def check(self, kinds: Mapping[str, str]) -> ValueKind:
        """What it gives for columns of some kinds ("integer", "number", "boolean", "text" or "other").

        Raises:
            SchemaError: A column does not suit what is done with it.
        """
        return _Typing(self.text, kinds).kind(self.root)


def parse_expression(text: str, *, where: str = "expression") -> Expression:
    """Parse an expression without running anything in it.

    Args:
        text: The expression.
        where: What messages call it.

    Raises:
        SchemaError: It is not in the language, too long, or reads no column.
    """
    if not isinstance(text, str) or not text.strip():
        raise SchemaError(f"{where}: an expression is text such as 'age >= 65'; got {text!r}")
    if len(text) > MAX_LENGTH:
        raise SchemaError(
            f"{where}: the expression has more than {MAX_LENGTH} characters; make it a column of the table"
        )
    try:
        root = _Parser(where, text).node(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise SchemaError(f"{where}: {text!r} is no expression ({error.msg}); it may hold {_ALLOWED}") from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(f"{where}: the expression is nested too deeply or not text") from None
    parsed = Expression(text, root)
    if not parsed.columns:
        raise SchemaError(f"{where}: {text!r} reads no column, so it is the same for every row")
    return parsed


class _Parser:
    """From Python's syntax tree to the few steps there are; everything else is refused by name."""

    def __init__(self, where: str, text: str) -> None:
        self.where, self.text, self.depth = where, text, 0

    def node(self, found: ast.expr) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SchemaError(f"{self.where}: nested more than {MAX_DEPTH} deep; add a column instead")
        made = self.step(found)
        self.depth -= 1
        return made

    def step(self, found: ast.expr) -> Node:
        match found:
            case ast.Name(id=name):
                return Node("column", value=name)
            case ast.Constant():
                return Node("literal", value=self.literal(found))
            case ast.BoolOp(op=op, values=parts):
                return Node("and" if isinstance(op, ast.And) else "or", tuple(map(self.node, parts)))
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return Node("not", (self.node(part),))
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return Node("negate", (self.node(part),))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                return Node("arithmetic", (self.node(left), self.node(right)), sign=_ARITHMETIC[type(op)])
            case ast.IfExp(test=test, body=body, orelse=other):
                return Node("if", (self.node(test), self.node(body), self.node(other)))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self.comparisons([left, *others], ops)
            case ast.Call():
                return self.call(found)
        raise self.refusal(type(found).__name__, found)

    def comparisons(self, parts: list[ast.expr], ops: list[ast.cmpop]) -> Node:
        made = [self.comparison(op, parts[i], parts[i + 1]) for i, op in enumerate(ops)]
        return made[0] if len(made) == 1 else Node("and", tuple(made))

    def comparison(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Node:
        if type(op) in _COMPARISONS:
            return Node("compare", (self.node(left), self.node(right)), sign=_COMPARISONS[type(op)])
        if not isinstance(op, ast.In | ast.NotIn):
            raise self.refusal("is; write == or is_missing(…)", left)
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise self.refusal("in without a list of values", right)
        among = Node("in", (self.node(left),), values=tuple(self.literal(value) for value in right.elts))
        return among if isinstance(op, ast.In) else Node("not", (among,))

    def call(self, found: ast.Call) -> Node:
        name = found.func.id if isinstance(found.func, ast.Name) else ""
        if name in ("is_missing", "column") and len(found.args) == 1 and not found.keywords:
            if name == "is_missing":
                return Node("is_missing", (self.node(found.args[0]),))
            if isinstance(found.args[0], ast.Constant) and isinstance(found.args[0].value, str):
                return Node("column", value=found.args[0].value)
        raise self.refusal("a call", found)

    def literal(self, found: ast.expr) -> Value:
        match found:
            case ast.Constant(value=bool() | str() as value):
                return value
            case ast.Constant(value=int() | float() as value) if abs(value) <= 2**53 or isinstance(value, float):
                return float(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -float(value)
        raise self.refusal("no number, text, True or False (is_missing(…) asks for missing values)", found)

    def refusal(self, what: str, found: ast.expr) -> SchemaError:
        shown = ast.get_source_segment(self.text.strip(), found) or ""
        return SchemaError(f"{self.where}: {shown!r} is {what}, which no expression may hold; it may hold {_ALLOWED}")


class _Typing:
    """What every step gives, and whether it gets what it needs."""

    def __init__(self, text: str, kinds: Mapping[str, str]) -> None:
        self.text, self.kinds = text, kinds

    def kind(self, node: Node) -> ValueKind:
        match node.step:
            case "column":
                return self.column(str(node.value))
            case "literal":
                return _kind_of(node.value)
            case "and" | "or" | "not":
                return self.all_of("boolean", node)
            case "negate" | "arithmetic":
                return self.all_of("number", node)
            case "is_missing":
                self.kind(node.parts[0])
                return "boolean"
            case "in":
                self.same(node, [self.kind(node.parts[0]), *map(_kind_of, node.values)])
                return "boolean"
            case "if":
                self.need("boolean", node.parts[0])
                return self.same(node, [self.kind(part) for part in node.parts[1:]])
        kind = self.same(node, [self.kind(part) for part in node.parts])
        if node.sign not in ("=", "<>") and kind != "number":
            raise SchemaError(f"expression {self.text!r}: {node.sign} compares numbers, and got {kind}")
        return "boolean"

    def column(self, name: str) -> ValueKind:
        kind = self.kinds[name]
        if kind not in ("integer", "number", "boolean", "text"):
            raise SchemaError(
                f"expression {self.text!r}: column {name!r} holds neither numbers, texts nor true and false"
            )
        return "boolean" if kind == "boolean" else "text" if kind == "text" else "number"

    def all_of(self, kind: ValueKind, node: Node) -> ValueKind:
        for part in node.parts:
            self.need(kind, part)
        return kind

    def need(self, kind: ValueKind, node: Node) -> None:
        found = self.kind(node)
        if found != kind:
            what = f"column {node.value!r}" if node.step == "column" else "a part"
            raise SchemaError(f"expression {self.text!r}: {what} is {found} where {kind} is needed")

    def same(self, node: Node, kinds: list[ValueKind]) -> ValueKind:
        if len(set(kinds)) > 1:
            raise SchemaError(
                f"expression {self.text!r}: {node.sign or node.step!r} mixes {' and '.join(dict.fromkeys(kinds))}; "
                "both sides must be of one kind (texts stand in quotes)"
            )
        return kinds[0]


def _kind_of(value: Value) -> ValueKind:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
