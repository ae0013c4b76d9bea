"""recc compiles a recurrence, written as its one-step equation, into parallel training and constant-memory decoding.

The public names are loaded on first use, so that importing recc costs nothing: neither torch nor sympy is imported.

    >>> import recc
    >>> recc.__version__
    '0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recc.frontend.diagnostics import SpecError as SpecError
    from recc.library import SpecNotFound as SpecNotFound
    from recc.runtime.api import load as load
    from recc.runtime.api import loads as loads
    from recc.runtime.mixture import Mixture as Mixture
    from recc.runtime.module import Module as Module

__version__ = "0.1.0"
__all__ = ["Mixture", "Module", "SpecError", "SpecNotFound", "__version__", "load", "loads"]

_HOME = {
    "Mixture": "recc.runtime.mixture",
    "Module": "recc.runtime.module",
    "SpecError": "recc.frontend.diagnostics",
    "SpecNotFound": "recc.library",
    "load": "recc.runtime.api",
    "loads": "recc.runtime.api",
}

# In a checkout grammar/, backends/ and specs/ lie beside recc/; a wheel puts them inside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "grammar" / "__init__.py").is_file():
    __path__.append(str(_checkout))
del _checkout


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recc' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
