"""Non-linearity of the amplifiers: a correction in ADU as a function of the ADU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError

__all__ = ["LINEARITY_STEP", "Linearity", "dense_tables"]

#: Spacing of the table that the kernel uses [adu]; DECam's knots are multiples of it.
LINEARITY_STEP = 8.0


@dataclass(frozen=True)
class Linearity:
    """The correction of one amplifier: linear = measured + delta(measured).

    Parameters
    ----------
    adu : (n,) float [adu]
        Knots, ascending; measured signal without overscan and bias.
    delta : (n,) float [adu]
        Correction at the knots, linear in between and constant outside.
    max_valid : float [adu]
        Signal up to which the correction was measured; beyond it a pixel is SUSPECT.
    """

    adu: NDArray[np.floating]
    delta: NDArray[np.floating]
    max_valid: float = np.inf

    def __post_init__(self) -> None:
        if self.adu.shape != self.delta.shape or self.adu.ndim != 1 or self.adu.size < 2:
            raise DataError(
                "a linearity table needs at least 2 knots of adu and delta in one shape; got "
                f"{self.adu.shape} and {self.delta.shape}"
            )
        if not np.all(np.diff(self.adu) > 0):
            raise DataError("the knots of a linearity table must ascend in adu")
        if not np.all(np.isfinite(self.delta)):
            raise DataError("a linearity table must be finite")

    def evaluate(self, adu: NDArray[np.floating]) -> NDArray[np.float64]:
        """Correction [adu] at measured signals (...) [adu]."""
        return np.interp(adu, self.adu, self.delta)


def dense_tables(tables: Sequence[Linearity | None]) -> NDArray[np.float32]:
    """The corrections of all amplifiers at multiples of `LINEARITY_STEP`, from 0 on.

    Parameters
    ----------
    tables : sequence of Linearity or None
        One for each amplifier; None is linear.

    Returns
    -------
    (n_amplifier, n) float32 [adu]
        Corrections; shape (0, 0) if every amplifier is linear.
    """
    last = [float(t.adu[-1]) for t in tables if t is not None]
    if not last:
        return np.empty((0, 0), np.float32)
    knots = np.arange(int(np.ceil(max(last) / LINEARITY_STEP)) + 2) * LINEARITY_STEP
    out = np.zeros((len(tables), knots.size), np.float32)
    for i, table in enumerate(tables):
        if table is not None:
            out[i] = table.evaluate(knots)
    return out
