"""When a sequence is walked in several outer chunks at once. Generated files carry this text along.

One program walks the chunks of a sequence's head one after the other; few heads leave most of a GPU idle. With outer
chunks each of them is walked by programs of its own, after walks that find what it does to a state, and one walk from
outer chunk to outer chunk. That is more work, so it pays where programs are few and sequences are long. Nothing is
timed: the rule counts dependent steps, and a step is a walk's work on one chunk.
"""

import functools

LEAST = 256  # tokens of an outer chunk, at least: its states are in memory
CROSS = 1.0  # what it takes to take a state over one outer chunk, in steps: one product at most
LAUNCHES = 10.0  # what the launches of the two other walks take, in steps of some microseconds
PROCESSORS = {"sm_80": 108, "sm_86": 84, "sm_89": 128, "sm_90": 132, "sm_100": 148, "sm_120": 170, "gfx942": 304}


@functools.lru_cache(maxsize=4096)
def outer_chunk(programs, chunks, rows, processors, more):
    """How many chunks an outer chunk has; 0 where a sequence is walked in one go.

    programs: of a launch that walks whole sequences; chunks: of a sequence; rows: tokens in a chunk; processors: of the
    device, each of which runs a program at a time; more: the work of the walks that go before, over that of the walk.
    """
    found, least = 0, one_walk(programs, chunks, processors)
    size = max(LEAST // rows, 1)
    while size < chunks:
        steps = two_level(programs, chunks, size, processors, more)
        found, least = (size, steps) if steps < least else (found, least)
        size *= 2
    return found


def one_walk(programs, chunks, processors):
    """The dependent steps of walks over whole sequences."""
    return max(1.0, programs / processors) * chunks


def two_level(programs, chunks, size, processors, more):
    """The dependent steps with `size` chunks in an outer chunk."""
    outers = -(-chunks // size)
    return max(1.0, programs * outers / processors) * size * (1 + more) + outers * CROSS + LAUNCHES
