"""PSF models as the PSF classes of lsst.images, Piff coefficients above all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lsst.images import Box as LsstBox
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction

from skymill.data.errors import DataError
from skymill.data.protocols import Psf
from skymill.psf.models import ConstantPsf, PolynomialPsf

if TYPE_CHECKING:
    # Piff's own imports take a second: only who reads or writes a PSF pays it.
    import piff

__all__ = ["from_lsst_psf", "to_lsst_psf", "to_piff"]

#: Piff multiplies coordinates by this scale; one pixel stays one pixel.
_SCALE = 1.0


def to_piff(psf: PolynomialPsf | ConstantPsf) -> piff.SimplePSF:
    """The same model as a Piff PSF: a pixel grid with polynomials of x and y.

    Parameters
    ----------
    psf : PolynomialPsf or ConstantPsf
        The model.

    Returns
    -------
    piff.SimplePSF
        Interpolated by ``BasisPolynomial`` with keys x, y in pixels.
    """
    import piff
    from galsim import PixelScale

    if isinstance(psf, ConstantPsf):
        coefficients, order = psf.stamp[None].astype(np.float64), 0
    else:
        coefficients, order = psf.in_raw_pixels(), psf.order
    grid = piff.PixelGrid(_SCALE, coefficients.shape[-1])
    interp = piff.BasisPolynomial(order, keys=("x", "y"))
    interp.q = coefficients.reshape(coefficients.shape[0], -1).T.copy()
    model = piff.SimplePSF(grid, interp)
    model.wcs, model.pointing, model.stars = {0: PixelScale(_SCALE)}, None, []
    model.chisq = model.last_delta_chisq = 0.0
    model.dof = model.nremoved = model.niter = 0
    return model


def to_lsst_psf(psf: Psf | None, box: LsstBox, sigma: float = 2.0) -> PointSpreadFunction:
    """The PSF that a `lsst.images.VisitImage` can carry.

    Parameters
    ----------
    psf : Psf, optional
        The model. A model that Piff cannot express is drawn in the middle of the image and
        carried as constant; without a model a Gaussian stands in, as a VisitImage must have one.
    box : lsst.images.Box
        Where the model is valid.
    sigma : float [pixel]
        Width of the stand-in.

    Returns
    -------
    lsst.images.psfs.PointSpreadFunction
        The PSF.
    """
    if psf is None:
        return GaussianPointSpreadFunction(sigma, bounds=box, stamp_size=25)
    if not isinstance(psf, PolynomialPsf | ConstantPsf):
        middle = np.array([[0.5 * (box.x.min + box.x.max)], [0.5 * (box.y.min + box.y.max)]])
        psf = ConstantPsf(psf.draw(x=middle[0], y=middle[1])[0])
    return PiffWrapper(to_piff(psf), bounds=box, stamp_size=psf.stamp_size)


def from_lsst_psf(psf: Any) -> Psf:
    """Our model of a PSF read from a foreign VisitImage.

    Parameters
    ----------
    psf : lsst.images.psfs.PointSpreadFunction
        Piff pixel grids with polynomials in pixels keep their coefficients; others are sampled
        on a grid over their bounds and fitted with a polynomial of order 2.

    Returns
    -------
    Psf
        The model.

    Raises
    ------
    DataError
        If the PSF cannot be drawn.
    """
    if isinstance(psf, PiffWrapper):
        import piff

        model: Any = getattr(psf.piff_psf, "model", None)
        interp: Any = getattr(psf.piff_psf, "interp", None)
        plain = isinstance(model, piff.PixelGrid) and isinstance(interp, piff.BasisPolynomial)
        if plain and model.scale == _SCALE and tuple(interp._keys) == ("x", "y"):
            q = np.asarray(interp.q)
            size = round(np.sqrt(q.shape[0]))
            orders = np.atleast_1d(interp._orders)
            return PolynomialPsf.from_raw_pixels(q.T.reshape(-1, size, size), int(orders[0]))
    return _sample(psf)


def _sample(psf: Any) -> PolynomialPsf:
    bbox = psf.bounds.bbox
    xs, ys = np.linspace(bbox.x.min, bbox.x.max, 5), np.linspace(bbox.y.min, bbox.y.max, 5)
    x, y = (a.ravel() for a in np.meshgrid(xs, ys))
    try:
        stamps = np.stack(
            [
                psf.compute_kernel_image(x=float(a), y=float(b)).array
                for a, b in zip(x, y, strict=True)
            ]
        )
    except (NotImplementedError, ImportError) as err:
        raise DataError(f"the PSF of class {type(psf).__name__} cannot be drawn: {err}") from err
    centre = (0.5 * (xs[0] + xs[-1]), 0.5 * (ys[0] + ys[-1]))
    half = (max(0.5 * (xs[-1] - xs[0]), 1.0), max(0.5 * (ys[-1] - ys[0]), 1.0))
    size = stamps.shape[-1]
    empty = PolynomialPsf(np.zeros((6, size, size)), 2, centre, half)
    terms = empty.basis(x=x, y=y)
    solution = np.linalg.lstsq(terms, stamps.reshape(len(x), -1), rcond=None)[0]
    return PolynomialPsf(solution.reshape(6, size, size), 2, centre, half)
