"""The text of every diagnostic (being written)."""

from recc.frontend.diagnostics import Diagnostic
from recc.ir.node import Span


def __getattr__(name: str):
    def message(*args):
        span = next((arg for arg in args if isinstance(arg, Span)), None)
        severity = "warning" if name == "unused" else "error"
        return Diagnostic("E0101", name.replace("_", " ") + ": " + ", ".join(map(str, args))[:80], span, severity=severity)

    return message
