"""What calls a kernel from C: the header of its interface, and a program that fills tensors, calls it and checks it.

The C file itself includes nothing and is included by nothing, so the header says the same structures once more, in
plain types and with a comment for each field. It holds for C99 and C++.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from recc.backends.c.kernel import Kernel, identifier
from recc.backends.c.vectors import Real

from recc.ir.node import COMPLEX, HEADS, dim_of
from recc.ir.printer import show
from recc.ir.program import Domain, Recurrence
from recc.tile.pairs import names_of

# What stands before the heads and dims of a tensor of each kind.
_LEAD = {
    "in": "batch, time",
    "out": "batch, time",
    "d_out": "batch, time",
    "d_in": "batch, time",
    "param": "",
    "d_param": "sequences",
    "first": "sequences",
    "last": "sequences",
    "saved": "saved",
    "d_last": "sequences",
    "d_first": "sequences",
}
_ADDED = ("out", "d_in", "d_param", "d_first")  # what each task writes its part of where heads share it
_GIVEN = {  # what the caller fills; the rest is written
    "forward": ("in", "param", "first"),
    "backward": ("in", "param", "saved", "d_out", "d_last"),
}
_OF_HEADS = """\
// A task is one head of one sequence: task = sequence * heads + head, of sequences * heads. A call computes the tasks
"""
_OF_SEQUENCES = """\
// A task is one sequence with its {HEADS} heads. A call computes the tasks
"""
_TASKS = """\
// first <= task < last. Threads may compute tasks at the same time, each thread with a `work` of its own: {WORK}_WORK
// numbers that are zero before its first use. Nothing else is shared, allocated or kept.
//
// A tensor is a pointer and strides in elements, not bytes. Dims after batch, time and heads are contiguous in the
// order shown; where the comment shows no batch, time or heads, that stride is 0. The caller allocates every tensor.
// What is written must begin on a multiple of 64 bytes, and its strides be multiples of that, where it is large.
//
// The state is saved before token 0, {CHUNK}, 2 * {CHUNK}, ... of each sequence: {NAME}_SAVED(tokens) states, which
// the backward pass starts from. Saved state n of the call lies at batch stride * n; `chunks` says with which n each
// sequence begins. A forward pass that no backward pass follows saves nothing where `data` of what it would save is 0.
// A token at a time is a call with time = 1 and nothing saved; `last` may lie where `first` does.
"""

# How the example fills what it gives.
_FILLS = {
    "between": """\
static real *between(double low, double high, long count) {
    real *x = numbers(count);
    for (long i = 0; i < count; i++) x[i] = (real)(low + (high - low) * uniform());
    return x;
}
""",
    "signs": """\
static real *signs(double size, long count) { // vectors of norm 1 where size is 1 / sqrt(dim)
    real *x = numbers(count);
    for (long i = 0; i < count; i++) x[i] = (real)(uniform() < 0.5 ? -size : size);
    return x;
}
""",
    "all": """\
