"""Where chunks and tiles lie, as kernels find them. Generated files carry this text along.

Sequences of one length need no table: where a chunk lies follows from its number, `time` and ROWS. Where they are
packed, `table` has three numbers for each sequence and for the end of the last: its first token, its first chunk and
the first of its states that are kept; `owners` has the sequence of each chunk, or -1 beyond the last.
"""

import triton
import triton.language as tl


@triton.jit
def tile_elements(ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """[ROWS, COLUMNS]: the place of each element of a tile of a matrix whose rows are WIDTH apart. Where the tile fills
    them, a thread's places differ by numbers that are known, so that it holds one address for all of them."""
    if COLUMNS == WIDTH:
        places = tl.reshape(tl.arange(0, ROWS * COLUMNS), (ROWS, COLUMNS))
        return tl.max_contiguous(tl.multiple_of(places, (1, COLUMNS)), (1, COLUMNS))
    else:
        return tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def tile_place(chunk, owners, table, time, ROWS: tl.constexpr, PACKED: tl.constexpr):
    """The sequence of a chunk, and which of its chunks it is."""
    if PACKED:
        sequence = tl.load(owners + chunk)
        first = tl.load(table + 3 * tl.maximum(sequence, 0) + 1)
    else:
        sequence = chunk // tl.cdiv(time, ROWS)
        first = sequence * tl.cdiv(time, ROWS)
    return sequence, chunk - first


@triton.jit
def tile_chunk(sequence, place, table, time, ROWS: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr):
    """Of the chunk at `place` of a sequence: its batch entry, its first token, and the last row that holds one."""
    if PACKED:
        begin = tl.load(table + 3 * sequence)
        length = tl.load(table + 3 * sequence + 3) - begin
        batch = sequence * 0
    else:
        begin = sequence * 0
        length = begin + time
        batch = sequence
    before = place * ROWS
    if STEP < 0:
        first = begin + length - 1 - before
    else:
        first = begin + before
    return batch, first, tl.minimum(length - before, ROWS) - 1


@triton.jit
def tile_chunks(sequence, table, time, ROWS: tl.constexpr, PACKED: tl.constexpr):
    """The first chunk of a sequence, and how many it has."""
    if PACKED:
        start = tl.load(table + 3 * sequence + 1)
        count = tl.load(table + 3 * sequence + 4) - start
    else:
        start = sequence * tl.cdiv(time, ROWS)
        count = sequence * 0 + tl.cdiv(time, ROWS)
    return start, count


@triton.jit
def tile_kept(sequence, place, table, time, ROWS: tl.constexpr, EVERY: tl.constexpr, PACKED: tl.constexpr):
    """Where the states that enter the chunk at `place` are kept: those of one chunk of EVERY are, of others -1."""
    if PACKED:
        first = tl.load(table + 3 * sequence + 2)
    else:
        first = sequence * tl.cdiv(time, ROWS * EVERY)
    return tl.where(place % EVERY == 0, first + place // EVERY, -1)


@triton.jit
def tile_outer(outer, owners, outers, each, table, time, ROWS: tl.constexpr, PACKED: tl.constexpr, OUTER: tl.constexpr):
    """Of an outer chunk: its sequence, -1 beyond the last; the sequence's first chunk; the place of its own first
    chunk, and how many it has, `each` but for the last of a sequence. Without OUTER each sequence is one outer chunk.
    owners: the sequence of each; outers: the first of each sequence."""
    if OUTER:
        if PACKED:
            sequence = tl.load(owners + outer)
            own = tl.maximum(sequence, 0)
            first = tl.load(outers + own)
        else:
            sequence = outer // tl.cdiv(tl.cdiv(time, ROWS), each)
            own = sequence
            first = own * tl.cdiv(tl.cdiv(time, ROWS), each)
        start, count = tile_chunks(own, table, time, ROWS, PACKED)
        begin = (outer - first) * each
        count = tl.minimum(count - begin, each)
    else:
        sequence = outer
        begin = outer * 0
        start, count = tile_chunks(outer, table, time, ROWS, PACKED)
    return sequence, start, begin, count


@triton.jit
def tile_outers(sequence, outers, time, each, ROWS: tl.constexpr, PACKED: tl.constexpr):
    """The first outer chunk of a sequence, and how many it has."""
    if PACKED:
        start = tl.load(outers + sequence)
        count = tl.load(outers + sequence + 1) - start
    else:
        count = sequence * 0 + tl.cdiv(tl.cdiv(time, ROWS), each)
        start = sequence * count
    return start, count
