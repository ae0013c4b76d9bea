"""What the cost model knows of devices: one table of estimates, and what `recc tune` has measured on this machine."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from recc.runtime import cache

CALIBRATED = "calibrated on this machine"


@dataclass(frozen=True)
class Device:
    """Constants of a device, in seconds, operations and bytes a second. step: what a step costs besides its path.

    operation, function: until an addition, or an exp, is there for the next to use; contraction: the same for a sum
    over a dim. window: an iteration over a window of tokens, on one block. source: where the numbers are from.
    """

    name: str
    step: float
    operation: float
    function: float
    contraction: float
    throughput: float
    bandwidth: float
    window: float
    source: str


DEVICES: Mapping[str, Device] = {
    "cpu": Device("one CPU core", 50e-9, 1.5e-9, 35e-9, 80e-9, 13e9, 12e9, 0.0, "measured on another machine"),
    "h100": Device(
        "H100", 0.0, 2.5e-9, 35e-9, 1.5e-6, 12e12, 3e12, 4e-6, "estimated from published figures, not measured"
    ),
}


def devices() -> dict[str, Device]:
    """The table, with what was calibrated on this machine in place of its estimates or beside them."""
    found = dict(DEVICES)
    for path in sorted(_folder().glob("*.json")):
        device = _read(path, path.stat().st_mtime_ns)
        if device is not None:
            found[path.stem] = device
    return found


def record(key: str, device: Device) -> Path:
    """Keeps a device's constants in the user's cache. key: `cpu`, or a GPU's architecture."""
    path = _folder() / f"{key}.json"
    cache.write(path, (json.dumps({"machine": _machine(), "device": asdict(device)}, indent=1) + "\n").encode())
    return path


def is_calibrated(key: str) -> bool:
    """Whether a device has constants that were measured on this machine."""
    return devices().get(key, DEVICES["h100"]).source == CALIBRATED


def _folder() -> Path:
    return cache.folder("devices")


def _machine() -> str:
    """Tells machines apart that share a cache."""
    return f"{platform.machine()}-{os.cpu_count()}"


@functools.lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> Device | None:
    """The device of a file; of one that is damaged none, and a warning. changed: when the file was."""
    device, machine = cache.read(path, _device, "recc tune") or (None, None)
    return device if path.stem != "cpu" or machine == _machine() else None


def _device(view: dict) -> tuple[Device, str]:
    """What a file says, and of which machine. Raises ValueError, KeyError or TypeError for what is none."""
    device, machine = Device(**view["device"]), view["machine"]
    numbers = {name: value for name, value in vars(device).items() if name not in ("name", "source")}
    for name, value in numbers.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}")
    if not (device.throughput and device.bandwidth):
        raise ValueError("its throughput is 0")
    return device, machine
