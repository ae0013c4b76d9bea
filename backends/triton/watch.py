"""Whether Newton's method does as well as it was chosen for, looked at without waiting for the device.

Kernels count the channels of windows that they solve, and those that they had to finish token by token. Where those are
many, the loop over tokens alone is faster: a model in training can drift there. Every so many calls the counts begin
their way to the host, and they are looked at in a later call, once they have arrived.
"""

from __future__ import annotations

import torch

CALLS = 64  # between two looks
SHARE = 0.02  # of channels finished token by token, from which on the loop is taken
REST = 4096  # calls that are not solved then


class Watch:
    """allows(counts): whether the next call is to be solved. counts: the five numbers of `Op.statistics` where the
    kernels add to them, None before the first call."""

    def __init__(self) -> None:
        self.calls = self.rest = 0
        self.before = 0.0, 0.0
        self.coming: _Copy | None = None

    def allows(self, counts: torch.Tensor | None) -> bool:
        if self.rest:
            self.rest -= 1
            return False
        if self.coming is not None and self.coming.arrived():
            self.rest = REST if self._share(self.coming.host) > SHARE else 0
            self.coming = None
        self.calls += 1
        if counts is not None and self.coming is None and self.calls % CALLS == 0 and not _captured(counts):
            self.coming = _Copy(counts)
        return not self.rest

    def _share(self, host: torch.Tensor) -> float:
        """Of the channels since the last look."""
        (channels, finished), before = (float(host[0]), float(host[2])), self.before
        self.before = channels, finished
        return (finished - before[1]) / max(channels - before[0], 1.0)


class _Copy:
    """Counts on their way to the host."""

    def __init__(self, counts: torch.Tensor) -> None:
        self.host = torch.empty_like(counts, device="cpu", pin_memory=counts.is_cuda)
        self.host.copy_(counts, non_blocking=True)
        self.event = torch.cuda.Event() if counts.is_cuda else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(counts.device))

    def arrived(self) -> bool:
        return self.event is None or self.event.query()


def _captured(counts: torch.Tensor) -> bool:
    """A graph that is captured must not hold the copy, nor may its event be asked."""
    return counts.is_cuda and torch.cuda.is_current_stream_capturing()
