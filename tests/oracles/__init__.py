"""Independent public references, one or more for each spec, in the layout of the specs.

Each takes inputs ``[batch, time, heads, ...]``, params ``[heads, ...]`` and an initial state ``[batch, heads, ...]``,
all by name, and returns outputs and those final states that it knows. They come from flash-linear-attention's
pure-PyTorch functions, from torch.nn, or, where no public code is at hand, from a closed form (a sum over all
earlier tokens, which has no loop and no state to get wrong in the same way) or the equations of a paper.
"""

from oracles import (  # noqa: F401 - each registers its oracles
    cells,
    chances,
    decaying,
    elementwise,
    erasing,
    grids,
    layers,
    quantised,
    routed,
    state_spaces,
    steps,
    trained,
)
from oracles.base import ORACLES

__all__ = ["ORACLES"]
