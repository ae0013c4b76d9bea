"""The look of recc's charts, and how durations are written."""

from __future__ import annotations

from typing import Any

OURS, OTHER, INK, PALE = "#1f6f8b", "#b7b7a4", "#222222", "#888888"


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{1e6 * seconds:.1f} us"
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"


def pyplot() -> Any:
    """matplotlib.pyplot in this style, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.color": INK}
    return plt
