"""The contract of a compiled recurrence around its generated tile functions. Generated files carry this text along.

Layout [batch, time, heads, dims]; inputs that are scalar per head are [batch, time, heads]; `shared` inputs have no
heads axis. States are float32 (float64 when an input is), outputs have the dtype of the first input.
"""

import torch
from recc.backends.torch.layout import declared, dim_of, dtype_of, ordered, working_dtype
from recc.backends.torch.passes import (
    ArgumentError,
    Passes,
    check_bounds,
    in_full_precision,
    refuse_forward_mode,
    register,
    run_op,
)


class Op:
    """A recurrence as a function of tensors.

        o = op(q, k, v, ...)                                    # the spec's inputs, then its params; names work too
        o, state = op(..., initial_state=state, return_final_state=True)
        o = op(..., cu_seqlens=offsets)                         # sequences packed along time, batch 1
        o = op(..., reverse=True)                               # from the last token to the first
        o = op(..., truncate=64)                                # no gradient flows further back than its 64 tokens
        o = op(..., clip_gradient=1.0)                          # what states hand back is cut to [-1, 1] by element
        o, state = op.step(..., state=state)                    # one token, without the time axis

    A state is a dict from the names of the spec's states to tensors [batch, heads, dims]; where a spec has one
    state, the tensor alone is taken too. Gradients flow to every tensor and to the initial state; the backward pass
    stores one state per chunk. Raises ArgumentError where a tensor does not fit.
    """

    recipe = None  # a function and its arguments that give this op again: how it is copied and pickled
    clipped = None  # of a limit: the op of the same recurrence that clips gradients so
    tuned = None  # of (inputs, sizes): an op of the same recurrence, in the form that was found best for them, or None

    def __init__(self, meta, forward_tiles, backward_tiles, step_tiles, initial_tiles):
        self.meta = meta
        self.name, self.rows = meta["name"], meta["chunk"]
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self._step_tiles, self._initial_tiles = step_tiles, initial_tiles
        self.__name__, self.__doc__ = self.name, meta["doc"]
        self._forward, self.passes = register(Passes(meta, forward_tiles, backward_tiles))

    def __repr__(self):
        arguments = ", ".join(item["name"] for item in (*self.inputs, *self.params))
        return f"<recurrence {self.name}({arguments}), {self.meta['strategy']}>"

    def __reduce__(self):
        return super().__reduce_ex__(2) if self.recipe is None else self.recipe

    # --- calls ---------------------------------------------------------------------------------------------

    def __call__(self, *tensors, initial_state=None, return_final_state=False, cu_seqlens=None, reverse=False,
                 validate=False, truncate=None, clip_gradient=None, **named):  # fmt: skip
        if clip_gradient is not None:
            return self._of_limit(clip_gradient)(
                *tensors, initial_state=initial_state, return_final_state=return_final_state, cu_seqlens=cu_seqlens,
                reverse=reverse, validate=validate, truncate=truncate, **named)  # fmt: skip
        if truncate is not None:
            options = {"reverse": reverse, "validate": validate}
            outputs, state = self._truncated(tensors, named, truncate, initial_state, cu_seqlens, options)
            return (outputs, state) if return_final_state else outputs
        inputs, params = self._arguments(tensors, named, time=True)
        sizes = self._check(inputs, params, time=True)
        batch, heads = sizes["batch"], sizes["heads"]
        if cu_seqlens is not None:
            cu_seqlens = check_offsets(cu_seqlens, batch)
        if validate:
            self._validate(inputs)
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        inputs = [_share(x, item, heads, 2) for x, item in zip(inputs, self.inputs)]
        states = self._enter(initial_state, sequences, sizes, inputs, params)
        refuse_forward_mode(self.name, (*inputs, *params, *states))
        best = self.tuned and self.tuned(inputs, sizes)
        forward = (best or self)._forward_for(*inputs, *params, *states)
        results = run_op(forward, *inputs, *params, *states, cu_seqlens, bool(reverse))
        results = [results] if torch.is_tensor(results) else results
        outputs = results[: len(self.outputs)]
        output = outputs[0] if len(outputs) == 1 else tuple(outputs)
        if not return_final_state:
            return output
        finals = results[len(outputs) : len(outputs) + len(self.states)]
        return output, {item["name"]: value for item, value in zip(self.states, finals)}

    def _of_limit(self, limit):
        if self.clipped is None:
            raise ArgumentError(
                f"{self.name}: a file of its own has no other passes: compile it with the gradient clipped"
            )
        return self.clipped(limit)

    def _truncated(self, tensors, named, truncate, state, cu_seqlens, options):
        """The op on segments of `truncate` tokens of each sequence, through whose borders no gradient flows."""
        if not isinstance(truncate, int) or truncate < 1:
            raise ArgumentError(f"{self.name}: `truncate` is a number of tokens")
        inputs, params = self._arguments(tensors, named, time=True)
        batch, time = self._check(inputs, params, time=True)["batch"], inputs[0].shape[1]
        if cu_seqlens is not None:
            bounds = check_offsets(cu_seqlens, batch).tolist()
            check_bounds(bounds, time)
            segments = _packed_segments(bounds, truncate, options["reverse"], cu_seqlens)
        else:
            segments = _segments(time, truncate, options["reverse"])
        parts = []
        for place, (tokens, offsets, ended) in enumerate(segments):
            part, state = self(*(x[:, tokens] for x in inputs), *params, initial_state=state, cu_seqlens=offsets,
                               return_final_state=True, **options)  # fmt: skip
            if place < len(segments) - 1:
                state = {name: _cut_off(x, ended) for name, x in state.items()}
            parts.append(part if isinstance(part, tuple) else (part,))
        order = torch.cat([torch.arange(time, device=inputs[0].device)[tokens] for tokens, *_ in segments]).argsort()
        outputs = tuple(torch.cat(pieces, 1)[:, order] for pieces in zip(*parts))
        return (outputs[0] if len(outputs) == 1 else outputs), state

    def statistics(self):
        """How Newton's method has fared so far, for each component that it solves: `channels` solved (elements of the
        states, of every window of tokens), the mean and largest number of `iterations`, the largest `residual` that was
        accepted, and the share finished token by token (`sequential`). Empty where no component is solved so."""
        return {states: _counted(self.passes.functions[name]) for states, name in self.meta["solvers"].items()}

    def chunk_of(self, dtype=torch.float32, **sizes):
        """Tokens in a chunk, for each of which CPU tensors of this dtype and sizes store one state for the backward
        pass."""
        return self.rows

    def _forward_for(self, *tensors):
        """The registered forward pass that serves these tensors."""
        return self._forward

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
        dtype = working_dtype(inputs)
        tiles = [_share(x, item, sizes["heads"], 1) for x, item in zip(inputs, self.inputs)]
        tiles = [ordered(x, item).to(dtype_of(dtype, item)) for x, item in zip(tiles, self.inputs)]
        fixed = [ordered(x, item).to(dtype_of(dtype, item)) for x, item in zip(params, self.params)]
        held = [ordered(x, item).to(dtype_of(dtype, item)) for x, item in zip(states, self.states)]
        results = in_full_precision(self._step_tiles, *tiles, *fixed, *held)
        count = len(self.outputs)
        outputs = [
            declared(x, item).to(dtype_of(inputs[0].dtype, item)) for x, item in zip(results[:count], self.outputs)
        ]
        finals = {item["name"]: declared(x, item) for x, item in zip(results[count:], self.states)}
        return (outputs[0] if count == 1 else tuple(outputs)), finals

    def initial_state(self, batch, *, heads=None, sizes=None, params=(), dtype=torch.float32, device=None):
        """The state before the first token, as the spec gives it: a dict of tensors [batch, heads, dims].

        sizes: the spec's dims, {"K": 64, ...}. params: the params' tensors, where initial values depend on them.
        """
        sizes = {**self.meta["dims"], **(sizes or {}), "heads": heads}
        like = params[0] if len(params) else torch.empty((), dtype=dtype, device=device)
        fixed = [ordered(x, item).to(dtype_of(working_dtype([like]), item)) for x, item in zip(params, self.params)]
        values = self._initial_tiles(*fixed) if self.meta["initial"] else [0.0] * len(self.states)
        state = {}
        for item, value in zip(self.states, values):
            if value is None:
                raise ArgumentError(f"{self.name}: state `{item['name']}` has no initial value: pass `initial_state`")
            shape = [batch, *(_known(sizes, axis, item, self.name) for axis in item["axes"])]
            if torch.is_tensor(value):
                value = declared(value.expand(batch, *[shape[1 + item["axes"].index(a)] for a in item["tile"]]), item)
                state[item["name"]] = value
            else:
                kind = dtype_of(working_dtype([like]), item)
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
                raise ArgumentError(f"`{name}` is {_shape(x)} but must be [{', '.join(map(dim_of, axes))}]")
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
                dim = dim_of(axis)
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
        working = working_dtype(inputs)
        if state is None:
            made = self.initial_state(sequences, heads=sizes["heads"], sizes=sizes, params=params,
                                      dtype=working, device=inputs[0].device)  # fmt: skip
            return [made[item["name"]].to(dtype_of(working, item)) for item in self.states]
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
                axes = ", ".join(["batch", *map(dim_of, item["axes"])])
                raise ArgumentError(f"state `{item['name']}` is {_shape(value)} but must be {want} [{axes}]")
            if value.device != inputs[0].device:
                where = inputs[0].device
                raise ArgumentError(f"state `{item['name']}` is on {value.device} but the inputs are on {where}")
            values.append(value.to(dtype_of(working, item)))
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


