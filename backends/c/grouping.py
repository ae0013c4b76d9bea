"""Which sequences of a call are computed side by side, and which are left to tasks of one sequence.

The number in a group is a power of two, by the call's sizes and the machine, so that each core has a task and all have
about as many. It changes the bits of no sequence. Packed sequences are sorted by how many whole chunks they have; a
group takes the chunks that all of its sequences have, and each goes on alone from the state that this leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Bytes of the matrices that sequences share from which on packed ones are grouped: smaller ones lie in the first-level
# cache all the same, and there is nothing to gain but the calls of two kernels to lose.
LARGE = 1 << 16


@dataclass(frozen=True)
class Groups:
    """together: sequences in a group; 1: there are no groups. count: of groups. order: of packed sequences, those of
    groups first; common: how many tokens of each sequence its group takes. Both int64 [sequences], None for a batch."""

    together: int
    count: int
    order: torch.Tensor | None = None
    common: torch.Tensor | None = None

    @property
    def members(self) -> int:
        return self.together * self.count

    @property
    def addresses(self) -> list[int]:
        return [0 if x is None else x.data_ptr() for x in (self.order, self.common)]

    @property
    def tokens(self) -> int:
        """That a group takes of each of its sequences, on average."""
        return 0 if self.common is None else -(-int(self.common.sum()) // max(self.members, 1))


NONE = Groups(1, 0)


def of_batch(sequences: int, together: int) -> Groups:
    """Sequences of one length: groups of the first ones, and the rest."""
    return Groups(together, sequences // together)


def of_packed(lengths: list[int], chunk: int, together: int) -> Groups:
    """Packed sequences by their whole chunks. Groups alternate between long and short ones, since threads take groups
    one after the other."""
    whole = [length // chunk for length in lengths]
    order = sorted(range(len(whole)), key=lambda place: -whole[place])
    groups = [order[place : place + together] for place in range(0, len(order) - together + 1, together)]
    groups = [group for group in groups if whole[group[-1]]]
    taken = groups[::2] + groups[1::2][::-1]
    common = [0] * len(whole)
    for group in taken:
        for place in group:
            common[place] = whole[group[-1]] * chunk
    order = [place for group in taken for place in group] + order[len(taken) * together :]
    return Groups(together, len(taken), torch.tensor(order), torch.tensor(common))