static real *all(double value, long count) {
    real *x = numbers(count);
    for (long i = 0; i < count; i++) x[i] = (real)value;
    return x;
}
""",
}


@dataclass(frozen=True)
class Interface:
    """The C interface of a kernel. stem: the name of its files, such as `gla` for gla.c and gla.h."""

    rec: Recurrence
    kernel: Kernel
    real: Real
    sizes: Mapping[str, int]
    stem: str

    @property
    def name(self) -> str:
        return identifier(self.rec.name)

    def item(self, kind: str, name: str) -> Any:
        """The declaration that a field of the structures belongs to."""
        return next(item for item in self._declared(kind.removeprefix("d_")) if item.name == name)

    def _declared(self, kind: str) -> tuple:
        rec = self.rec
        return {"in": rec.inputs, "param": rec.params, "out": rec.outputs}.get(kind, rec.states)

    def fields(self, direction: str) -> Iterator[tuple[str, str, Any]]:
        """(kind, C name, declaration) of each tensor of a call."""
        for kind, name in getattr(self.kernel, direction):
            yield kind, f"{kind}_{identifier(name)}", self.item(kind, name)

    def elements(self, item: Any) -> int:
        """Real numbers of one head at one token."""
        total = len(names_of(item.name, item.dtype))
        for axis in item.axes:
            total *= 1 if axis == HEADS else self.sizes[dim_of(axis)]
        return total

    @property
    def heads(self) -> int:
        """Of the example, and of the kernel where it is made for some number of heads."""
        return self.sizes.get(HEADS) or self.rec.example.get(HEADS, 2)

    def in_parts(self, kind: str, item: Any) -> bool:
        """Whether heads write parts of what they share."""
        return kind in _ADDED and HEADS not in item.axes and not self.kernel.all_heads

    # --- the header -------------------------------------------------------------------------------------------------

    def header(self) -> str:
        """The text of STEM.h."""
        rec, name, upper = self.rec, self.name, self.name.upper()
        guard = f"RECC_{identifier(self.stem).upper()}_H"
        dims = sorted({dim_of(a) for i in (*rec.inputs, *rec.params, *rec.states, *rec.outputs) for a in i.axes})
        sizes = [(dim, self.sizes[dim]) for dim in dims if dim != HEADS]
        words = {"NAME": upper, "WORK": upper, "CHUNK": self.kernel.chunk}
        constants = [(f"{upper}_{dim}", size, "") for dim, size in sizes]
        constants += [
            (f"{upper}_CHUNK", self.kernel.chunk, "  // tokens between saved states"),
            (f"{upper}_WORK", self.kernel.work + 64, f"  // numbers of {self.real.name} in a thread's workspace"),
        ]
        return "\n".join([
            f"// {rec.name}: how to call {self.stem}.c or its library from C99 or C++. Written by recc.",
            "//",
            (_OF_SEQUENCES if self.kernel.all_heads else _OF_HEADS).format(HEADS=self.heads)
            + _TASKS.format(**words).rstrip(),
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            *(f"#define {constant} {value}{note}" for constant, value, note in constants),
            f"#define {upper}_SAVED(tokens) (((tokens) + {self.kernel.chunk - 1}) / {self.kernel.chunk})",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "typedef struct {",
            f"    {self.real.name} *data;",
            "    long batch, time, head;  // strides in elements",
            f"}} {name}_tensor;",
            "",
            *self._structure("forward", "the outputs, the last states and those that are saved"),
            "",
            *self._structure("backward", "the gradients, from those of the outputs and of the last states"),
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            f"#endif  // {guard}",
            "",
        ])  # fmt: skip

    def _structure(self, direction: str, result: str) -> Iterator[str]:
        name = self.name
        yield "typedef struct {"
        rows = [
            ("long heads;", ""),
            ("long time;", "tokens of each sequence; not read where `offsets` is given"),
            ("long reverse;", "not 0: from the last token to the first"),
            ("const long *offsets;", "packed in a batch of one: where sequences begin, and the end; else 0"),
            ("const long *chunks;", "of each sequence the number of its first saved state; may be 0 for one sequence"),
        ]
        rows += [
            (f"{name}_tensor {field};", self._comment(direction, kind, item))
            for kind, field, item in self.fields(direction)
        ]
        width = min(max(len(row[0]) for row in rows), 40)
        for text, comment in rows:
            yield f"    {text:<{width}}  // {comment}" if comment else f"    {text}"
        yield f"}} {name}_{direction}_args;"
        yield ""
        yield f"// {result[0].upper()}{result[1:]}."
        if direction == "backward":
            given = [(kind, item.name) for kind in ("in", "param") for item in self._declared(kind)]
            missing = [name for kind, name in given if (f"d_{kind}", name) not in self.kernel.backward]
            if missing:
                yield f"// Nothing depends on {', '.join(missing)} in a way that has a derivative."
        arguments = f"const {name}_{direction}_args *args, long first, long last, {self.real.name} *work"
        yield f"void {name}_{direction}({arguments});"

    def _comment(self, direction: str, kind: str, item: Any) -> str:
        """Shape, and what the kernel relies on or leaves there."""
        heads = ["heads"] if HEADS in item.axes or self.in_parts(kind, item) else []
        dims = [dim_of(axis) for axis in item.axes if axis != HEADS]
        text = f"[{', '.join(filter(None, [_LEAD[kind], *heads, *dims])) or '1'}]"
        notes = [] if kind in _GIVEN[direction] else ["written"]
        if kind == "in":
            notes += filter(None, [_domain(item.domain)])
        if kind == "first":
            notes.append("must be given" if item.init is None else f"{_limited(show(item.init))} in the spec")
        if item.dtype == COMPLEX:
            notes.append("complex: real and imaginary parts alternate")
        result = "gradient" if kind != "out" else "output"
        if kind == "d_param":
            notes.append(f"the sum over sequences{' and heads' * self.in_parts(kind, item)} is the gradient")
        elif self.in_parts(kind, item):
            notes.append(f"the sum over heads is the {result}")
        if kind == "saved" and direction == "forward":
            notes.append("`data` may be 0")
        return "; ".join([text, *notes])

    # --- the example ------------------------------------------------------------------------------------------------

    def example(self, library: str | None = None) -> str:
        """The text of a program that calls both passes and prints a checksum of every result. library: the name of the
        file that it is linked with, in place of the C file."""
        name, upper, real = self.name, self.name.upper(), self.real.name
        time, heads = self.rec.example.get("T", 33), self.heads
        flags, beside = ("", f"./{library}") if library else ("-O2 -march=native -fno-math-errno ", f"{self.stem}.c")
        tasks = "BATCH" if self.kernel.all_heads else "BATCH * HEADS_N"
        calls = [line for direction in ("forward", "backward") for line in self._call(direction)]
        body = "\n".join(f"    {line}".rstrip() for line in calls)
        made = "".join(f"{text}\n" for helper, text in _FILLS.items() if f"({helper}(" in body)
        return f"""\
