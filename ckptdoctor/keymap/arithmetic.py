"""`where: {i: "j * 8 // 12"}`: whole-number arithmetic over captures, read into a tree and never run as text."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

LONGEST = 200
LARGEST = 10**12

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
}
HINT = "whole numbers, captures of the target, + - * // % and parentheses"


class ArithmeticProblem(ValueError):
    """An expression that is wrong, or has no value here; `.hint` says what to write."""

    def __init__(self, message: str, hint: str = HINT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """An expression over named whole numbers. Equal texts are equal expressions."""

    text: str
    names: frozenset[str] = field(compare=False)
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Arithmetic:
        """Read an expression. Raises ArithmeticProblem for anything else than `HINT` lists."""
        if len(text) > LONGEST:
            raise ArithmeticProblem(f"longer than {LONGEST} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ArithmeticProblem(f"{text!r} is no arithmetic") from None
        return cls(text, frozenset(_names(tree)), tree)

    def value(self, numbers: Mapping[str, int]) -> int:
        """The value for these numbers. Raises ArithmeticProblem where there is none, or where it is negative or huge."""
        value = _value(self._tree, numbers)
        if value < 0:
            given = ", ".join(f"{name} = {numbers[name]}" for name in sorted(self.names))
            raise ArithmeticProblem(f"{self.text} is {value} where {given}", "a number in a key is not negative")
        return value

    def __str__(self) -> str:
        return self.text


def _names(tree: ast.expr) -> Iterator[str]:
    """The names in a tree, which must be made of what we know."""
    if isinstance(tree, ast.Name):
        yield tree.id
    elif isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        yield from _names(tree.left)
        yield from _names(tree.right)
    elif isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        yield from _names(tree.operand)
    elif not (isinstance(tree, ast.Constant) and type(tree.value) is int and tree.value < LARGEST):
        raise ArithmeticProblem(f"{ast.unparse(tree)} has no meaning in where")


def _value(tree: ast.expr, numbers: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return numbers[tree.id]
    if isinstance(tree, ast.UnaryOp):
        return -_value(tree.operand, numbers)
    if not isinstance(tree, ast.BinOp):
        assert isinstance(tree, ast.Constant)
        assert isinstance(tree.value, int)
        return tree.value
    left, right = _value(tree.left, numbers), _value(tree.right, numbers)
    try:
        value = _OPERATORS[type(tree.op)](left, right)
    except ZeroDivisionError:
        given = ", ".join(f"{name} = {numbers[name]}" for name in sorted(set(_names(tree))))
        message = f"{ast.unparse(tree)} divides by zero" + (f" where {given}" if given else "")
        raise ArithmeticProblem(message, "divide by another number") from None
    if abs(value) > LARGEST:
        raise ArithmeticProblem(f"{ast.unparse(tree)} is too large")
    return value
