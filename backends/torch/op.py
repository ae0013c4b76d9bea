"""The contract of a compiled recurrence around its generated tile functions. Generated files carry this text along.

Layout [batch, time, heads, dims]; inputs that are scalar per head are [batch, time, heads]; `shared` inputs have no
heads axis. States are float32 (float64 when an input is), outputs have the dtype of the first input.
"""

import math

import torch
from recc.backends.torch.layout import Layout, chunk_bound

# Elements of the largest tile that is worked on at a time: what stays in a CPU's caches, what fills a GPU.
BUDGET = {"cpu": 1 << 18, "cuda": 1 << 26}


class ArgumentError(ValueError):
    """A compiled recurrence was called with a tensor that does not fit its spec."""


class Op:
    """A recurrence as a function of tensors.

        o = op(q, k, v, ...)                                    # the spec's inputs, then its params; names work too
        o, state = op(..., initial_state=state, return_final_state=True)
        o = op(..., cu_seqlens=offsets)                         # sequences packed along time, batch 1
        o = op(..., reverse=True)                               # from the last token to the first
        o, state = op.step(..., state=state)                    # one token, without the time axis

    A state is a dict from the names of the spec's states to tensors [batch, heads, dims]; where a spec has one
    state, the tensor alone is taken too. Gradients flow to every tensor and to the initial state; the backward pass
    stores one state per chunk. Raises ArgumentError where a tensor does not fit.
    """

    def __init__(self, meta, forward_tiles, backward_tiles, step_tiles, initial_tiles):
        self.meta = meta
        self.name, self.rows = meta["name"], meta["chunk"]
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self._forward_tiles, self._backward_tiles = forward_tiles, backward_tiles
        self._step_tiles, self._initial_tiles = step_tiles, initial_tiles
        self.__name__, self.__doc__ = self.name, meta["doc"]
        self._forward = _register(self)

    def __repr__(self):
        arguments = ", ".join(item["name"] for item in (*self.inputs, *self.params))
        return f"<recurrence {self.name}({arguments}), {self.meta['strategy']}>"

    # --- calls ---------------------------------------------------------------------------------------------

    def __call__(self, *tensors, initial_state=None, return_final_state=False, cu_seqlens=None, reverse=False,
                 validate=False, **named):  # fmt: skip
        inputs, params = self._arguments(tensors, named, time=True)
        sizes = self._check(inputs, params, time=True)
        batch, heads = sizes["batch"], sizes["heads"]
        if cu_seqlens is not None:
            cu_seqlens = _check_offsets(cu_seqlens, batch)
        if validate:
            self._validate(inputs)
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        inputs = [_share(x, item, heads, 2) for x, item in zip(inputs, self.inputs)]
        states = self._enter(initial_state, sequences, sizes, inputs, params)
        _refuse_forward_mode(self.name, (*inputs, *params, *states))
        results = self._forward(*inputs, *params, *states, cu_seqlens, bool(reverse))
        results = [results] if torch.is_tensor(results) else results
        outputs = results[: len(self.outputs)]
        output = outputs[0] if len(outputs) == 1 else tuple(outputs)
        if not return_final_state:
            return output
        finals = results[len(outputs) : len(outputs) + len(self.states)]
        return output, {item["name"]: value for item, value in zip(self.states, finals)}

    def step(self, *tensors, state=None, **named):
        """One token: tensors without the time axis, then the state. Returns (output, new state)."""
        count = len(self.inputs) + len(self.params)
        if state is None and len(tensors) + len(named) == count + 1 and tensors:
            *tensors, state = tensors
        elif state is None and len(tensors) == len(self.inputs) + 1 and len(named) == len(self.params):
            *tensors, state = tensors
        inputs, params = self._arguments(tensors, named, time=False)
        sizes = self._check(inputs, params, time=False)
        states = self._enter(state, sizes["batch"], sizes, inputs, params)
        dtype = _working(inputs)
        tiles = [_share(x, item, sizes["heads"], 1) for x, item in zip(inputs, self.inputs)]
        tiles = [_order(x, item).to(_like(dtype, item)) for x, item in zip(tiles, self.inputs)]
        fixed = [_order(x, item).to(_like(dtype, item)) for x, item in zip(params, self.params)]
        held = [_order(x, item).to(_like(dtype, item)) for x, item in zip(states, self.states)]
        results = _in_full_precision(self._step_tiles, *tiles, *fixed, *held)
        count = len(self.outputs)
        outputs = [_unorder(x, item).to(_like(inputs[0].dtype, item)) for x, item in zip(results[:count], self.outputs)]
        finals = {item["name"]: _unorder(x, item) for x, item in zip(results[count:], self.states)}
        return (outputs[0] if count == 1 else tuple(outputs)), finals

    def initial_state(self, batch, *, heads=None, sizes=None, params=(), dtype=torch.float32, device=None):
        """The state before the first token, as the spec gives it: a dict of tensors [batch, heads, dims].

        sizes: the spec's dims, {"K": 64, ...}. params: the params' tensors, where initial values depend on them.
        """
        sizes = {**self.meta["dims"], **(sizes or {}), "heads": heads}
        like = params[0] if len(params) else torch.empty((), dtype=dtype, device=device)
        fixed = [_order(x, item).to(_like(_working([like]), item)) for x, item in zip(params, self.params)]
        values = self._initial_tiles(*fixed) if self.meta["initial"] else [0.0] * len(self.states)
        state = {}
        for item, value in zip(self.states, values):
            if value is None:
                raise ArgumentError(f"{self.name}: state `{item['name']}` has no initial value: pass `initial_state`")
            shape = [batch, *(_known(sizes, axis, item, self.name) for axis in item["axes"])]
            if torch.is_tensor(value):
                value = _unorder(value.expand(batch, *[shape[1 + item["axes"].index(a)] for a in item["tile"]]), item)
                state[item["name"]] = value
            else:
                kind = _like(_working([like]), item)
                state[item["name"]] = torch.full(shape, value, dtype=kind, device=like.device)
        return state

    # --- arguments -----------------------------------------------------------------------------------------

    def _arguments(self, tensors, named, time):
        items = [*self.inputs, *self.params]
        names = [item["name"] for item in items]
        if len(tensors) > len(names):
            raise ArgumentError(f"{self.name} takes {len(names)} tensors ({', '.join(names)}), not {len(tensors)}")
        given = dict(zip(names, tensors))
        for name, value in named.items():
            if name not in names:
                raise ArgumentError(f"{self.name} has no input or param `{name}`; it takes {', '.join(names)}")
            if name in given:
                raise ArgumentError(f"{self.name}: `{name}` is given twice, by place and by name")
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            listing = ", ".join(f"`{name}`" for name in missing)
            raise ArgumentError(f"{self.name} misses {listing}; it takes {', '.join(names)}")
        for name, value in given.items():
            if not torch.is_tensor(value):
                raise ArgumentError(f"{self.name}: `{name}` must be a tensor, not {type(value).__name__}")
        values = [given[name] for name in names]
        return values[: len(self.inputs)], values[len(self.inputs) :]

    def _check(self, inputs, params, time):
        """Shapes, dtypes and devices against the spec, in its own names. Returns the size of every dim."""
        lead = ("batch", "time") if time else ("batch",)
        found = {dim: (size, "the spec") for dim, size in self.meta["dims"].items() if size is not None}
        heads = None
        device, kind = None, {True: "complex", False: "real"}
        for x, item, first in [*((x, i, lead) for x, i in zip(inputs, self.inputs)),
                               *((x, i, ()) for x, i in zip(params, self.params))]:  # fmt: skip
            name, axes = item["name"], (*first, *item["axes"])
            if x.dim() != len(axes):
                raise ArgumentError(f"`{name}` is {_shape(x)} but must be [{', '.join(map(_dim, axes))}]")
            if not (x.is_floating_point() or x.is_complex()):
                raise ArgumentError(f"`{name}` is {x.dtype}, which is no floating-point dtype")
            if x.is_complex() and item["dtype"] == "real":
                raise ArgumentError(f"`{name}` is {x.dtype} but the spec declares it {kind[False]}")
            if device is not None and x.device != device[0]:
                raise ArgumentError(f"`{name}` is on {x.device} but `{device[1]}` is on {device[0]}")
            device = device or (x.device, name)
            for axis, size in zip(axes, x.shape):
                if axis == "heads":
                    if heads is None or size > heads[0]:
                        heads = (size, name)
                    continue
                dim = _dim(axis)
                if dim in found and size != found[dim][0]:
                    source = found[dim][1] if found[dim][1] == "the spec" else f"`{found[dim][1]}`"
                    raise ArgumentError(f"`{name}` is {_shape(x)} but {dim} = {found[dim][0]} from {source}")
                found.setdefault(dim, (size, name))
        for x, item, first in [*((x, i, len(lead)) for x, i in zip(inputs, self.inputs)),
                               *((x, i, 0) for x, i in zip(params, self.params))]:  # fmt: skip
            if "heads" in item["axes"] and heads is not None:
                own = x.shape[first]
                fits = own == heads[0] or (first and own > 0 and heads[0] % own == 0)
                if not fits:
                    rule = "which do not divide" if first else "but there must be"
                    raise ArgumentError(f"`{item['name']}` has {own} heads, {rule} the {heads[0]} of `{heads[1]}`")
        sizes = {dim: size for dim, (size, _) in found.items()}
        return {**sizes, "heads": heads[0] if heads else None}

    def _enter(self, state, sequences, sizes, inputs, params):
        """The initial states as a list, checked."""
        working = _working(inputs)
        if state is None:
            made = self.initial_state(sequences, heads=sizes["heads"], sizes=sizes, params=params,
                                      dtype=working, device=inputs[0].device)  # fmt: skip
            return [made[item["name"]].to(_like(working, item)) for item in self.states]
        names = [item["name"] for item in self.states]
        if torch.is_tensor(state):
            if len(names) != 1:
                listing = ", ".join(names)
                raise ArgumentError(f"{self.name} has the states {listing}: pass a dict of them, not one tensor")
            state = {names[0]: state}
        if not isinstance(state, dict) or sorted(state) != sorted(names):
            got = ", ".join(state) if isinstance(state, dict) else type(state).__name__
            raise ArgumentError(f"the state of {self.name} is a dict of {', '.join(names)}, not of {got}")
        values = []
        for item in self.states:
            value = state[item["name"]]
            if not torch.is_tensor(value):
                raise ArgumentError(f"state `{item['name']}` must be a tensor, not {type(value).__name__}")
            if value.is_complex() and item["dtype"] != "complex":
                raise ArgumentError(f"state `{item['name']}` is {value.dtype} but the spec declares it real")
            want = [sequences, *(_known(sizes, axis, item, self.name) for axis in item["axes"])]
            if list(value.shape) != want:
                axes = ", ".join(["batch", *map(_dim, item["axes"])])
                raise ArgumentError(f"state `{item['name']}` is {_shape(value)} but must be {want} [{axes}]")
            if value.device != inputs[0].device:
                where = inputs[0].device
                raise ArgumentError(f"state `{item['name']}` is on {value.device} but the inputs are on {where}")
            values.append(value.to(_like(working, item)))
        return values

    def _validate(self, inputs):
        """Whether the inputs lie in the domains that the spec declares for them."""
        for x, item in zip(inputs, self.inputs):
            low, high, unit = item["domain"]
            x = x.detach().double() if not x.is_complex() else x
            if low is not None and bool((x < low).any()):
                raise ArgumentError(f"`{item['name']}` must be >= {low:g}, and its least value is {x.min().item():.6g}")
            if high is not None and bool((x > high).any()):
                raise ArgumentError(
                    f"`{item['name']}` must be <= {high:g}, and its largest value is {x.max().item():.6g}"
                )
            if unit and bool(((x.norm(dim=-1) - 1).abs() > 1e-2).any()):
                raise ArgumentError(f"`{item['name']}` must have L2 norm 1 along its last axis")

    # --- the two passes ------------------------------------------------------------------------------------

    def _run_forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        if cu_seqlens is not None:
            _check_bounds(cu_seqlens.tolist(), inputs[0].shape[1])
        working, layout = _working(inputs), self._layout(inputs, cu_seqlens, reverse)
        tiles = [layout.tiles(x, _places(item), _like(working, item)) for x, item in zip(inputs, self.inputs)]
        fixed = [_order(x, item).to(_like(working, item)) for x, item in zip(params, self.params)]
        held = [layout.states(x, _places(item), _like(working, item)) for x, item in zip(states, self.states)]
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
        outputs = [layout.tensor(x, _places(item), _like(first, item)) for x, item in zip(outputs, self.outputs)]
        finals = [layout.back(x, _places(item), _like(working, item)) for x, item in zip(held, self.states)]
        saved = [_padded(parts, x, self._bound(layout, cu_seqlens)) for parts, x in zip(saved, held)]
        return _returned((*outputs, *finals, *saved), tensors)

    def _run_backward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        carried, count, every = len(self.states), len(self.outputs), self.meta["checkpoint"]
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[:carried], tensors[carried:]
        inputs, params, states = self._split(tensors)
        working, layout = _working(inputs), self._layout(inputs, cu_seqlens, reverse)
        tiles = [layout.tiles(x, _places(item), _like(working, item)) for x, item in zip(inputs, self.inputs)]
        fixed = [_order(x, item).to(_like(working, item)) for x, item in zip(params, self.params)]
        into = [
            layout.tiles(x, _places(item), _like(working, item), fill=False) for x, item in zip(grads, self.outputs)
        ]
        held = [layout.states(x, _places(item), _like(working, item)) for x, item in zip(grads[count:], self.states)]
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
            out.append(layout.tensor(torch.cat(parts[::-1]), _places(item), x.dtype) if parts else torch.zeros_like(x))
        for x, item in zip(params, self.params):
            parts = found.get(f"d_{item['name']}")
            out.append(
                _unorder(sum(parts), item).to(x.dtype).expand(x.shape).contiguous() if parts else torch.zeros_like(x)
            )
        for x, item, value in zip(states, self.states, held):
            out.append(layout.back(value, _places(item), x.dtype))
        return _returned(out, (*grads, *tensors))

    def _per_segment(self, layout, tiles, params, states):
        """How many places of a sequence are worked on at a time: as many as keep the largest tile within a budget."""
        sizes = self._tile_sizes(tiles, params, states)
        largest = max((math.prod(sizes[_dim(axis)] for axis in axes) for axes in self.meta["working"]), default=1)
        budget = BUDGET.get(states[0].device.type if states else tiles[0].device.type, BUDGET["cuda"])
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
        return torch.empty(0, *shape, dtype=_like(like.dtype, item), device=like.device)

    def _split(self, tensors):
        a, b = len(self.inputs), len(self.inputs) + len(self.params)
        return tensors[:a], tensors[a:b], tensors[b:]

    def _layout(self, inputs, cu_seqlens, reverse):
        return Layout(inputs[0].shape[0], inputs[0].shape[1], self.rows, cu_seqlens, reverse, inputs[0].device)

    def _fake_forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        working, first = _working(inputs), inputs[0]
        batch, time = first.shape[:2]
        sizes = {axis: size for x, item in zip(inputs, self.inputs) for axis, size in zip(item["axes"], x.shape[2:])}
        sizes |= {axis: size for x, item in zip(params, self.params) for axis, size in zip(item["axes"], x.shape)}
        sizes |= {axis: size for x, item in zip(states, self.states) for axis, size in zip(item["axes"], x.shape[1:])}
        outputs = [first.new_empty(batch, time, *(sizes[a] for a in item["axes"]), dtype=_like(first.dtype, item))
                   for item in self.outputs]  # fmt: skip
        finals = [x.new_empty(x.shape) for x in states]
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        bound = chunk_bound(batch, time, self.rows * self.meta["checkpoint"], sequences)
        saved = [
            first.new_empty(bound, *(sizes[a] for a in item["tile"]), dtype=_like(working, item))
            for item in self.states
        ]
        return _returned((*outputs, *finals, *saved), ())


