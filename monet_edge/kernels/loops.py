"""Translate a kernel, a plain Python function of integers, to LLVM IR.

A kernel is written in a small part of Python that needs no type inference, as everything is a 64-bit integer: assignments,
``for`` over ``range``, ``while``, ``if``, arithmetic, comparisons, the fields of its one argument (a step), calls of
micro-kernels. Numba compiles the same functions, but needs 2.4 s of processor time for them instead of 0.1, most of it to find
out that everything is an integer, and then its import in every process that compiles.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .simd import I8, I32, I64, POINTER, Micro
from .step import offset

_ARITHMETIC = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


def translate(kernel: Callable[[Any], None], module: ir.Module) -> None:
    """Add ``kernel`` to ``module`` as ``i32 name(ptr step)``, which returns 0.

    Raises
    ------
    SyntaxError
        Where it uses what is not in the language.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    function = ir.Function(module, ir.FunctionType(I32, [POINTER]), kernel.__name__)
    _Translator(function, tree, kernel.__globals__).function()


class _Translator:
    """One function: its builder, its variables (each in a slot of the stack, which LLVM turns into registers), its globals."""

    def __init__(self, function: ir.Function, tree: ast.FunctionDef, names: dict[str, Any]) -> None:
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.step, self.step_name = function.args[0], tree.args.args[0].arg
        self.tree, self.names = tree, names
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        self.variables = {name: self.slot(name) for name in sorted(stored)}

    def slot(self, name: str) -> Any:
        slot = self.builder.alloca(I64, name=name)
        slot.type = POINTER  # llvmlite writes allocas with typed pointers, which LLVM no longer reads
        return slot

    def function(self) -> None:
        self.block(self.tree.body)
        self.builder.ret(ir.Constant(I32, 0))

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(ast.Constant()):  # docstring
                pass
            case ast.Expr(ast.Call() as call):
                self.value(call)
            case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)):
                for target, value in zip(targets, [self.value(value) for value in values], strict=True):
                    self.store(target, value)
            case ast.Assign([target], value):
                self.store(target, self.value(value))
            case ast.AugAssign(target, op, value):
                self.store(target, self.binary(op, self.load(target), self.value(value)))
            case ast.If(test, body, orelse):
                with self.builder.if_else(self.truth(test)) as (then, otherwise):
                    with then:
                        self.block(body)
                    with otherwise:
                        self.block(orelse)
            case ast.For(target, ast.Call(ast.Name("range"), arguments), body, []):
                self.loop(target, [self.value(argument) for argument in arguments], body)
            case ast.While(test, body, []):
                head, inside, after = (self.builder.append_basic_block(name) for name in ("head", "body", "after"))
                self.builder.branch(head)
                self.builder.position_at_end(head)
                self.builder.cbranch(self.truth(test), inside, after)
                self.builder.position_at_end(inside)
                self.block(body)
                self.builder.branch(head)
                self.builder.position_at_end(after)
            case _:
                self.refuse(node)

    def loop(self, target: ast.expr, bounds: list[Any], body: list[ast.stmt]) -> None:
        """``for target in range(*bounds)`` with a positive step."""
        if len(bounds) == 1:
            bounds = [ir.Constant(I64, 0), *bounds]
        first, stop, step = bounds if len(bounds) == 3 else (*bounds, ir.Constant(I64, 1))
        builder, before = self.builder, self.builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
        builder.position_at_end(inside)
        self.store(target, index)
        self.block(body)
        index.add_incoming(builder.add(index, step), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    def value(self, node: ast.expr) -> Any:
        """The integer that an expression gives."""
        match node:
            case ast.Constant(int() as number):
                return ir.Constant(I64, number)
            case ast.Name():
                return self.load(node)
            case ast.Attribute(ast.Name(name), field) if name == self.step_name:
                address = self.builder.gep(self.step, [ir.Constant(I64, offset(field))], source_etype=I8)
                return self.builder.load(address, typ=I64, align=8)
            case ast.BinOp(left, op, right):
                return self.binary(op, self.value(left), self.value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return self.builder.neg(self.value(operand))
            case ast.IfExp(test, then, otherwise):  # evaluates both
                return self.builder.select(self.truth(test), self.value(then), self.value(otherwise))
            case ast.Call(ast.Name(name), arguments) if isinstance(self.names.get(name), Micro):
                return self.builder.call(self.micro(self.names[name]), [self.value(argument) for argument in arguments])
        return self.refuse(node)

    def truth(self, node: ast.expr) -> Any:
        """The bit that a condition gives; a number is true unless it is zero."""
        match node:
            case ast.Compare(left, [op], [right]) if type(op) in _COMPARISONS:
                return self.builder.icmp_signed(_COMPARISONS[type(op)], self.value(left), self.value(right))
            case ast.BoolOp(op, conditions):
                join = self.builder.and_ if isinstance(op, ast.And) else self.builder.or_
                bits = [self.truth(condition) for condition in conditions]
                result = bits[0]
                for bit in bits[1:]:
                    result = join(result, bit)
                return result
        return self.builder.icmp_signed("!=", self.value(node), ir.Constant(I64, 0))

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if type(op) in _ARITHMETIC:
            return getattr(self.builder, _ARITHMETIC[type(op)])(left, right)
        if not isinstance(op, ast.FloorDiv | ast.Mod):
            raise SyntaxError(f"{self.tree.name}: {ast.unparse(ast.BinOp(ast.Name('a'), op, ast.Name('b')))} is not known to kernels")
        rest = self.builder.srem(left, right)  # rounds towards zero; Python, for a positive divisor, towards minus infinity
        low = self.builder.icmp_signed("<", rest, ir.Constant(I64, 0))
        if isinstance(op, ast.Mod):
            return self.builder.select(low, self.builder.add(rest, right), rest)
        return self.builder.sub(self.builder.sdiv(left, right), self.builder.zext(low, I64))

    def micro(self, micro: Micro) -> ir.Function:
        module = self.builder.module
        if micro.name not in module.globals:
            ir.Function(module, ir.FunctionType(I64, [I64] * micro.arguments), micro.name)
        return module.globals[micro.name]

    def load(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in self.variables:
            return self.builder.load(self.variables[node.id], typ=I64)
        if isinstance(node, ast.Name) and type(self.names.get(node.id)) is int:
            return ir.Constant(I64, self.names[node.id])
        return self.refuse(node)

    def store(self, node: ast.expr, value: Any) -> None:
        if not isinstance(node, ast.Name):
            self.refuse(node)
        self.builder.store(value, self.variables[node.id])  # type: ignore[attr-defined]

    def refuse(self, node: ast.AST) -> Any:
        raise SyntaxError(f"{self.tree.name}, line {getattr(node, 'lineno', '?')}: {ast.unparse(node)} is not known to kernels")
