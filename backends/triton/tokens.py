"""The passes of a recurrence whose kernels walk over tokens. Generated files carry this text along.

Kernels read and write tensors where they lie, as [batch, time, heads, dims] by their strides; sequences that are packed
begin at the tokens of `cu_seqlens`. What the backward pass needs of the states is saved for every token where states
are no larger than what is read, and for every CHUNK tokens where they are.
"""

import torch
import triton.language as tl
from recc.backends.torch.layout import (
    all_parts,
    chunk_bound,
    declared,
    dtype_of,
    from_parts,
    ordered,
    real_dtype,
    working_dtype,
)
from recc.backends.torch.op import Op
from recc.backends.torch.passes import ArgumentError, Passes, _returned, check_once, register

TILE = 1024  # elements of a state that one warp holds
SPACE = 4096  # elements of a tile whose columns are shared by programs, where few of them are left
MOST = 1 << 15  # elements of a tile: two such fill the registers of a multiprocessor
LINE = 128  # elements of a state that is a vector, in one program
WARPS = 8  # of one program, at most; 16 where it holds more than states
ROWS = 16  # sequences of one program, where states are multiplied with matrices
SOLVED = 2048, 2048, 512, 512  # elements of a window of Newton's method, by the number of coupled states
CHANNELS, FILL = 4, 128  # of one program, where so many programs are left to fill a GPU
OF_CALL = "batch", "time", "heads"
DOTS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


class TooLarge(ArgumentError):
    """A call whose tiles no program has room for."""


