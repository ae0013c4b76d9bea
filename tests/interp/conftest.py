"""Kernels run in Triton's interpreter: no GPU is needed to see whether their numbers are right.

Triton decides when it is imported whether it interprets, so these tests run in a process of their own.
"""

import importlib.util
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

# Not imported here: the interpreting process reads this file before it knows that it interprets.
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]


def interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    interpreter.ScanOps.generic_scan = scanned  # its own calls the function once an element


def scanned(self, tiles: tuple) -> list:
    """The inclusive scan of tiles by doubling, as a GPU's is a tree: log2 of the rows calls of the function."""
    import numpy

    data, kinds = [x.handle.data for x in tiles], [x.dtype for x in tiles]
    place, done = numpy.indices(data[0].shape)[self.axis], 1
    while done < data[0].shape[self.axis]:
        earlier = [numpy.roll(x, done, self.axis) for x in data]
        found = self.combine_fn.fn(*(self.to_tensor(x, kind) for x, kind in zip((*earlier, *data), (*kinds, *kinds))))
        found = found if isinstance(found, tuple) else (found,)
        data = [numpy.where(place < done, x, y.handle.data) for x, y in zip(data, found)]
        done *= 2
    return [self.to_tensor(x, kind) for x, kind in zip(data, kinds)]


@pytest.fixture(scope="session")
def interpreted():
    """interpreted(function, *arguments): the call's result from the process in which kernels are interpreted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), interpret) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
