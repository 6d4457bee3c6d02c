"""A template's operators, rewritten to checked ones before it is compiled.

Jinja compiles most operators to Python's own, which ask nobody. Here what can take long or grow
becomes the call of a filter: sums (a whole chain at once), `*`, `**`, `%`, `~`, literals that hold
values, slices, what is printed; each step of a loop and each comparison of two values looks at the
clock. A loop's own list stays as it is, so `loop.length` and the like do not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from jinja2 import Environment, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from mlxone.text.bounds import ITEM, SIZE_LIMIT, current, joined

_FIELD = re.compile(r"%[#0\- +]*(\d+|\*)?(?:\.(\d+|\*))?")


def added(parts: tuple[Any, ...]) -> Any:
    size = 0
    for part in parts:
        if type(part) is not str:  # Markup adds in its own way
            return reduce(_plus, parts)
        size += len(part)
    # The hot path of most templates, hence not `allowance.text(size)` only.
    allowance = current()
    allowance.left -= size + ITEM
    if allowance.left < 0 or size > SIZE_LIMIT:
        allowance.text(size)
    return "".join(parts)


def _plus(left: Any, right: Any) -> Any:
    allowance = current()
    if type(left) is type(right) and type(left) in (list, tuple):
        (size, depth), (more, deeper) = allowance.measure(left), allowance.measure(right)
        allowance.room(size + more, "list")
        allowance.text((len(left) + len(right)) * ITEM)
        both = left + right
        allowance.keep(both, size + more, max(depth, deeper))
        return both
    if isinstance(left, str | bytes) and isinstance(right, str | bytes):
        allowance.room(len(left) + len(right))
    return allowance.made(left + right)


def times(left: Any, right: Any) -> Any:
    allowance = current()
    if isinstance(left, int) and isinstance(right, int):
        allowance.number(left.bit_length() + right.bit_length())
    for value, count in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(value, str | bytes | list | tuple):
            allowance.room(allowance.size(value) * count, "text" if isinstance(value, str) else "list")
    return allowance.made(left * right)


def power(left: Any, right: Any) -> Any:
    allowance = current()
    if isinstance(left, int) and isinstance(right, int):
        allowance.number(left.bit_length() * right)
    return allowance.made(left**right)


def modulo(left: Any, right: Any) -> Any:
    """The rest of a division; behind a text, `%` fills it in."""
    allowance = current()
    if isinstance(left, str | bytes):
        allowance.room(_filled(left if isinstance(left, str) else left.decode("latin-1"), right))
    return allowance.made(left % right)


def _filled(text: str, values: Any) -> int:
    # A name may hold parentheses of its own: then every number could be a width.
    pattern = re.compile(r"(\d+)()") if "%(" in text else _FIELD
    fields = pattern.findall(text)
    widths = sum(_width(number) for field in fields for number in field)
    if any("*" in field for field in fields):
        widths += sum(abs(v) for v in values if isinstance(v, int)) if isinstance(values, tuple) else 0
    uses = text.count("%") if isinstance(values, Mapping) else 1
    return len(text) + widths + uses * current().size(values)


def _width(number: str) -> int:
    return int(number) if number.isdecimal() and len(number) < 10 else SIZE_LIMIT * number.isdecimal()


def linked(parts: tuple[Any, ...]) -> str:
    """`a ~ b`"""
    return joined([shown(part) for part in parts])


def shown(value: Any) -> str:
    return value if type(value) is str else current().made(str(value))


def literal(value: Any) -> Any:
    return current().made(value)


def sliced(value: Any) -> Any:
    """No deeper than what it was cut from."""
    current().text(len(value) * (1 if isinstance(value, str | bytes) else ITEM))
    return value


def spread(value: Any) -> Any:
    """Behind the star of a call."""
    if isinstance(value, str):
        current().room(len(value) * ITEM, "list")
    return value


@pass_context
def step(context: Context, value: Any) -> bool:
    # With the context Jinja takes it for no constant.
    allowance = current()
    if allowance.clock() > allowance.end:
        allowance.tick()
    return True


# By names that no template can write.
FILTERS: dict[str, Callable[..., Any]] = {
    "+": added, "*": times, "**": power, "%": modulo, "~": linked, "[]": literal, "[:]": sliced,
    "{{}}": shown, "()": spread, "step": step,
}  # fmt: skip
_TEXTS = {"~", "trim", "tojson", "string", "upper", "lower"}
_CONSTANTS = (nodes.Const, nodes.TemplateData)
_TRUTHS = (nodes.Compare, nodes.Test, nodes.Not)


class Checked(NodeTransformer):
    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _filter(self, name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
        line = node.lineno
        return nodes.Filter(
            node, name, list(args), [], None, None, lineno=line, environment=self._environment
        )

    def _step(self, line: int) -> nodes.Filter:
        return self._filter("step", nodes.Const(True, lineno=line, environment=self._environment))

    def _tuple(self, parts: list[nodes.Expr], line: int) -> nodes.Tuple:
        return nodes.Tuple(parts, "load", lineno=line, environment=self._environment)

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._step(node.lineno), lineno=node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        pairs = zip(operands, node.ops, strict=False)
        if all(_is_short(left, operand) for left, operand in pairs):
            return node
        return nodes.And(self._step(node.lineno), node, lineno=node.lineno, environment=self._environment)

    def visit_Add(self, node: nodes.Add) -> nodes.Filter:
        parts: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):  # a long sum is a deep tree
            parts.append(self.visit(left.right))
            left = left.left
        parts.append(self.visit(left))
        return self._filter("+", self._tuple(parts[::-1], node.lineno))

    def _binary(self, node: nodes.BinExpr) -> nodes.Filter:
        self.generic_visit(node)
        return self._filter(node.operator, node.left, node.right)

    visit_Mul = visit_Pow = visit_Mod = _binary

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return self._filter("~", self._tuple(node.nodes, node.lineno))

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [n if _is_text(n) else self._filter("{{}}", n) for n in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return self._filter("[:]", node) if isinstance(node.arg, nodes.Slice) else node

    def _literal(self, node: Any) -> nodes.Expr:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target or _is_constant(node) else self._filter("[]", node)

    visit_List = visit_Tuple = visit_Dict = _literal

    def _with_arguments(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = self._filter("()", node.dyn_args)
        return node  # type: ignore[no-any-return]

    visit_Call = visit_Filter = visit_Test = _with_arguments


def _is_short(left: nodes.Expr, operand: nodes.Operand) -> bool:
    """Whether comparing takes no time to speak of, because one side is written in the template."""
    if operand.op in ("in", "notin"):
        return _is_constant(operand.expr)
    return any(isinstance(side, (*_CONSTANTS, *_TRUTHS)) for side in (left, operand.expr))


def _is_text(node: nodes.Expr) -> bool:
    """Whether this is a text in any case, counted where it was made."""
    if isinstance(node, nodes.Filter) and node.name == "+" and isinstance(node.node, nodes.Tuple):
        return any(isinstance(part, nodes.Const) and isinstance(part.value, str) for part in node.node.items)
    if isinstance(node, nodes.CondExpr):
        return _is_text(node.expr1) and (node.expr2 is None or _is_text(node.expr2))
    return isinstance(node, _CONSTANTS) or (isinstance(node, nodes.Filter) and node.name in _TEXTS)


def _is_constant(node: nodes.Expr) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(_is_constant(item) for item in node.items)
    if isinstance(node, nodes.Dict):
        return all(_is_constant(pair.key) and _is_constant(pair.value) for pair in node.items)
    return isinstance(node, nodes.Const)
