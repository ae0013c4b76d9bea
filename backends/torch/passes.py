"""The two passes of a compiled recurrence, and their registration with torch.library. Generated files carry this text.

The passes take whole sequences, cut them into tiles, and run the generated tile functions over segments of chunks: as
many at a time as keep the largest tile within a budget. What the forward pass keeps is the states that enter chunks.
"""

import functools
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
        self.states, self.outputs, self.saved = meta["states"], meta["outputs"], meta["saved"]
        self._forward_tiles, self._backward_tiles = forward_tiles, backward_tiles
        self.functions = forward_tiles.__globals__  # what the generated text defines, and what the solvers leave there
        self.budget = dict(BUDGET)
        keep_freed_memory()

    def forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        if cu_seqlens is not None:
            check_bounds(cu_seqlens.tolist(), inputs[0].shape[1])
        working, layout = working_dtype(inputs), self._layout(inputs, cu_seqlens, reverse)
        sizes = self._sizes(inputs, params, states)
        fixed = [ordered(x, item).to(dtype_of(working, item)) for x, item in zip(params, self.params)]
        held = [layout.states(x, tile_order(item), dtype_of(working, item)) for x, item in zip(states, self.states)]
        count, carried, every = len(self.outputs), len(self.states), self.meta["checkpoint"]
        bound = self._bound(layout, cu_seqlens)
        outputs, saved, at = self._empty_outputs(inputs[0], sizes), self._empty_saved(bound, inputs, sizes), 0
        for segment in layout.segments(self._per_segment(layout, sizes, inputs[0].device)):
            results = self._forward_tiles(segment.spans, segment.end, *self._load(segment, inputs), *fixed, *held)
            held = results[count : count + carried]
            for out, value, item in zip(outputs, results, self.outputs):
                segment.store(out, value, tile_order(item))
            for lo, hi in [(0, segment.n)] if every == 1 else segment.spans[::every]:
                for whole, kept in zip(saved, results[count + carried :]):
                    whole[at : at + hi - lo] = kept[lo:hi]
                at += hi - lo
        for whole in saved:
            whole[at:] = 0
        finals = [layout.back(x, tile_order(item), dtype_of(working, item)) for x, item in zip(held, self.states)]
        return _returned((*outputs, *finals, *saved), tensors)

    def backward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        carried, count, every = len(self.states), len(self.outputs), self.meta["checkpoint"]
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[: len(self.saved)], tensors[len(self.saved) :]
        inputs, params, states = self._split(tensors)
        working, layout = working_dtype(inputs), self._layout(inputs, cu_seqlens, reverse)
        fixed = [ordered(x, item).to(dtype_of(working, item)) for x, item in zip(params, self.params)]
        held = [
            layout.states(x, tile_order(item), dtype_of(working, item)) for x, item in zip(grads[count:], self.states)
        ]
        out = {f"d_{item['name']}": torch.empty_like(x) for x, item in zip(inputs, self.inputs)}
        sums, written = {}, {f"d_{item['name']}": tile_order(item) for item in self.inputs}
        per_segment = self._per_segment(layout, self._sizes(inputs, params, states), inputs[0].device)
        at = sum(hi - lo for lo, hi in layout.spans[::every])
        for segment in reversed(layout.segments(per_segment if every == 1 else every)):
            loads = self._load(segment, inputs)
            into = [
                segment.load(x, tile_order(item), dtype_of(working, item), fill=False)
                for x, item in zip(grads, self.outputs)
            ]
            size = sum(hi - lo for lo, hi in segment.spans[::every])
            entered = [x[at - size : at] for x in saved]
            at -= size
            if every > 1:  # only the segment's first states were kept: the others are run again
                entered = self._forward_tiles(segment.spans, segment.end, *loads, *fixed, *entered)[count + carried :]
            results = self._backward_tiles(segment.spans, segment.end, *loads, *into, *entered, *fixed, *reversed(held))
            held = list(results[len(results) - carried :][::-1])
            for name, value in zip(self.meta["gradients"], results[: len(results) - carried]):
                if name in written:
                    segment.store(out[name], value, written[name])
                else:
                    sums[name] = sums[name] + value if name in sums else value
        if not layout.n:
            sums = {}
        unused = set(out) - set(self.meta["gradients"]) if layout.n else set(out)
        found = [torch.zeros_like(x) if name in unused else x for name, x in out.items()]
        for x, item in zip(params, self.params):
            value = sums.get(f"d_{item['name']}")
            given = None if value is None else declared(value, item).to(x.dtype).expand(x.shape).contiguous()
            found.append(torch.zeros_like(x) if given is None else given)
        for x, item, value in zip(states, self.states, held):
            found.append(layout.back(value, tile_order(item), x.dtype))
        return _returned(found, (*grads, *tensors))

    def _load(self, segment, inputs):
        working = working_dtype(inputs)
        return [segment.load(x, tile_order(item), dtype_of(working, item)) for x, item in zip(inputs, self.inputs)]

    def _sizes(self, inputs, params, states):
        """The size of every dim, of heads, and of a tile's axes."""
        sizes = {"@t": self.rows, "@s": self.rows, "@r": 1, **{f"@z{count}": count for count in range(2, 17)}}
        for tensors, items, lead in ((inputs, self.inputs, 2), (params, self.params, 0), (states, self.states, 1)):
            for x, item in zip(tensors, items):
                sizes |= {dim_of(axis): size for axis, size in zip(item["axes"], x.shape[lead:])}
        return sizes

    def _empty_outputs(self, first, sizes):
        """Outputs [batch, time, (heads,) dims] of the first input's dtype, not yet written."""
        return [
            first.new_empty(
                *first.shape[:2], *(sizes[dim_of(a)] for a in item["axes"]), dtype=dtype_of(first.dtype, item)
            )
            for item in self.outputs
        ]

    def _empty_saved(self, chunks, inputs, sizes):
        """What is kept for the backward pass, one entry a chunk: the states that enter it, and its dear tiles."""
        working = working_dtype(inputs)
        shapes = [(chunks, *(sizes[dim_of(axis)] for axis in item["tile"])) for item in self.saved]
        return [inputs[0].new_empty(x, dtype=dtype_of(working, item)) for x, item in zip(shapes, self.saved)]

    def _per_segment(self, layout, sizes, device):
        """How many places of a sequence are worked on at a time: as many as keep the largest tile within a budget."""
        largest = max((math.prod(sizes[dim_of(axis)] for axis in axes) for axes in self.meta["working"]), default=1)
        budget = self.budget.get(device.type, self.budget["cuda"])
        widest = layout.spans[0][1] if layout.spans else 1
        every = self.meta["checkpoint"]
        return max(1, budget // max(1, largest * widest * every)) * every

    def _bound(self, layout, cu_seqlens):
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        return chunk_bound(layout.batch, layout.time, self.rows * self.meta["checkpoint"], sequences)

    def _split(self, tensors):
        a, b = len(self.inputs), len(self.inputs) + len(self.params)
        return tensors[:a], tensors[a:b], tensors[b:]

    def _layout(self, inputs, cu_seqlens, reverse):
        return Layout(inputs[0].shape[0], inputs[0].shape[1], self.rows, cu_seqlens, reverse, inputs[0].device)

    def fake_forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        first = inputs[0]
        batch, time = first.shape[:2]
        sizes = self._sizes(inputs, params, states)
        outputs = self._empty_outputs(first, sizes)
        finals = [x.new_empty(x.shape) for x in states]
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        bound = chunk_bound(batch, time, self.rows * self.meta["checkpoint"], sequences)
        saved = self._empty_saved(bound, inputs, sizes)
        return _returned((*outputs, *finals, *saved), ())


def register(passes):
    """Defines the two passes with torch.library, with shapes for tracing and the derivative. Returns the forward op and
    the passes that it runs: those of equal text that were registered before, if there are any."""
    digest, library = passes.meta["digest"], torch.library.Library("recc", "FRAGMENT")
    names = [f"{passes.name}_{digest}_forward", f"{passes.name}_{digest}_backward"]
    tensors = len(passes.inputs) + len(passes.params) + len(passes.states)
    results, saved = len(passes.outputs) + len(passes.states), len(passes.saved)
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
            ctx.set_materialize_grads(False)  # else torch fills zeros for the saved states, too
            ctx.shapes = [(x.shape, x.dtype, x.device) for x in output[:results]]

        def derive(ctx, *grads):
            kept = ctx.saved_tensors
            cu_seqlens = kept[-1] if ctx.packed else None
            kept = kept[:-1] if ctx.packed else kept
            grads = [
                torch.zeros(shape, dtype=dtype, device=device) if x is None else x
                for x, (shape, dtype, device) in zip(grads, ctx.shapes)
            ]
            found = run_op(backward, *grads, *kept, cu_seqlens, ctx.reverse)
            return *([found] if torch.is_tensor(found) else found), None, None

        def refuse(ctx, *grads):
            raise RuntimeError(f"{passes.name}: second derivatives are not supported")

        for name, keep, rule in ((names[0], setup, derive), (names[1], lambda ctx, inputs, output: None, refuse)):
            torch.library.register_autograd(f"recc::{name}", rule, setup_context=keep, lib=library)
            op = getattr(torch.ops.recc, name)
            op.function = _function(op, keep, rule)  # kept there: a file that is loaded twice defines its ops once
        _REGISTERED[names[0]] = passes, library
    return getattr(torch.ops.recc, names[0]), _REGISTERED.get(names[0], (passes,))[0]


_REGISTERED = {}  # by name: the passes, and the library, whose ops live as long as it does


def _function(op, setup, derive):
    """The op with its derivative as torch.func wants it, which takes none from torch.library."""
    rules = {"forward": lambda *arguments: op(*arguments), "setup_context": setup, "backward": derive}
    rules = {name: staticmethod(rule) for name, rule in rules.items()}
    return type(op.__name__, (torch.autograd.Function,), {**rules, "generate_vmap_rule": True})


def run_op(op, *arguments):
    """op(*arguments), whether or not under a transform of torch.func; also of a function that runs ops."""
    if torch._C._are_functorch_transforms_active() and hasattr(op, "function"):
        kinds = torch._C._functorch.TransformType
        if torch._C._functorch.peek_interpreter_stack().key() != kinds.Functionalize:  # which knows ops alone
            return op.function.apply(*arguments)
    return op(*arguments)


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


@functools.cache
def keep_freed_memory():
    """Frees one block of 32 MiB that nothing has touched. From then on glibc keeps up to 64 MiB of what is freed, where
    it would else give it back and fault it in again on every call: a quarter of a pass's time. Harmless elsewhere."""
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)


