"""Small sequence tasks that part classes of recurrences. Each gives tokens, targets at every token, and a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

Batch = tuple[Tensor, Tensor, Tensor]  # tokens [batch, time], targets [batch, time], which targets count


@dataclass(frozen=True)
class Task:
    """tokens, classes: sizes of the two alphabets. train, test: lengths. sample(batch, time, generator) -> Batch."""

    name: str
    what: str
    tokens: int
    classes: int
    train: int
    test: int
    sample: Callable[[int, int, Generator], Batch]


def parity(batch: int, time: int, generator: Generator) -> Batch:
    return modular(2)(batch, time, generator)


def modular(size: int) -> Callable[[int, int, Generator], Batch]:
    """The sum of all digits so far, modulo `size`."""

    def sample(batch: int, time: int, generator: Generator) -> Batch:
        digits = torch.randint(size, (batch, time), generator=generator)
        return digits, digits.cumsum(1) % size, torch.ones_like(digits, dtype=torch.bool)

    return sample


def permutations(size: int) -> Callable[[int, int, Generator], Batch]:
    """Tokens swap two neighbours among `size` places, or none; the target is where the first one is now.

    Swaps of neighbours generate all permutations, so this is the word problem of the symmetric group, seen through
    one element: for five places it is not solvable, and no diagonal transition can follow it.
    """

    def sample(batch: int, time: int, generator: Generator) -> Batch:
        swaps = torch.randint(size, (batch, time), generator=generator)  # size - 1: no swap
        place = torch.zeros(batch, dtype=torch.long)
        found = []
        for t in range(time):
            swap = swaps[:, t]
            up, down = (place == swap) & (swap < size - 1), place == swap + 1
            place = place + up.long() - down.long()
            found.append(place)
        return swaps, torch.stack(found, 1), torch.ones_like(swaps, dtype=torch.bool)

    return sample


def recall(keys: int, values: int) -> Callable[[int, int, Generator], Batch]:
    """Multi-query associative recall: pairs of a key and its value, then keys in another order, whose value is asked
    for. Half of the tokens are pairs, as in Zoology (Arora et al., 2023. arXiv:2312.04927)."""

    def sample(batch: int, time: int, generator: Generator) -> Batch:
        pairs = time // 4
        chosen = torch.rand(batch, keys, generator=generator).argsort(1)[:, :pairs]
        held = torch.randint(values, (batch, pairs), generator=generator)
        first = torch.stack([chosen, keys + held], 2).flatten(1)
        order = torch.rand(batch, 2 * pairs, generator=generator).argsort(1) % pairs
        asked, answer = chosen.gather(1, order), held.gather(1, order)
        targets = torch.cat([torch.zeros_like(first), answer], 1)
        return torch.cat([first, asked], 1), targets, torch.arange(4 * pairs).expand(batch, -1) >= 2 * pairs

    return sample


TASKS = (
    Task("parity", "parity of all bits so far", 2, 2, 24, 72, parity),
    Task("counting", "sum of all digits so far, modulo 5", 5, 5, 24, 72, modular(5)),
    Task("permutations", "word problem of the permutations of five places", 5, 5, 24, 72, permutations(5)),
    Task("recall", "associative recall of 8 pairs among 16 keys", 32, 16, 32, 32, recall(16, 16)),
)
