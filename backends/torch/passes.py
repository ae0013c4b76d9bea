"""The two passes of a compiled recurrence, and their registration with torch.library. Generated files carry this text.

The passes take whole sequences, cut them into tiles, and run the generated tile functions over segments of chunks: as
many at a time as keep the largest tile within a budget. What the forward pass keeps is the states that enter chunks.
"""

import math

import torch
from recc.backends.torch.layout import (
    Layout,
    chunk_bound,
    declared,
    dim_of,
    dtype_of,
    ordered,
    tile_order,
    working_dtype,
)

# Elements of the largest tile that is worked on at a time: what stays in a CPU's caches, what fills a GPU.
BUDGET = {"cpu": 1 << 18, "cuda": 1 << 26}


class ArgumentError(ValueError):
    """A compiled recurrence was called with a tensor that does not fit its spec."""


class Passes:
    """A recurrence's forward and backward pass on tensors [batch, time, (heads,) dims], one after the other as given.

    meta: the op's description. Arguments: inputs, params, initial states, cu_seqlens or None, reverse.
    """

    def __init__(self, meta, forward_tiles, backward_tiles):
        self.meta, self.name, self.rows = meta, meta["name"], meta["chunk"]
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self._forward_tiles, self._backward_tiles = forward_tiles, backward_tiles
        self.budget = dict(BUDGET)

    def forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        if cu_seqlens is not None:
            check_bounds(cu_seqlens.tolist(), inputs[0].shape[1])
        working, layout = working_dtype(inputs), self._layout(inputs, cu_seqlens, reverse)
        tiles = [layout.tiles(x, tile_order(item), dtype_of(working, item)) for x, item in zip(inputs, self.inputs)]
        fixed = [ordered(x, item).to(dtype_of(working, item)) for x, item in zip(params, self.params)]
        held = [layout.states(x, tile_order(item), dtype_of(working, item)) for x, item in zip(states, self.states)]
        count, carried, every = len(self.outputs), len(self.states), self.meta["checkpoint"]
        outputs, saved = [[] for _ in self.outputs], [[] for _ in self.states]
        for segment in layout.segments(self._per_segment(layout, tiles, fixed, held)):
            results = self._forward_tiles(segment.spans, segment.end, *segment.of(tiles), *fixed, *held)
            held = results[count : count + carried]
            for parts, value in zip(outputs, results):
                parts.append(value)
            kept = [slice(*span) for span in segment.spans[::every]]
            for parts, entered in zip(saved, results[count + carried :]):
                # copies: a view would keep the states of every token
                parts.extend([entered] if every == 1 else [entered[span].clone() for span in kept])
        outputs = [torch.cat(parts) if parts else self._nothing(item, tiles, fixed, held)
                   for parts, item in zip(outputs, self.outputs)]  # fmt: skip
        first = inputs[0].dtype
        outputs = [layout.tensor(x, tile_order(item), dtype_of(first, item)) for x, item in zip(outputs, self.outputs)]
        finals = [layout.back(x, tile_order(item), dtype_of(working, item)) for x, item in zip(held, self.states)]
        saved = [padded(parts, x, self._bound(layout, cu_seqlens)) for parts, x in zip(saved, held)]
        return _returned((*outputs, *finals, *saved), tensors)

    def backward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        carried, count, every = len(self.states), len(self.outputs), self.meta["checkpoint"]
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[:carried], tensors[carried:]
        inputs, params, states = self._split(tensors)
        working, layout = working_dtype(inputs), self._layout(inputs, cu_seqlens, reverse)
        tiles = [layout.tiles(x, tile_order(item), dtype_of(working, item)) for x, item in zip(inputs, self.inputs)]
        fixed = [ordered(x, item).to(dtype_of(working, item)) for x, item in zip(params, self.params)]
        into = [
            layout.tiles(x, tile_order(item), dtype_of(working, item), fill=False)
            for x, item in zip(grads, self.outputs)
        ]
        held = [
            layout.states(x, tile_order(item), dtype_of(working, item)) for x, item in zip(grads[count:], self.states)
        ]
        names, found = self.meta["gradients"], {}
        length = self._per_segment(layout, tiles, fixed, held) if every == 1 else every
        at = sum(hi - lo for lo, hi in layout.spans[::every])
        for segment in reversed(layout.segments(length)):
            loads = segment.of(tiles)
            size = sum(hi - lo for lo, hi in segment.spans[::every])
            entered = [x[at - size : at] for x in saved]
            at -= size
            if every > 1:  # only the segment's first states were kept: the others are run again
                entered = self._forward_tiles(segment.spans, segment.end, *loads, *fixed, *entered)[count + carried :]
            results = self._backward_tiles(
                segment.spans, segment.end, *loads, *segment.of(into), *entered, *fixed, *reversed(held)
            )
            held = list(results[len(results) - carried :][::-1])
            for name, value in zip(names, results[: len(results) - carried]):
                found.setdefault(name, []).append(value)
        out = []
        for x, item in zip(inputs, self.inputs):
            parts = found.get(f"d_{item['name']}")
            out.append(
                layout.tensor(torch.cat(parts[::-1]), tile_order(item), x.dtype) if parts else torch.zeros_like(x)
            )
        for x, item in zip(params, self.params):
            parts = found.get(f"d_{item['name']}")
            out.append(
                declared(sum(parts), item).to(x.dtype).expand(x.shape).contiguous() if parts else torch.zeros_like(x)
            )
        for x, item, value in zip(states, self.states, held):
            out.append(layout.back(value, tile_order(item), x.dtype))
        return _returned(out, (*grads, *tensors))

    def _per_segment(self, layout, tiles, params, states):
        """How many places of a sequence are worked on at a time: as many as keep the largest tile within a budget."""
        sizes = self._tile_sizes(tiles, params, states)
        largest = max((math.prod(sizes[dim_of(axis)] for axis in axes) for axes in self.meta["working"]), default=1)
        budget = self.budget.get(tiles[0].device.type, self.budget["cuda"])
        widest = layout.spans[0][1] if layout.spans else 1
        every = self.meta["checkpoint"]
        return max(1, budget // max(1, largest * widest * every)) * every

    def _tile_sizes(self, tiles, params, states):
        sizes = {"@t": self.rows, "@s": self.rows, "@r": 1, "@r'": 1}
        row = [] if self.rows == 1 else ["@t"]
        for x, item in zip(tiles, self.inputs):
            heads = [axis for axis in item["tile"] if axis == "heads"]
            sizes |= dict(zip([*heads, *row, *(a for a in item["tile"] if a != "heads")], x.shape[1:]))
        for x, item in [*zip(params, self.params)]:
            sizes |= dict(zip(item["tile"], x.shape))
        for x, item in zip(states, self.states):
            sizes |= dict(zip(item["tile"], x.shape[1:]))
        return sizes

    def _bound(self, layout, cu_seqlens):
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        return chunk_bound(layout.batch, layout.time, self.rows * self.meta["checkpoint"], sequences)

    def _nothing(self, item, tiles, params, states):
        """A tile of no chunk: what an output is when there is no token."""
        sizes = self._tile_sizes(tiles, params, states)
        heads = ["heads"] if "heads" in item["tile"] else []
        row = [] if self.rows == 1 else ["@t"]
        shape = [sizes[axis] for axis in [*heads, *row, *(a for a in item["tile"] if a != "heads")]]
        like = tiles[0]
        return torch.empty(0, *shape, dtype=dtype_of(like.dtype, item), device=like.device)

    def _split(self, tensors):
        a, b = len(self.inputs), len(self.inputs) + len(self.params)
        return tensors[:a], tensors[a:b], tensors[b:]

    def _layout(self, inputs, cu_seqlens, reverse):
        return Layout(inputs[0].shape[0], inputs[0].shape[1], self.rows, cu_seqlens, reverse, inputs[0].device)

    def fake_forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        working, first = working_dtype(inputs), inputs[0]
        batch, time = first.shape[:2]
        sizes = {axis: size for x, item in zip(inputs, self.inputs) for axis, size in zip(item["axes"], x.shape[2:])}
        sizes |= {axis: size for x, item in zip(params, self.params) for axis, size in zip(item["axes"], x.shape)}
        sizes |= {axis: size for x, item in zip(states, self.states) for axis, size in zip(item["axes"], x.shape[1:])}
        outputs = [first.new_empty(batch, time, *(sizes[a] for a in item["axes"]), dtype=dtype_of(first.dtype, item))
                   for item in self.outputs]  # fmt: skip
        finals = [x.new_empty(x.shape) for x in states]
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        bound = chunk_bound(batch, time, self.rows * self.meta["checkpoint"], sequences)
        saved = [
            first.new_empty(bound, *(sizes[a] for a in item["tile"]), dtype=dtype_of(working, item))
            for item in self.states
        ]
        return _returned((*outputs, *finals, *saved), ())


def register(passes):
    """Defines the two passes with torch.library, with shapes for tracing and the derivative. Returns the forward op and
    the passes that it runs: those of equal text that were registered before, if there are any."""
    digest, library = passes.meta["digest"], torch.library.Library("recc", "FRAGMENT")
    names = [f"{passes.name}_{digest}_forward", f"{passes.name}_{digest}_backward"]
    tensors = len(passes.inputs) + len(passes.params) + len(passes.states)
    results, saved = len(passes.outputs) + len(passes.states), len(passes.states)
    if not hasattr(torch.ops.recc, names[0]):
        listed = ", ".join(f"Tensor x{i}" for i in range(tensors))
        given = ", ".join(f"Tensor g{i}" for i in range(results + saved))
        tail = "Tensor? cu_seqlens, bool reverse"
        library.define(f"{names[0]}({listed}, {tail}) -> ({', '.join(['Tensor'] * (results + saved))})")
        library.define(f"{names[1]}({given}, {listed}, {tail}) -> ({', '.join(['Tensor'] * tensors)})")
        library.impl(names[0], lambda *x: in_full_precision(passes.forward, *x), "CompositeExplicitAutograd")
        library.impl(names[1], lambda *x: in_full_precision(passes.backward, *x), "CompositeExplicitAutograd")
        torch.library.register_fake(f"recc::{names[0]}", passes.fake_forward, lib=library)
        torch.library.register_fake(
            f"recc::{names[1]}",
            lambda *args: _returned([x.new_empty(x.shape) for x in args[results + saved : -2]], ()),
            lib=library,
        )
        backward = getattr(torch.ops.recc, names[1])

        def setup(ctx, inputs, output):
            *given, cu_seqlens, reverse = inputs
            ctx.reverse, ctx.packed = reverse, cu_seqlens is not None
            output = [output] if torch.is_tensor(output) else output
            ctx.mark_non_differentiable(*output[results:])
            ctx.save_for_backward(*output[results:], *given, *([cu_seqlens] if ctx.packed else []))
            ctx.set_materialize_grads(True)

        def derive(ctx, *grads):
            kept = ctx.saved_tensors
            cu_seqlens = kept[-1] if ctx.packed else None
            kept = kept[:-1] if ctx.packed else kept
            found = backward(*grads[:results], *kept, cu_seqlens, ctx.reverse)
            return *([found] if torch.is_tensor(found) else found), None, None

        def refuse(ctx, *grads):
            raise RuntimeError(f"{passes.name}: second derivatives are not supported")

        torch.library.register_autograd(f"recc::{names[0]}", derive, setup_context=setup, lib=library)
        torch.library.register_autograd(f"recc::{names[1]}", refuse, lib=library)
        _REGISTERED[names[0]] = passes, library
    return getattr(torch.ops.recc, names[0]), _REGISTERED.get(names[0], (passes,))[0]


_REGISTERED = {}  # by name: the passes, and the library, whose ops live as long as it does


def in_full_precision(run, *arguments):
    """run(*arguments) outside of any autocast: what is accumulated in float32 must stay so."""
    device = next(x.device.type for x in arguments if torch.is_tensor(x))
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return run(*arguments)
    return run(*arguments)


def _returned(results, arguments):
    """`results` as an op of torch.library returns them: one alone as it is, none in the memory of an argument."""
    taken = {x.untyped_storage().data_ptr() for x in arguments if x.numel()}
    results = [x.clone() if taken and x.numel() and x.untyped_storage().data_ptr() in taken else x for x in results]
    return results[0] if len(results) == 1 else tuple(results)


def refuse_forward_mode(name, tensors):
    """torch would drop the tangents of forward-mode derivatives without a word."""
    forward = torch.autograd.forward_ad
    if forward._current_level >= 0 and any(forward.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(f"{name}: forward-mode derivatives are not supported; use backward(), or `step`")


def padded(parts, like, bound):
    """`parts` one after the other, with zeros up to `bound` entries."""
    missing = bound - sum(part.shape[0] for part in parts)
    return torch.cat([*parts, like.new_zeros(missing, *like.shape[1:])]) if missing or len(parts) != 1 else parts[0]


def check_bounds(bounds, time):
    """The values of `cu_seqlens`, which are known when the op runs and not while it is traced."""
    if bounds[0] != 0 or bounds[-1] != time:
        raise ArgumentError(f"`cu_seqlens` must run from 0 to the time {time}, not from {bounds[0]} to {bounds[-1]}")
    if any(b < a for a, b in zip(bounds, bounds[1:])):
        raise ArgumentError("`cu_seqlens` must not decrease")
