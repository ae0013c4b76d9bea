"""What this machine can do at most: bytes streamed, multiply-adds and exponentials in registers, in C.

Each floor is a call that does a stated amount of the work and nothing else, on as many threads as asked for, so that it
can be timed in the same rounds as what it bounds. The kernels are built like recc's own, by `recc.backends.c.build`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from recc.backends.c import build

CHAINS = 12  # independent accumulators: enough to hide the latency of two units, and they fit 16 registers
_chains = range(CHAINS)

SOURCE = f"""
typedef float vec __attribute__((vector_size(BYTES), may_alias));
typedef int ivec __attribute__((vector_size(BYTES)));
enum {{ LANES = BYTES / sizeof(float) }};

#if defined(__AVX512F__)
#include <immintrin.h>
static inline void put(float *p, vec x) {{ _mm512_stream_ps(p, (__m512)x); }}
#elif defined(__AVX__)
#include <immintrin.h>
static inline void put(float *p, vec x) {{ _mm256_stream_ps(p, (__m256)x); }}
#else
static inline void put(float *p, vec x) {{ *(vec *)p = x; }}
#endif
#define AT(p) (*(const vec *)((p) + i))

/* Elements from lo to hi, multiples of 16 floats; arrays on 64 bytes. plain: through the caches; else past them. */
void copy_plain(float *a, const float *b, long lo, long hi) {{
    for (long i = lo; i < hi; i += LANES) *(vec *)(a + i) = AT(b);
}}
void copy(float *a, const float *b, long lo, long hi) {{
    for (long i = lo; i < hi; i += LANES) put(a + i, AT(b));
}}
void triad_plain(float *a, const float *b, const float *c, long lo, long hi) {{
    for (long i = lo; i < hi; i += LANES) *(vec *)(a + i) = AT(b) + 0.5f * AT(c);
}}
void triad(float *a, const float *b, const float *c, long lo, long hi) {{
    for (long i = lo; i < hi; i += LANES) put(a + i, AT(b) + 0.5f * AT(c));
}}
/* Three arrays read, two written, each in whole cache lines: what the backward pass of a gated scan must move. */
void five(float *a, float *d, const float *b, const float *c, const float *e, long lo, long hi) {{
    for (long j = lo; j < hi; j += 16) {{
        for (long i = j; i < j + 16; i += LANES) put(a + i, AT(b) + 0.5f * AT(e));
        for (long i = j; i < j + 16; i += LANES) put(d + i, AT(c) + 0.5f * AT(e));
    }}
}}
/* Multiply-adds, {CHAINS} vectors a turn. */
float multiply_adds(long count) {{
    vec m = (vec){{0}} + 0.999f, b = (vec){{0}} + 0.001f;
    vec {", ".join(f"x{i} = b * {i}" for i in _chains)};
    for (long i = 0; i < count; i += {CHAINS} * LANES) {{
        {" ".join(f"x{i} = x{i} * m + b;" for i in _chains)}
    }}
    x0 += {" + ".join(f"x{i}" for i in _chains[1:])};
    return x0[0];
}}
/* exp by rounding to a power of two and a polynomial of degree 6: relative error 2e-7. */
static inline vec vexp(vec x) {{
    vec n = x * 1.44269504f + 12582912.0f;
    ivec power = (ivec)n << 23;
    n -= 12582912.0f;
    vec r = x - n * 0.693359375f - n * -2.12194440e-4f;
    vec y = ((((((r * (1.f / 720) + 1.f / 120) * r + 1.f / 24) * r + 1.f / 6) * r + 0.5f) * r + 1) * r + 1);
    return (vec)((ivec)y + power);
}}
float exponentials(long count) {{
    vec a = (vec){{0}} - 1.0f, b = a * 2, c = a * 3, d = a * 4, sum = {{0}};
    for (long i = 0; i < count; i += 4 * LANES) {{
        sum += (vexp(a) + vexp(b)) + (vexp(c) + vexp(d));
        a += 1e-6f; b += 1e-6f; c += 1e-6f; d += 1e-6f;
    }}
    return sum[0];
}}
void exp_of(float *y, const float *x, long count) {{
    for (long i = 0; i < count; i += LANES) *(vec *)(y + i) = vexp(AT(x));
}}
"""


class Floors:
    """The kernels on `threads` threads; every method returns a call without arguments that does the work once."""

    def __init__(self, threads: int):
        bytes_ = build.target().vector_bytes
        self.library = build.library(SOURCE.replace("BYTES", str(bytes_)))
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)
        self.library.multiply_adds.restype = self.library.exponentials.restype = ctypes.c_float
        x = torch.linspace(-20, 20, 4096)
        y = torch.empty_like(x)
        self.library.exp_of(*self._pointers(y, x), ctypes.c_long(len(x)))
        assert ((y - x.exp()).abs() / x.exp()).max() < 1e-6, "the floor's exponential is wrong"

    def stream(self, kernel: str, arrays: int, count: int) -> Callable[[], object]:
        """`copy`, `triad` or `five`, on so many arrays of `count` floats."""
        data = [torch.ones(count) for _ in range(arrays)]
        pointers = self._pointers(*data)
        function = getattr(self.library, kernel)
        bounds = [count * i // self.threads // 16 * 16 for i in range(self.threads)] + [count // 16 * 16]

        def work(i: int, keep=data) -> None:
            function(*pointers, ctypes.c_long(bounds[i]), ctypes.c_long(bounds[i + 1]))

        return lambda: list(self.pool.map(work, range(self.threads)))

    def multiply_adds(self, count: int) -> Callable[[], object]:
        """So many multiply-adds of floats."""
        return self._counted(self.library.multiply_adds, count)

    def exponentials(self, count: int) -> Callable[[], object]:
        """So many exponentials of floats."""
        return self._counted(self.library.exponentials, count)

    def _counted(self, function, count: int) -> Callable[[], object]:
        share = ctypes.c_long(count // self.threads)
        return lambda: list(self.pool.map(lambda _: function(share), range(self.threads)))

    def _pointers(self, *tensors: torch.Tensor) -> list[ctypes.c_void_p]:
        assert all(x.data_ptr() % 64 == 0 for x in tensors), "streaming stores need arrays on 64 bytes"
        return [ctypes.c_void_p(x.data_ptr()) for x in tensors]
