"""The photometric calibration of an image: nanojansky per count, constant or varying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError

__all__ = ["FluxScale"]


@dataclass(frozen=True)
class FluxScale:
    """NanoJansky per count as ``mean`` times a two-dimensional Chebyshev field.

    Parameters
    ----------
    mean : float [nJy/count]
        Scale.
    mean_err : float [nJy/count]
        Its standard deviation.
    coefficients : (order_y + 1, order_x + 1) float64, optional
        Chebyshev coefficients of the relative field over the image; ``[[1.0]]`` if omitted.
    shape : (ny, nx)
        Pixels that the field spans: x = -0.5 maps to -1 and x = nx - 0.5 to +1.
    """

    mean: float
    mean_err: float = 0.0
    coefficients: NDArray[np.float64] | None = None
    shape: tuple[int, int] = (4096, 2048)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and self.mean > 0):
            raise DataError(f"the flux scale must be > 0 nJy per count; got {self.mean}")

    def scale(self, *, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """NanoJansky per count at pixels.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Positions in the image.

        Returns
        -------
        (n,) float64 [nJy/count]
            Scale at each position.
        """
        x_, y_ = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if self.coefficients is None:
            return np.full(x_.shape, self.mean)
        ny, nx = self.shape
        u, v = (2 * x_ + 1) / nx - 1, (2 * y_ + 1) / ny - 1
        return np.asarray(self.mean * chebyshev.chebval2d(v, u, self.coefficients))
