"""Non-linearity of the amplifiers: a correction in ADU as a function of the ADU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError

__all__ = ["LINEARITY_STEP", "Linearity"]

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

    def dense(self) -> NDArray[np.float32]:
        """The correction at multiples of `LINEARITY_STEP` from 0 to past the last knot.

        Returns
        -------
        (n,) float32 [adu]
            Correction.
        """
        n = int(np.ceil(float(self.adu[-1]) / LINEARITY_STEP)) + 2
        return self.evaluate(np.arange(n) * LINEARITY_STEP).astype(np.float32)