// How to call {self.rec.name} from C: random inputs, both passes, a checksum of every result. Written by recc.
//
//     cc {flags}-std=c11 {self.stem}_example.c {beside} -o {self.stem}_example -lm
#include "{self.stem}.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef {real} real;
typedef {name}_tensor tensor;
enum {{ BATCH = 2, TIME = {time}, HEADS_N = {heads}, SAVED = {upper}_SAVED(TIME), TASKS = {tasks} }};

static uint32_t seed = 1;

static double uniform(void) {{ // in [0, 1)
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) / 16777216.0;
}}

static real *numbers(long count) {{ // zeros, on a multiple of 64 bytes; the example ends without freeing them
    char *place = calloc(count * sizeof(real) + 64, 1);
    if (!place) exit(1);
    return (real *)(place + (64 - (uintptr_t)place % 64) % 64);
}}

{made}// Contiguous tensors; heads is 1 where a tensor has none.
static tensor tokens(real *x, long heads, long size) {{ // [BATCH, TIME, heads, size]
    return (tensor){{x, TIME * heads * size, heads * size, heads > 1 ? size : 0}};
}}

static tensor rows(real *x, long heads, long size) {{ // [rows, heads, size]
    return (tensor){{x, heads * size, 0, heads > 1 ? size : 0}};
}}

// The weighted sum of [rows, copies, size] numbers, the copies added up.
static void checksum(const char *name, const real *x, long rows, long copies, long size) {{
    double sum = 0;
    for (long i = 0; i < rows * copies * size; i++) {{
        long place = i / (copies * size) * size + i % size;
        sum += x[i] * ((place * 37 % 101) / 101.0 + 0.5);
    }}
    printf("%s %.16g\\n", name, sum);
}}