class Tokens:
    """One call: its sizes, where its sequences begin, and what is known when kernels are compiled; what: in words."""

    def __init__(self, batch, time, heads, cu_seqlens, reverse, like, chunk, what=""):
        self.what = what
        self.batch, self.time, self.heads = batch, time, heads or 1
        self.PACKED = cu_seqlens is not None
        self.sequences = cu_seqlens.shape[0] - 1 if self.PACKED else batch
        self.programs = -(-self.sequences // ROWS)
        self.like = torch.empty((), device=like.device)
        self.bounds = cu_seqlens.to(like.device, torch.int64).contiguous() if self.PACKED else self.like
        self.STEP, self.ROWS, self.CHUNK = -1 if reverse else 1, ROWS, chunk
        self.DOT = DOTS.get(real_dtype(like), tl.float32)

    def empty(self, *sizes):
        return self.like.new_empty(sizes)

    def flat(self, x):
        """[batch, time, ...] as [batch * time, ...] in float32."""
        return x.flatten(0, 1).float()

    def tokens(self, x):
        """[batch * time, ...] as [batch, time, ...]."""
        return x.unflatten(0, (self.batch, self.time))

    def strides(self, x, lead=0):
        """The strides of [batch * time, ...] after `lead` axes as those of [batch, time, ...]."""
        own = x.stride()
        return *own[:lead], own[lead] * self.time, *own[lead:]

    @staticmethod
    def block(size, least):
        """A power of two that holds `size` places."""
        return max(least, 1 << max(size - 1, 0).bit_length())

    @staticmethod
    def part(block, *beside, least=None, room=TILE):
        """How many of `block` places one program takes; beside: how many elements a tile has at each of them; room: how
        many it has in all, where that is no fewer than `least` places, by default 8 where these have room for them."""
        if not beside:
            return min(block, LINE)
        usual = max(1, min(8, SPACE // max(beside)))
        return min(block, max(usual if least is None else least, room // max(beside)))

    @staticmethod
    def most(block, most):
        """How many of `block` places one program takes where a configuration says how many at most."""
        return min(block, most)

    def options(self, *tiles, spare=False, share=None, warps=None):
        """Compiler options for a kernel with tiles of so many elements. spare: leave registers for other values; share:
        how many elements one warp holds, where that is fewer; warps: as many, whatever the tiles. Raises TooLarge where
        a tile is."""
        if max(tiles) > MOST and self.like.device.type != "cpu":
            raise TooLarge(
                f"{self.what}: a program that walks over tokens would have a tile of {max(tiles):,} elements, and has "
                f'room for {MOST:,}; use backend="torch" or smaller dims'
            )
        usual, many = (TILE // 2, 2 * WARPS) if spare else (TILE, WARPS)
        found = min(many, max(1, max(tiles) // usual))
        if share is not None:  # more than WARPS share as many registers
            found = max(found, min(WARPS, max(tiles) // share))
        return {"num_warps": warps or found, "num_stages": 1, "enable_fp_fusion": True}

    # --- Newton's method -----------------------------------------------------------------------------------------

    def channels(self, block):
        """How many of `block` channels a program solves."""
        share = block * self.sequences * self.heads // (1 if self.like.device.type == "cpu" else FILL)
        return min(block, CHANNELS, 1 << max(share.bit_length() - 1, 0))

    def window(self, channels, states, asked=None):
        """Tokens that a program solves at a time; no more than a sequence has."""
        size = asked or SOLVED[states - 1] // channels
        return min(size, self.block(self.time, 32))

    @staticmethod
    def newton_options(elements, states):
        """Compiler options for a program that solves so many elements of each state at a time."""
        warps = elements * WARPS // SOLVED[states - 1]
        return {"num_warps": min(WARPS, max(1, warps)), "num_stages": 1, "enable_fp_fusion": True}

    def counts(self, function):
        """What `Op.statistics` reads of a function, on this call's device."""
        kept = getattr(function, "counts", None)
        if kept is None or kept.device != self.like.device:
            kept = function.counts = torch.zeros(5, dtype=torch.float64, device=self.like.device)
        return kept


class TokenPasses(Passes):
    """The passes of a recurrence whose tile functions launch kernels that walk over tokens."""

    def forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        call = self._call(inputs, params, states, cu_seqlens, reverse)
        outputs = self._empty_outputs(inputs[0], self._sizes(inputs, params, states))
        finals = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in states]
        saved = self._saved(inputs, params, states, cu_seqlens, torch.zeros if call.PACKED else torch.empty)
        each = self.meta["checkpoint"] == 1
        self._forward_tiles(
            call,
            *all_parts(ordered, inputs, self.inputs),
            *self._fixed(params),
            *all_parts(ordered, states, self.states),
            *all_parts(ordered, outputs, self.outputs),
            *(saved if each else ()),
            *all_parts(ordered, finals, self.states),
            *(() if each else saved),
        )
        return _returned((*outputs, *finals, *saved), tensors)

    def backward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        carried, count = len(self.states), len(self.outputs)
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[: len(self.saved)], tensors[len(self.saved) :]
        inputs, params, states = self._split(tensors)
        call = self._call(inputs, params, states, cu_seqlens, reverse)
        gradients, each = self.meta["gradients"], self.meta["checkpoint"] == 1
        out = {f"d_{item['name']}": torch.empty_like(x, memory_format=torch.contiguous_format)
               for x, item in zip(inputs, self.inputs)}  # fmt: skip
        entered = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in states]
        items = {f"d_{item['name']}": item for item in self.inputs}
        written = [name for name in gradients if name in out]
        sums = self._backward_tiles(
            call,
            *all_parts(ordered, inputs, self.inputs),
            *all_parts(ordered, grads, self.outputs),
            *(saved if each else ()),
            *self._fixed(params),
            *all_parts(ordered, grads[count:], self.states)[::-1],
            *(() if each else saved),
            *all_parts(ordered, [out[name] for name in written], [items[name] for name in written]),
            *all_parts(ordered, entered, self.states)[::-1],
        )
        shared, sums = {f"d_{item['name']}": item for item in self.params}, iter(sums)
        named = {name: from_parts(sums, shared[name]) for name in gradients if name in shared}
        found = [x if name in gradients else torch.zeros_like(x) for name, x in out.items()]
        for x, item in zip(params, self.params):
            value = named.get(f"d_{item['name']}")
            given = None if value is None else declared(value, item).to(x.dtype).expand(x.shape).contiguous()
            found.append(torch.zeros_like(x) if given is None else given)
        found += [value.to(x.dtype) for x, value in zip(states, entered)]
        return _returned(found, (*grads, *tensors))

    def fake_forward(self, *arguments):
        *tensors, cu_seqlens, _ = arguments
        inputs, params, states = self._split(tensors)
        outputs = self._empty_outputs(inputs[0], self._sizes(inputs, params, states))
        saved = self._saved(inputs, params, states, cu_seqlens, torch.empty)
        return _returned((*outputs, *(x.new_empty(x.shape) for x in states), *saved), ())

    def _saved(self, inputs, params, states, cu_seqlens, make):
        """What the backward pass is left: [batch, time, (heads,) dims], or for each chunk [chunks, (heads,) dims]."""
        sizes, every = self._sizes(inputs, params, states), self.meta["checkpoint"]
        lead = tuple(inputs[0].shape[:2])
        if every > 1:
            lead = (chunk_bound(*lead, every, None if cu_seqlens is None else cu_seqlens.shape[0] - 1),)
        else:
            make = torch.empty  # every token writes its own
        shapes = [(*lead, *(sizes[axis.partition("'")[0]] for axis in item["tile"])) for item in self.saved]
        return [make(shape, dtype=torch.float32, device=inputs[0].device) for shape in shapes]

    def _fixed(self, params):
        return [x.to(torch.float32) for x in all_parts(ordered, params, self.params)]

    def _call(self, inputs, params, states, cu_seqlens, reverse):
        if working_dtype(inputs) != torch.float32:
            raise ArgumentError(f'{self.name}: kernels compute in float32, not float64; use backend="torch"')
        if cu_seqlens is not None:
            check_once(cu_seqlens, inputs[0].shape[1])
        sizes = self._sizes(inputs, params, states)
        place = *inputs[0].shape[:2], sizes.get("heads"), cu_seqlens, reverse, inputs[0], self.meta["checkpoint"]
        return Tokens(*place, what=said(self.name, sizes))


class TokenOp(Op):
    """An op whose passes walk over tokens, and whose `step` is one launch."""

    def __init__(self, meta, forward_tiles, backward_tiles, step_tiles, initial_tiles, decode_tiles):
        self.meta = meta
        self.name, self.rows = meta["name"], meta["chunk"]
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self._step_tiles, self._initial_tiles = step_tiles, initial_tiles
        self.__name__, self.__doc__ = self.name, meta["doc"]
        self._forward, self.passes = register(TokenPasses(meta, forward_tiles, backward_tiles))
        self.decoder = Decoder(self, decode_tiles)

    def step(self, *tensors, state=None, **named):
        """One token; see Op.step. Where no gradient is asked for, by one launch prepared for tensors like these."""
        ready = self.decoder.ready(tensors, state, named)
        return super().step(*tensors, state=state, **named) if ready is None else self.decoder.step(*ready)

    def bind(self, *tensors, state, **named):
        """A decode step over fixed memory: a function without arguments, fit for a CUDA graph.

        Each call reads the inputs and params as they are by then, updates the tensors of `state` in place and returns
        the outputs, in the same memory each time. Raises ArgumentError where a gradient is asked for.
        """
        with torch.no_grad():
            ready = self.decoder.ready(tensors, state, named)
        if ready is None:
            raise ArgumentError(f"{self.name}.bind takes every input, param and state as float tensors of one device")
        return self.decoder.bound(*ready)


class Decoder:
    """One token at a time. What is checked and looked up is so once for tensors of given shapes, strides and dtypes."""

    def __init__(self, op, decode_tiles):
        self.op, self.tiles, self.known = op, decode_tiles, {}

    def ready(self, tensors, state, named):
        """Inputs, params and states for the kernel, or None where the op's own step must do it."""
        op, given = self.op, list(tensors)
        count = len(op.inputs) + len(op.params)
        if state is None and len(given) + len(named) == count + 1 and given:
            state = given.pop()
        given += [named.get(item["name"]) for item in (*op.inputs, *op.params)[len(given) :]] if named else []
        if len(given) != count or len(tensors) + len(named) not in (count, count + 1):
            return None
        if isinstance(state, dict) and len(state) == len(op.states):
            held = [state.get(item["name"]) for item in op.states]
        elif len(op.states) == 1:
            held = [state]
        else:
            return None
        every = [*given, *held]
        if not all(torch.is_tensor(x) for x in every) or torch.compiler.is_compiling():
            return None
        if torch.is_grad_enabled() and any(x.requires_grad for x in every):
            return None
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return None
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in every)
        if key not in self.known:
            self.known[key] = self._prepared(given, held)
        return None if self.known[key] is None else (self.known[key], given, held)

    def _prepared(self, given, held):
        op = self.op
        inputs, params = given[: len(op.inputs)], given[len(op.inputs) :]
        sizes = op._check(inputs, params, time=False)
        op._enter({i["name"]: x for i, x in zip(op.states, held)}, sizes["batch"], sizes, inputs, params)
        wanted = [dtype_of(torch.float32, item) for item in op.states]
        shared = any("heads" in i["axes"] and x.shape[1] != sizes["heads"] for x, i in zip(inputs, op.inputs))
        if shared or working_dtype(inputs) != torch.float32 or [x.dtype for x in held] != wanted:
            return None
        what = said(op.name, sizes)
        return Tokens(sizes["batch"], 1, sizes["heads"], None, False, inputs[0], 1, what), sizes

    def arguments(self, ready, given, held, leaving):
        """The kernel's tensors, with a time axis, and the outputs."""
        op, (call, sizes) = self.op, ready
        inputs, params = given[: len(op.inputs)], given[len(op.inputs) :]
        outputs = [
            inputs[0].new_empty(call.batch, *(sizes[axis.partition("'")[0]] for axis in item["axes"]),
                                dtype=dtype_of(inputs[0].dtype, item)) for item in op.outputs
        ]  # fmt: skip
        return outputs, (
            call,
            *all_parts(ordered, [x.unsqueeze(1) for x in inputs], op.inputs),
            *(x.float() for x in all_parts(ordered, params, op.params)),
            *all_parts(ordered, held, op.states),
            *all_parts(ordered, [x.unsqueeze(1) for x in outputs], op.outputs),
            *all_parts(ordered, leaving, op.states),
        )

    def step(self, ready, given, held):
        leaving = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in held]
        outputs, arguments = self.arguments(ready, given, held, leaving)
        self.tiles(*arguments)
        names = (item["name"] for item in self.op.states)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), dict(zip(names, leaving))

    def bound(self, ready, given, held):
        outputs, arguments = self.arguments(ready, given, held, held)
        result, tiles = outputs[0] if len(outputs) == 1 else tuple(outputs), self.tiles

        def step():
            tiles(*arguments)
            return result

        return step


def said(name, sizes):
    """A recurrence and the sizes of its dims, in words."""
    dims = ", ".join(f"{dim} = {size}" for dim, size in sizes.items() if dim[0] != "@" and dim not in OF_CALL)
    return f"{name} with {dims}" if dims else name