def _register(op):
    """Defines the two passes with torch.library, with shapes for tracing and the derivative. Returns the forward op."""
    digest, library = op.meta["digest"], torch.library.Library("recc", "FRAGMENT")
    names = [f"{op.name}_{digest}_forward", f"{op.name}_{digest}_backward"]
    tensors = len(op.inputs) + len(op.params) + len(op.states)
    results, saved = len(op.outputs) + len(op.states), len(op.states)
    if not hasattr(torch.ops.recc, names[0]):
        listed = ", ".join(f"Tensor x{i}" for i in range(tensors))
        given = ", ".join(f"Tensor g{i}" for i in range(results + saved))
        tail = "Tensor? cu_seqlens, bool reverse"
        library.define(f"{names[0]}({listed}, {tail}) -> ({', '.join(['Tensor'] * (results + saved))})")
        library.define(f"{names[1]}({given}, {listed}, {tail}) -> ({', '.join(['Tensor'] * tensors)})")
        library.impl(names[0], lambda *x: _in_full_precision(op._run_forward, *x), "CompositeExplicitAutograd")
        library.impl(names[1], lambda *x: _in_full_precision(op._run_backward, *x), "CompositeExplicitAutograd")
        torch.library.register_fake(f"recc::{names[0]}", op._fake_forward, lib=library)
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
            raise RuntimeError(f"{op.name}: second derivatives are not supported")

        torch.library.register_autograd(f"recc::{names[0]}", derive, setup_context=setup, lib=library)
        torch.library.register_autograd(f"recc::{names[1]}", refuse, lib=library)
        _LIBRARIES.append(library)
    return getattr(torch.ops.recc, names[0])


