"""Values that each token has of its own, of tensors and params: from the step IR to an op of torch.library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from recc.backends.torch.emit import function
from recc.backends.torch.layout import all_parts, declared, dim_of, dtype_of, from_parts, ordered, real_dtype
from recc.backends.torch.module import described, executed, finished
from recc.backends.torch.passes import _returned, register, run_op

from recc.ir.node import GRID, substitute, walk
from recc.ir.ops import leaf, spread
from recc.ir.program import Input, Output, Param
from recc.tile.pairs import in_real_numbers, names_of
from recc.tile.program import TileProgram, adjoint, finish, tile

Tensors = Mapping[str, torch.Tensor]
FEW = 64  # rows of a matrix below which a library may add up in another order
TOKENS = 512  # of which a library adds up a product in one order, whatever the number of threads


class Tokenwise:
    """`values` of inputs and params, for any number of tokens: of tensors [tokens, (heads,) dims] and [(heads,) dims]
    by their names, tensors [tokens, (heads,) dims] by theirs. All of one precision."""

    states = saved = ()

    def __init__(self, name: str, inputs: Iterable[Input], params: Iterable[Param], values: Sequence[Output]) -> None:
        """values: in terms of leaves `input` and `param`; at least one of either is read."""
        self.name, nodes = name, [value.value for value in values]
        read = {node["name"] for node in walk(*nodes) if node.op in ("input", "param")}
        inputs, params = ([x for x in items if x.name in read] for items in (inputs, params))
        self.inputs, self.params, self.outputs = ([described(x) for x in items] for items in (inputs, params, values))
        loads = {x.name: tile(x.name, x.axes, x.dtype, rows=False) for x in inputs}
        fixed = {x.name: leaf("param", x.axes, x.dtype, name=x.name) for x in params}
        found = substitute(nodes, {leaf("input", x.axes, x.dtype, name=x.name): loads[x.name] for x in inputs})
        stores = {x.name: spread(node, (GRID, *x.axes)) for x, node in zip(values, found, strict=True)}
        program = in_real_numbers(TileProgram(name, 1, loads, fixed, (), stores))
        back = finish(adjoint(program))
        to_tokens, to_params = replace(back, sums={}), replace(back, stores={})
        self.flows = {"to_tokens": [*back.stores], "to_params": [*back.sums]}
        listed = ", ".join(stores)
        texts = [
            function(finish(program), "of_tokens", f"Of tokens of {name}: {listed}."),
            function(to_tokens, "to_tokens", f"What flows back from {listed} of {name} to tokens."),
            function(to_params, "to_params", f"What flows back from {listed} of {name} to params, of all tokens."),
        ]
        made = finished("\n\n".join(texts), {"name": name, "results": stores.keys()})
        self.meta, self.source = made.meta, made.functions
        self._functions = executed(made.functions, name)
        self._op, self.passes = register(self)

    def __call__(self, inputs: Tensors, params: Tensors) -> dict[str, torch.Tensor]:
        given = [*(inputs[item["name"]] for item in self.inputs), *(params[item["name"]] for item in self.params)]
        found = run_op(self._op, *given, None, False)
        return dict(zip((i["name"] for i in self.outputs), [found] if torch.is_tensor(found) else found))

    # --- passes with the signature of `recc.backends.torch.passes.Passes` ----------------------------------------

    def forward(self, *arguments: Any) -> Any:
        inputs, params = self._split(arguments[:-2])
        count = inputs[0].shape[0]
        if 0 < count < FEW:
            inputs = [torch.cat([x, x[:1].expand(FEW - count, *x.shape[1:])]) for x in inputs]
        results = iter(self._run("of_tokens", inputs, (), params))
        found = [declared(from_parts(results, item), item)[:count] for item in self.outputs]
        return _returned([x.contiguous() for x in found], arguments[:-2])

    def backward(self, *arguments: Any) -> Any:
        count = len(self.outputs)
        grads, (inputs, params) = arguments[:count], self._split(arguments[count:-2])
        found = dict(zip(self.flows["to_tokens"], self._run("to_tokens", inputs, grads, params), strict=True))
        for lo in range(0, inputs[0].shape[0], TOKENS):
            some = [[x[lo : lo + TOKENS] for x in tensors] for tensors in (inputs, grads)]
            for name, part in zip(self.flows["to_params"], self._run("to_params", *some, params), strict=True):
                found[name] = found[name] + part if lo else part
        items = zip((*inputs, *params), (*self.inputs, *self.params), strict=True)
        return _returned([self._gradient(x, item, found) for x, item in items], arguments[:-2])

    @staticmethod
    def _gradient(x: torch.Tensor, item: dict, found: dict[str, torch.Tensor]) -> torch.Tensor:
        names = [f"d_{name}" for name in names_of(item["name"], item["dtype"])]
        values = iter([found[name] if name in found else torch.zeros_like(ordered(x.real, item)) for name in names])
        return declared(from_parts(values, item), item).expand(x.shape).contiguous()

    def fake_forward(self, *arguments: Any) -> Any:
        inputs, params = self._split(arguments[:-2])
        sizes: dict[str, int] = {}
        for tensors, items, lead in ((inputs, self.inputs, 1), (params, self.params, 0)):
            for x, item in zip(tensors, items):
                sizes |= {dim_of(axis): size for axis, size in zip(item["axes"], x.shape[lead:])}
        first = inputs[0]
        shapes = [(first.shape[0], *(sizes[dim_of(axis)] for axis in item["axes"])) for item in self.outputs]
        kinds = [dtype_of(real_dtype(first), item) for item in self.outputs]
        return _returned([first.new_empty(shape, dtype=kind) for shape, kind in zip(shapes, kinds)], ())

    def _run(self, name: str, inputs: Sequence, grads: Sequence, params: Sequence) -> Iterator[torch.Tensor]:
        groups = (inputs, self.inputs), (grads, self.outputs), (params, self.params)
        tensors = [x for values, items in groups for x in all_parts(ordered, values, items)]
        return self._functions[name](None, None, *tensors) if self.flows.get(name, True) else iter(())

    def _split(self, tensors: Any) -> tuple:
        return tensors[: len(self.inputs)], tensors[len(self.inputs) :]
