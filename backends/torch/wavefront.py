"""Cells of a chunk of rows along anti-diagonals. Generated files carry this along.

`at`: the negative axes of the rows and of the columns in the states of all cells. `end` is None when every chunk is
full, else the last valid row of each. rows_of and columns_of: where what a step takes has them, None where it has none.
"""

import torch


def beside(x, column):
    """The cell before each on its row; 0 in the first column."""
    return torch.cat([torch.zeros_like(x.narrow(column, 0, 1)), x.narrow(column, 0, x.shape[column] - 1)], column)


def wavefront(cell, enter, taken, rows_of, columns_of, at, rows, end):
    """The states of all cells, s[t, y] = cell(s[t-1, y], s[t, y-1], *taken[t, y]).

    enter: the states above the first row, [n, (heads,) dims]; before the first column they are 0. Coupled
    states stand along a new axis. rows + columns - 1 dependent steps.
    """
    row, live = _fronts(enter[0], at[1], rows, end)
    here = [_skewed(x, r, c, row) for x, r, c in zip(taken, rows_of, columns_of)]
    states, found = list(enter), []
    for place, mask in enumerate(live):
        given = (x if r is None else x[place] for x, r in zip(here, rows_of))
        new = cell(*states, *(beside(x, at[1]) for x in states), *given)
        states = [torch.where(mask, x, held) for x, held in zip(new, states)]
        found.append(states)
    return _joined_states([_straight(torch.stack(x), at, row, rows) for x in zip(*found)], at)


def wavefront_flow(flow, above, before, taken, rows_of, columns_of, g, at, rows, end):
    """l of all cells, what flows into their states: g, and what comes from the cells below and after; recc.tile.grid.

    flow(*above, *before, *taken, *l): what flows on from a cell to the one above and to the one before it.
    """
    count, like = len(g), g[0].select(at[0], 0)
    row, live = _fronts(like, at[1], rows, end)
    own = [_skewed(x, *at, row) for x in (*above, *before, *g)]
    here = [_skewed(x, r, c, row) for x, r, c in zip(taken, rows_of, columns_of)]
    none = torch.zeros_like(like)
    up, back, found = [none] * count, [none] * count, []
    for place in reversed(range(len(live))):
        cells = [x[place] for x in own]
        parts = zip(cells[2 * count :], up, back)
        into = [torch.where(live[place], x + below + after, none) for x, below, after in parts]
        given = (x if r is None else x[place] for x, r in zip(here, rows_of))
        on = flow(*cells[: 2 * count], *given, *into)
        on = [torch.where(live[place], x, none) if torch.is_tensor(x) else none + x for x in on]
        up, back = on[:count], [beside(x.flip(at[1]), at[1]).flip(at[1]) for x in on[count:]]
        found.append(into)
    parts = [_straight(torch.stack(x[::-1]), at, row, rows) for x in zip(*found)]
    used = len(live) - row.shape[1] + 1
    for x in parts:
        x.narrow(at[0], used, rows - used).zero_()
    return _joined_states(parts, at)


def _fronts(like, column, rows, end):
    """For each diagonal: the row of each column [diagonals, columns], and which of them there are. Rows that are past
    the end of every sequence are left out, where a look at `end` costs nothing."""
    columns = like.shape[column]
    used = rows if end is None or like.device.type != "cpu" else int(end.max()) + 1
    diagonals = torch.arange(used + columns - 1, device=like.device)
    row = diagonals.unsqueeze(1) - torch.arange(columns, device=like.device)
    live = ((row >= 0) & (row < used)).view(-1, columns, *[1] * (-1 - column))
    return row.clamp(0, used - 1), live.unbind(0)


def _skewed(x, row_axis, column_axis, row):
    """[diagonals, ...] without the rows: of each column its own."""
    if row_axis is None:
        return x
    columns = torch.arange(row.shape[1], device=x.device)
    return x.movedim((row_axis, column_axis), (0, 1))[row, columns].movedim(1, column_axis)


def _straight(x, at, row, rows):
    """The inverse: from [diagonals, ...] to rows by columns. Rows that were left out repeat the last."""
    columns = torch.arange(row.shape[1], device=x.device)
    place = torch.arange(rows, device=x.device).clamp(max=len(row) - len(columns)).unsqueeze(1) + columns
    return x.movedim(at[1], 1)[place, columns].movedim((0, 1), at)


def _joined_states(parts, at):
    return parts[0] if len(parts) == 1 else torch.stack(parts, at[0])
