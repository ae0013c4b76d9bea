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


@pytest.fixture(scope="session")
def interpreted():
    """interpreted(function, *arguments): the call's result from the process in which kernels are interpreted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), interpret) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