_LIBRARIES = []  # a library's ops live as long as it does


def _in_full_precision(run, *arguments):
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


def _refuse_forward_mode(name, tensors):
    """torch would drop the tangents of forward-mode derivatives without a word."""
    forward = torch.autograd.forward_ad
    if forward._current_level >= 0 and any(forward.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(f"{name}: forward-mode derivatives are not supported; use backward(), or `step`")


def _dim(axis):
    return axis.partition("'")[0]


def _shape(x):
    return f"[{', '.join(map(str, x.shape))}]"


def _known(sizes, axis, item, name):
    size = sizes.get(axis if axis == "heads" else _dim(axis))
    if size is None:
        raise ArgumentError(
            f"{name}: the size of {axis}, an axis of state `{item['name']}`, is not known from the inputs"
        )
    return size


def _working(tensors):
    wide = any(x.dtype in (torch.float64, torch.complex128) for x in tensors)
    return torch.float64 if wide else torch.float32


def _like(dtype, item):
    """`dtype`, or the complex dtype of its precision for what the spec declares complex."""
    if item["dtype"] != "complex":
        return dtype if not dtype.is_complex else (torch.float64 if dtype == torch.complex128 else torch.float32)
    return torch.complex128 if dtype in (torch.float64, torch.complex128) else torch.complex64


def _places(item):
    """Where each dim of the tile order stands among the declared dims (heads aside)."""
    declared = [axis for axis in item["axes"] if axis != "heads"]
    return [declared.index(axis) for axis in item["tile"] if axis != "heads"]


def _order(x, item):
    """The declared order of dims to the tile's."""
    places = _places(item)
    lead = x.dim() - len(places)
    return x.permute(*range(lead), *(lead + place for place in places))


def _unorder(x, item, lead=None):
    places = _places(item)
    lead = x.dim() - len(places)
    return x.permute(*range(lead), *(lead + places.index(d) for d in range(len(places))))


def _share(x, item, heads, axis):
    """Grouped heads: an input with fewer heads serves several."""
    if "heads" not in item["axes"] or heads is None or x.shape[axis] == heads:
        return x
    return x.repeat_interleave(heads // x.shape[axis], dim=axis)


def _padded(parts, like, bound):
    """`parts` one after the other, with zeros up to `bound` entries."""
    missing = bound - sum(part.shape[0] for part in parts)
    return torch.cat([*parts, like.new_zeros(missing, *like.shape[1:])]) if missing or len(parts) != 1 else parts[0]


def _check_offsets(cu_seqlens, batch):
    if not torch.is_tensor(cu_seqlens) or cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ArgumentError("`cu_seqlens` must be a one-dimensional int32 or int64 tensor of offsets, [0, ..., time]")
    if batch != 1:
        raise ArgumentError(f"with `cu_seqlens` the batch must be 1 (sequences lie one after the other), not {batch}")
    if cu_seqlens.shape[0] < 2:
        raise ArgumentError("`cu_seqlens` needs at least two offsets: the first is 0, the last is the time")
    return cu_seqlens


def _check_bounds(bounds, time):
    """The values of `cu_seqlens`, which are known when the op runs and not while it is traced."""
    if bounds[0] != 0 or bounds[-1] != time:
        raise ArgumentError(f"`cu_seqlens` must run from 0 to the time {time}, not from {bounds[0]} to {bounds[-1]}")
    if any(b < a for a, b in zip(bounds, bounds[1:])):
        raise ArgumentError("`cu_seqlens` must not decrease")
