"""PSF models behind the `Psf` protocol: constant, polynomial over a CCD, constant in cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.psf.shift import shift_stamps

__all__ = ["CellPsf", "ConstantPsf", "PolynomialPsf", "polynomial_basis"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


def polynomial_basis(u: Float64Array, v: Float64Array, order: int) -> Float64Array:
    """Terms of a two-dimensional polynomial.

    Parameters
    ----------
    u, v : (n,) float64
        Coordinates, best within [-1, 1].
    order : int
        Highest total order.

    Returns
    -------
    (n, (order + 1) (order + 2) / 2) float64
        Terms u^i v^j in the order of Piff's BasisPolynomial: i slow, j fast.
    """
    terms = [u**i * v**j for i in range(order + 1) for j in range(order + 1 - i)]
    return np.stack(terms, axis=-1)


def _resize(stamps: Float32Array, size: int) -> Float32Array:
    native = stamps.shape[-1]
    if size == native:
        return stamps
    if size % 2 == 0:
        raise DataError(f"the size of a PSF stamp must be odd; got {size} pixel")
    if size < native:
        cut = (native - size) // 2
        return np.ascontiguousarray(stamps[:, cut : cut + size, cut : cut + size])
    pad = (size - native) // 2
    return np.pad(stamps, ((0, 0), (pad, pad), (pad, pad)))


def _place(
    stamps: Float32Array,
    size: int | None,
    offset_x: Float64Array | None,
    offset_y: Float64Array | None,
) -> Float32Array:
    """Resize the stamps and move their stars off the centre of the central pixel."""
    n, native, _ = stamps.shape
    if size is not None and size > native:
        stamps = _resize(stamps, size)
    if offset_x is not None or offset_y is not None:
        dx = np.zeros(n) if offset_x is None else np.asarray(offset_x, np.float64)
        dy = np.zeros(n) if offset_y is None else np.asarray(offset_y, np.float64)
        if np.any(np.abs(dx) >= 1) or np.any(np.abs(dy) >= 1):
            raise DataError("PSF offsets must lie within one pixel of the stamp's centre")
        stamps = shift_stamps(stamps, dx=dx, dy=dy)
    return _resize(stamps, stamps.shape[-1] if size is None else size)


@dataclass(frozen=True, eq=False)
class ConstantPsf:
    """One stamp for the whole image.

    Parameters
    ----------
    stamp : (n, n) float32
        PSF sampled at the pixels, centred, n odd.
    """

    stamp: Float32Array

    def __post_init__(self) -> None:
        if self.stamp.ndim != 2 or self.stamp.shape[0] != self.stamp.shape[1]:
            raise DataError(f"a PSF stamp must be square; got {self.stamp.shape}")
        if self.stamp.shape[0] % 2 == 0:
            raise DataError(f"the size of a PSF stamp must be odd; got {self.stamp.shape[0]} pixel")

    @classmethod
    def gaussian(cls, sigma: float, size: int = 25) -> ConstantPsf:
        """A circular Gaussian.

        Parameters
        ----------
        sigma : float [pixel]
            Width.
        size : int [pixel]
            Odd width of the stamp.

        Returns
        -------
        ConstantPsf
            Unit flux.
        """
        axis = np.arange(size) - size // 2
        line = np.exp(-0.5 * (axis / sigma) ** 2)
        stamp = np.outer(line, line)
        return cls((stamp / stamp.sum()).astype(np.float32))

    @property
    def stamp_size(self) -> int:
        """Width of the stamp [pixel]."""
        return int(self.stamp.shape[0])

    def draw(
        self,
        *,
        x: ArrayLike,
        y: ArrayLike,
        size: int | None = None,
        offset_x: Float64Array | None = None,
        offset_y: Float64Array | None = None,
    ) -> Float32Array:
        """Draw the PSF at many positions; see `skymill.data.protocols.Psf.draw`."""
        n = np.atleast_1d(np.asarray(x)).size
        stamps = np.broadcast_to(self.stamp, (n, *self.stamp.shape)).astype(np.float32)
        return _place(stamps, size, offset_x, offset_y)


@dataclass(frozen=True, eq=False)
class PolynomialPsf:
    """Pixels of the PSF as polynomials of the position on the CCD.

    Parameters
    ----------
    coefficients : (n_basis, n, n) float64
        One stamp for each term of `polynomial_basis`; n odd.
    order : int
        Order of the polynomial.
    centre : (x, y) [pixel]
        Where u = v = 0.
    half_width : (x, y) [pixel]
        Distance from the centre at which u or v is 1.
    """

    coefficients: Float64Array
    order: int
    centre: tuple[float, float]
    half_width: tuple[float, float]

    def __post_init__(self) -> None:
        expected = (self.order + 1) * (self.order + 2) // 2
        if self.coefficients.ndim != 3 or self.coefficients.shape[0] != expected:
            raise DataError(
                f"a PSF of order {self.order} needs {expected} stamps; "
                f"got an array of shape {self.coefficients.shape}"
            )

    @property
    def stamp_size(self) -> int:
        """Width of a stamp [pixel]."""
        return int(self.coefficients.shape[-1])

    def basis(self, *, x: ArrayLike, y: ArrayLike) -> Float64Array:
        """Polynomial terms (n, n_basis) at pixel positions."""
        u = (np.atleast_1d(np.asarray(x, np.float64)) - self.centre[0]) / self.half_width[0]
        v = (np.atleast_1d(np.asarray(y, np.float64)) - self.centre[1]) / self.half_width[1]
        return polynomial_basis(u, v, self.order)

    def draw(
        self,
        *,
        x: ArrayLike,
        y: ArrayLike,
        size: int | None = None,
        offset_x: Float64Array | None = None,
        offset_y: Float64Array | None = None,
    ) -> Float32Array:
        """Draw the PSF at many positions; see `skymill.data.protocols.Psf.draw`."""
        terms = self.basis(x=x, y=y)
        n_basis, ny, nx = self.coefficients.shape
        stamps = terms @ self.coefficients.reshape(n_basis, ny * nx)
        single = stamps.reshape(-1, ny, nx).astype(np.float32)
        return _place(single, size, offset_x, offset_y)

    def in_raw_pixels(self) -> Float64Array:
        """Coefficients of the same polynomial in unscaled pixel coordinates.

        Returns
        -------
        (n_basis, n, n) float64
            Stamps for the terms x^i y^j, as Piff's BasisPolynomial with keys x, y holds them.
        """
        order = self.order
        pairs = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
        # Expand ((x - x0)/sx)^i ((y - y0)/sy)^j term by term with the binomial theorem.
        line_x = [
            np.poly1d([1 / self.half_width[0], -self.centre[0] / self.half_width[0]]) ** i
            for i in range(order + 1)
        ]
        line_y = [
            np.poly1d([1 / self.half_width[1], -self.centre[1] / self.half_width[1]]) ** j
            for j in range(order + 1)
        ]
        matrix = np.zeros((len(pairs), len(pairs)))
        for row, (i, j) in enumerate(pairs):
            for column, (k, m) in enumerate(pairs):
                if k <= i and m <= j:
                    matrix[row, column] = line_x[i].coeffs[::-1][k] * line_y[j].coeffs[::-1][m]
        return np.tensordot(matrix.T, self.coefficients, axes=1)

    @classmethod
    def from_raw_pixels(cls, coefficients: Float64Array, order: int) -> PolynomialPsf:
        """The inverse of `in_raw_pixels`: a polynomial in unscaled pixel coordinates."""
        return cls(
            coefficients=np.asarray(coefficients, np.float64),
            order=order,
            centre=(0.0, 0.0),
            half_width=(1.0, 1.0),
        )


@dataclass(frozen=True, eq=False)
class CellPsf:
    """One stamp for each cell of a grid: the PSF of a coadd.

    Parameters
    ----------
    stamps : (ncy, ncx, n, n) float32
        PSF in the middle of each cell; NaN where no input covers the cell.
    x0, y0 : float [pixel]
        Lower left corner of the first cell (the first pixel's *index*, not its edge).
    cell : int [pixel]
        Width of a cell.
    """

    stamps: Float32Array
    x0: float
    y0: float
    cell: int

    @property
    def stamp_size(self) -> int:
        """Width of a stamp [pixel]."""
        return int(self.stamps.shape[-1])

    def cell_index(
        self, *, x: ArrayLike, y: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the cell of each position, clipped to the grid."""
        ncy, ncx = self.stamps.shape[:2]
        column = np.floor((np.atleast_1d(np.asarray(x, np.float64)) + 0.5 - self.x0) / self.cell)
        row = np.floor((np.atleast_1d(np.asarray(y, np.float64)) + 0.5 - self.y0) / self.cell)
        return (
            np.clip(row, 0, ncy - 1).astype(np.int64),
            np.clip(column, 0, ncx - 1).astype(np.int64),
        )

    def draw(
        self,
        *,
        x: ArrayLike,
        y: ArrayLike,
        size: int | None = None,
        offset_x: Float64Array | None = None,
        offset_y: Float64Array | None = None,
    ) -> Float32Array:
        """Draw the PSF at many positions; NaN in cells without data. See `Psf.draw`."""
        row, column = self.cell_index(x=x, y=y)
        return _place(np.ascontiguousarray(self.stamps[row, column]), size, offset_x, offset_y)