def _shape(x):
    return f"[{', '.join(map(str, x.shape))}]"


def _known(sizes, axis, item, name):
    size = sizes.get(axis if axis == "heads" else dim_of(axis))
    if size is None:
        raise ArgumentError(
            f"{name}: the size of {axis}, an axis of state `{item['name']}`, is not known from the inputs"
        )
    return size


def _share(x, item, heads, axis):
    """Grouped heads: an input with fewer heads serves several."""
    if "heads" not in item["axes"] or heads is None or x.shape[axis] == heads:
        return x
    return x.repeat_interleave(heads // x.shape[axis], dim=axis)


def check_offsets(cu_seqlens, batch):
    if not torch.is_tensor(cu_seqlens) or cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ArgumentError("`cu_seqlens` must be a one-dimensional int32 or int64 tensor of offsets, [0, ..., time]")
    if batch != 1:
        raise ArgumentError(f"with `cu_seqlens` the batch must be 1 (sequences lie one after the other), not {batch}")
    if cu_seqlens.shape[0] < 2:
        raise ArgumentError("`cu_seqlens` needs at least two offsets: the first is 0, the last is the time")
    return cu_seqlens


def _segments(time, size, reverse):
    """Stretches of `size` tokens in the order in which they run, as (tokens, offsets, which sequences end in it)."""
    spans = [(lo, min(lo + size, time)) for lo in range(0, max(time, 1), size)]
    return [(slice(time - hi, time - lo) if reverse else slice(lo, hi), None, None) for lo, hi in spans]


def _packed_segments(bounds, size, reverse, like):
    """The same of sequences that are packed: in each, those that have ended have no tokens."""
    spans, found = list(zip(bounds, bounds[1:])), []
    for begin in range(0, max(1, *(hi - lo for lo, hi in spans)), size):
        here = []
        for lo, hi in spans:
            first, last = min(begin, hi - lo), min(begin + size, hi - lo)
            here.append((hi - last, hi - first) if reverse else (lo + first, lo + last))
        tokens = torch.cat([torch.arange(lo, hi, device=like.device) for lo, hi in here])
        offsets = like.new_tensor([0, *(hi - lo for lo, hi in here)]).cumsum(0).to(like.dtype)
        ended = torch.tensor([hi - lo <= begin + size for lo, hi in spans], device=like.device)
        found.append((tokens, offsets, ended))
    return found


def _cut_off(state, ended):
    """A state through which no gradient flows, but to sequences that end with it."""
    if ended is None:
        return state.detach()
    return torch.where(ended.view(-1, *[1] * (state.dim() - 1)), state, state.detach())


def _counted(step):
    """The statistics that the solver of a step has left with it."""
    counts = getattr(step, "counts", None)
    channels, spent, sequential, most, residual = [0.0] * 5 if counts is None else counts.tolist()
    each = max(channels, 1.0)
    return {"channels": int(channels), "iterations": spent / each, "most_iterations": int(most),
            "sequential": sequential / each, "residual": residual}  # fmt: skip
