"""How well a PSF model fits its stars: residuals of size and shape, and their correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import treecorr
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.data.statistics import robust_sigma
from skymill.data.tables import float_column
from skymill.qa.sky_offsets import field_offsets

__all__ = ["StarResiduals", "coadd_star_residuals", "measure_rho", "visit_star_residuals"]

Float64Array = NDArray[np.float64]

#: Distance that keeps two visits apart in a plane [arcmin]: no pair joins them.
_APART = 1e5
#: Fewest stars of a correlation.
_MIN_STARS = 20
#: Stars whose size or shape is further from the model than so much are not stars [1, distortion].
_MAX_RESIDUAL = 0.3


@dataclass(frozen=True)
class StarResiduals:
    """Stars with the PSF model at their places.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        Offsets from the field's centre.
    group : (n,) int64
        Exposure of each; stars of different exposures are never compared.
    e1, e2, e1_psf, e2_psf : (n,) float64
        Distortions of star and model in pixel axes.
    size, size_psf : (n,) float64 [pixel2]
        Traces of the second moments.
    reserved : (n,) bool
        Kept out of the fit of the PSF.
    """

    east: Float64Array
    north: Float64Array
    group: NDArray[np.int64]
    e1: Float64Array
    e2: Float64Array
    e1_psf: Float64Array
    e2_psf: Float64Array
    size: Float64Array
    size_psf: Float64Array
    reserved: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.east)

    def choose(self, rows: NDArray[np.bool_]) -> StarResiduals:
        """Some of the stars.

        Parameters
        ----------
        rows : (n,) bool
            Which.

        Returns
        -------
        StarResiduals
            Those.
        """
        return StarResiduals(**{name: value[rows] for name, value in vars(self).items()})

    def for_grading(self) -> StarResiduals:
        """Stars that the fit has not seen, or all if these are too few.

        Returns
        -------
        StarResiduals
            At least twenty reserved stars, or every star.
        """
        return self.choose(self.reserved) if self.reserved.sum() >= _MIN_STARS else self

    @property
    def size_residual(self) -> Float64Array:
        """T star / T PSF - 1, (n,)."""
        return self.size / self.size_psf - 1.0


def _clean(stars: StarResiduals) -> StarResiduals:
    values = np.stack([stars.east, stars.north, stars.e1, stars.e2, stars.e1_psf, stars.e2_psf,
                       stars.size, stars.size_psf])  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        good = np.isfinite(values).all(axis=0) & (stars.size > 0) & (stars.size_psf > 0)
        good &= np.abs(stars.size_residual) < _MAX_RESIDUAL
        good &= np.hypot(stars.e1 - stars.e1_psf, stars.e2 - stars.e2_psf) < _MAX_RESIDUAL
    return stars.choose(good)


def visit_star_residuals(tables: Sequence[Table]) -> StarResiduals | None:
    """Stars of single exposures.

    Parameters
    ----------
    tables : sequence of astropy.table.Table
        ``finalized_src_table`` of the visits.

    Returns
    -------
    StarResiduals or None
        `None` without a star.
    """
    full = [t for t in tables if len(t)]
    if not full:
        return None
    stars = vstack(full, metadata_conflicts="silent")
    east, north = field_offsets(float_column(stars, "ra"), float_column(stars, "dec"))
    found = _clean(StarResiduals(
        east=east, north=north, group=np.asarray(stars["visit"], np.int64),
        e1=float_column(stars, "e1"), e2=float_column(stars, "e2"),
        e1_psf=float_column(stars, "e1Psf"), e2_psf=float_column(stars, "e2Psf"),
        size=2.0 * float_column(stars, "sigma") ** 2,
        size_psf=2.0 * float_column(stars, "sigmaPsf") ** 2,
        reserved=np.asarray(stars["calib_psf_reserved"], bool),
    ))  # fmt: skip
    return found if len(found) else None


def coadd_star_residuals(catalogue: Table) -> StarResiduals | None:
    """Stars of the coadd, as the shears see their PSF.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.

    Returns
    -------
    StarResiduals or None
        Stars that the PSF of an exposure was made of or kept for; `None` without one.
    """
    if not {"psf_used", "psf_reserved"} <= set(catalogue.colnames):
        return None
    reserved = np.asarray(catalogue["psf_reserved"], bool)
    chosen = catalogue[np.asarray(catalogue["psf_used"], bool) | reserved]
    if len(chosen) == 0:
        return None
    east, north = field_offsets(float_column(chosen, "ra"), float_column(chosen, "dec"))
    moments = {n: float_column(chosen, f"sdss_{n}") for n in ("xx", "yy", "psf_xx", "psf_yy")}
    found = _clean(StarResiduals(
        east=east, north=north, group=np.zeros(len(chosen), np.int64),
        e1=float_column(chosen, "sdss_e1"), e2=float_column(chosen, "sdss_e2"),
        e1_psf=float_column(chosen, "sdss_psf_e1"), e2_psf=float_column(chosen, "sdss_psf_e2"),
        size=moments["xx"] + moments["yy"], size_psf=moments["psf_xx"] + moments["psf_yy"],
        reserved=np.asarray(chosen["psf_reserved"], bool),
    ))  # fmt: skip
    return found if len(found) else None


def residual_summary(stars: StarResiduals) -> dict[str, tuple[float, float]]:
    """Mean residuals of size and shape with their errors.

    Parameters
    ----------
    stars : StarResiduals
        Stars.

    Returns
    -------
    dict
        ``size``, ``e1``, ``e2`` to (median, error).
    """
    out = {}
    for name, value in (
        ("size", stars.size_residual),
        ("e1", stars.e1 - stars.e1_psf),
        ("e2", stars.e2 - stars.e2_psf),
    ):
        error = 1.2533 * robust_sigma(value) / np.sqrt(len(value)) if len(value) > 1 else np.nan
        out[name] = float(np.median(value)), float(error)
    return out


def measure_rho(
    stars: StarResiduals, *, min_arcmin: float, max_arcmin: float, n_bins: int
) -> Table:
    """The rho statistics: correlations of the residuals of a PSF model.

    Parameters
    ----------
    stars : StarResiduals
        Stars, at least twenty.
    min_arcmin, max_arcmin : float [arcmin]
        Smallest and largest separation.
    n_bins : int
        Bins, equal in the logarithm.

    Returns
    -------
    astropy.table.Table
        ``radius`` [arcmin], ``n_pairs``, and ``rho_1`` to ``rho_5`` each with ``_err`` (of shape
        noise); bins without a pair are left out. With ``e`` the distortion of the star, ``q`` =
        e - e_PSF and ``w`` = e (T - T_PSF) / T: rho_1 = <q q>, rho_2 = <e q>, rho_3 = <w w>,
        rho_4 = <q w>, rho_5 = <e w>, each as xi_plus.

    Raises
    ------
    NoDataError
        With fewer stars, or none within the separations of another.

    References
    ----------
    Rowe 2010, MNRAS 404, 350; Jarvis et al. 2016, MNRAS 460, 2245.
    """
    if len(stars) < _MIN_STARS:
        raise NoDataError(
            f"the rho statistics need at least {_MIN_STARS} stars; there are {len(stars)}"
        )
    order = np.unique(stars.group, return_inverse=True)[1]
    # xi_plus does not change with the axes of the shapes as long as all stars share them.
    e = stars.e1 + 1j * stars.e2
    q = e - (stars.e1_psf + 1j * stars.e2_psf)
    w = e * (stars.size - stars.size_psf) / stars.size

    def catalog(value: NDArray[Any]) -> treecorr.Catalog:
        return treecorr.Catalog(
            x=stars.east + _APART * order, y=stars.north, g1=value.real, g2=value.imag
        )

    found, used = {}, np.zeros(n_bins, bool)
    for name, a, b in (("rho_1", q, q), ("rho_2", e, q), ("rho_3", w, w), ("rho_4", q, w),
                       ("rho_5", e, w)):  # fmt: skip
        pairs = treecorr.GGCorrelation(
            min_sep=min_arcmin, max_sep=max_arcmin, nbins=n_bins, num_threads=1
        )
        pairs.process(catalog(a), None if a is b else catalog(b))
        found[name] = pairs
        used = pairs.npairs > 0
    if not used.any():
        raise NoDataError(f"no two stars lie {min_arcmin} to {max_arcmin} arcmin from each other")
    first = found["rho_1"]
    out = Table({"radius": np.exp(first.meanlogr[used]), "n_pairs": first.npairs[used]})
    out["radius"].unit = "arcmin"
    for name, pairs in found.items():
        out[name], out[f"{name}_err"] = pairs.xip[used], np.sqrt(pairs.varxip[used])
    return out
