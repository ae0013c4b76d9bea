"""The threads that share a call's tasks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from recc.backends.c import build, compiler, threads

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)


def test_work_in_threads_is_all_done_and_raises_what_it_raises():
    found = []
    torch.set_num_threads(2)
    try:
        for count in (0, 1, 2, 5):
            assert threads.in_threads(lambda place: place * place, count) == [n * n for n in range(count)]
        nested = threads.in_threads(lambda place: threads.in_threads(lambda inner: (place, inner), 2), 2)
        assert nested == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
        with pytest.raises(KeyError, match="two"):
            threads.in_threads(lambda place: found.append(place) if place != 2 else {}["two"], 4)
        assert sorted(found) == [0, 1, 3]
    finally:
        torch.set_num_threads(1)


FORKED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from contracts import Call
torch.set_num_threads(2)
call = Call("gla", time=100, K=32, V=32)
want = call()
child = os.fork()
if not child:
    os._exit(0 if all(torch.equal(a, b) for a, b in zip(call(), want)) else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_process_with_threads_computes_the_same():
    """It has none of its parent's threads. An operation of torch that wants them would wait for ever."""
    arguments = [sys.executable, "-c", FORKED, os.path.dirname(os.path.dirname(__file__))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
