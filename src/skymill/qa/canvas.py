"""What all figures share: rendering, and panels that have nothing to show."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["figure_to_png", "say_in_panel"]


def figure_to_png(figure: Figure, *, dpi: int = 90) -> bytes:
    """Render a figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    dpi : int
        Dots per inch.

    Returns
    -------
    bytes
        A PNG file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def say_in_panel(axes: Axes, text: str) -> None:
    """Write why a panel is empty into its middle.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        The panel.
    text : str
        What is missing.
    """
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4",
              fontsize=9, wrap=True)  # fmt: skip
    axes.set(xticks=[], yticks=[])