int main(void) {{
    // A sequence's first saved state, by its number.
    long chunks[BATCH];
    for (long sequence = 0; sequence < BATCH; sequence++) chunks[sequence] = sequence * SAVED;
    real *work = numbers({upper}_WORK); // one thread computes all tasks

{body}
    return 0;
}}
"""

    def _call(self, direction: str) -> Iterator[str]:
        """Fills a structure and calls; what the forward pass has filled is there for the backward pass."""
        name, letter = self.name, direction[0]
        again = {field for _, field, _ in self.fields("forward")} if direction == "backward" else set()
        yield f"{name}_{direction}_args {letter} = {{0}};"
        yield f"{letter}.heads = HEADS_N, {letter}.time = TIME, {letter}.chunks = chunks;"
        for kind, field, item in self.fields(direction):
            yield f"{letter}.{field} = {f'f.{field}' if field in again else self._made(direction, kind, item)};"
        yield f"{name}_{direction}(&{letter}, 0, TASKS, work);"
        for kind, field, item in self.fields(direction):
            if kind not in _GIVEN[direction] and kind != "saved":
                rows, copies, size = self._extent(kind, item)
                yield f'checksum("{field}", {letter}.{field}.data, {rows}, {copies}, {size});'
        yield ""

    def _made(self, direction: str, kind: str, item: Any) -> str:
        heads = "HEADS_N" if HEADS in item.axes or self.in_parts(kind, item) else "1"
        size = self.elements(item)
        lead = {"in": "BATCH * TIME", "out": "BATCH * TIME", "saved": "BATCH * SAVED"}.get(
            kind.removeprefix("d_"), "BATCH"
        )
        count = f"{'1' if kind == 'param' else lead} * {heads} * {size}"
        value = f"numbers({count})"
        if kind in _GIVEN[direction]:
            value = self._filled(kind, item, count)
        shape = "tokens" if kind.removeprefix("d_") in ("in", "out") else "rows"
        return f"{shape}({value}, {heads}, {size})"

    def _filled(self, kind: str, item: Any, count: str) -> str:
        """Numbers within the declared domain; states begin as the spec says."""
        if kind == "first" and item.init is not None and item.init.op == "const":
            value = float(item.init["value"])
            return f"all({'-' * (value < 0) + 'INFINITY' if abs(value) == float('inf') else repr(value)}, {count})"
        domain = getattr(item, "domain", Domain()) if kind in ("in", "param") else Domain()
        if domain.unit:
            return f"signs({self.sizes[dim_of(item.axes[-1])] ** -0.5!r}, {count})"
        low, high = domain.low, domain.high
        if low is None:
            low = -1.0 if high is None else high - 1.0
            high = 1.0 if high is None else high
        return f"between({float(low)!r}, {float(low + 1.0 if high is None else high)!r}, {count})"

    def _extent(self, kind: str, item: Any) -> tuple[str, str, str]:
        """Rows, copies that are added up, and the size of each, of what is written."""
        size, own = self.elements(item), HEADS in item.axes
        parts = self.in_parts(kind, item)
        if kind == "d_param":
            return "1", f"BATCH{' * HEADS_N' * parts}", f"HEADS_N * {size}" if own else str(size)
        lead = "BATCH * TIME" if kind.removeprefix("d_") in ("in", "out") else "BATCH"
        return lead, "HEADS_N" if parts else "1", f"HEADS_N * {size}" if own else str(size)


def _domain(domain: Domain) -> str:
    if domain.unit:
        return "of norm 1"
    low, high = domain.low, domain.high
    if low is not None and high is not None:
        return f"in [{low:g}, {high:g}]"
    return f">= {low:g}" if low is not None else f"<= {high:g}" if high is not None else ""


def _limited(text: str) -> str:
    return text if len(text) <= 24 else "an expression"