def check_bounds(bounds, time):
    """The values of `cu_seqlens`, which are known when the op runs and not while it is traced."""
    if bounds[0] != 0 or bounds[-1] != time:
        raise ArgumentError(f"`cu_seqlens` must run from 0 to the time {time}, not from {bounds[0]} to {bounds[-1]}")
    if any(b < a for a, b in zip(bounds, bounds[1:])):
        raise ArgumentError("`cu_seqlens` must not decrease")


def check_once(cu_seqlens, time):
    """check_bounds, which waits for the device: once for each version of a tensor, also of one that torch rewraps."""
    if cu_seqlens.is_inference():  # these have no version
        return check_bounds(cu_seqlens.tolist(), time)
    storage = torch.multiprocessing.reductions.StorageWeakRef(cu_seqlens.untyped_storage())
    x = cu_seqlens
    own = x._version, x.storage_offset(), x.stride(), x.shape, x.dtype, time
    ref, checked = _CHECKED.get(storage.cdata, (storage, ()))
    if own not in checked:
        check_bounds(cu_seqlens.tolist(), time)
        for key in [key for key, (held, _) in list(_CHECKED.items()) if held.expired()]:
            del _CHECKED[key]
        _CHECKED[storage.cdata] = ref, (*checked, own)[-8:]


_CHECKED = {}  # by storage: a weak reference, which keeps its address from being used again, and what was checked there
