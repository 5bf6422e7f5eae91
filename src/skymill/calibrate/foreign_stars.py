"""Anyone's catalogue in the form that the zero points need: stars, and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.calibrate.column_map import BandColumns, read_band_fluxes
from skymill.calibrate.stellar_locus import StellarLocusOptions
from skymill.calibrate.zero_points import ZeroPointFit, ZeroPointOptions, fit_zero_points
from skymill.data.errors import DataError
from skymill.data.units import magnitude_error, magnitude_from_njy

__all__ = ["compare_photometry", "make_reference", "make_stars"]

Float64Array = NDArray[np.float64]


def make_stars(
    table: Table,
    columns: Mapping[str, BandColumns],
    *,
    ra: ArrayLike,
    dec: ArrayLike,
    ebv: ArrayLike,
    coefficients: Mapping[str, float],
) -> Table:
    """Dereddened magnitudes of a catalogue.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    columns : mapping of str to BandColumns
        Its bands.
    ra, dec : (n,) float64 [deg]
        Positions.
    ebv : (n,) float64 [mag]
        E(B-V); NaN counts as unknown, and the row has no magnitudes.
    coefficients : mapping of str to float
        Extinction of each band over E(B-V).

    Returns
    -------
    astropy.table.Table
        ``ra``, ``dec``, ``ebv``, and for each band ``{b}_psf_mag``, ``{b}_psf_magerr``: what
        `skymill.calibrate.zero_points.fit_zero_points` takes.
    """
    flux, err = read_band_fluxes(table, columns)
    dust = np.asarray(ebv, np.float64)
    out = Table({"ra": np.asarray(ra, float), "dec": np.asarray(dec, float), "ebv": dust})
    for k, band in enumerate(columns):
        with np.errstate(invalid="ignore", divide="ignore"):
            out[f"{band}_psf_mag"] = magnitude_from_njy(flux[:, k]) - coefficients[band] * dust
            out[f"{band}_psf_magerr"] = magnitude_error(flux[:, k], err[:, k])
    return out


def _optional(table: Table, names: tuple[str, ...]) -> Float64Array | None:
    lower = {c.lower(): c for c in reversed(table.colnames)}
    for name in names:
        if name in lower and table[lower[name]].dtype.kind in "fiu":
            column = np.ma.asarray(table[lower[name]]).astype(np.float64)
            return np.asarray(np.ma.filled(column, np.nan))
    return None


def make_reference(
    table: Table,
    columns: Mapping[str, BandColumns],
    *,
    ra: ArrayLike,
    dec: ArrayLike,
    epoch_mjd: float = np.nan,
) -> Table:
    """A reference catalogue in the schema ``refcat``.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue. Proper motions are taken from ``pm_ra``/``pmra`` and ``pm_dec``/``pmdec``
        [mas/yr, the first with cos(dec)] and epochs from ``epoch`` [MJD] or ``ref_epoch`` [year]
        where there are such columns.
    columns : mapping of str to BandColumns
        Its bands.
    ra, dec : (n,) float64 [deg]
        Positions.
    epoch_mjd : float [day]
        Epoch of the positions where the catalogue has none, MJD.

    Returns
    -------
    astropy.table.Table
        Rows with a position.
    """
    flux, err = read_band_fluxes(table, columns)
    a, d = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    n = len(a)
    epoch = _optional(table, ("epoch", "epoch_mjd", "mjd"))
    if epoch is None:
        years = _optional(table, ("ref_epoch",))
        epoch = np.full(n, epoch_mjd) if years is None else (years - 2000.0) * 365.25 + 51544.5
    pm_ra, pm_dec = (
        _optional(table, names)
        for names in (("pm_ra", "pmra", "pmra_masyr"), ("pm_dec", "pmdec", "pmdec_masyr"))
    )
    out = Table({"id": np.arange(n, dtype=np.int64), "ra": a % 360.0, "dec": d})
    out["epoch"] = np.where(np.isfinite(epoch), epoch, 57388.0)
    for name in ("ra_err", "dec_err", "pm_ra_err", "pm_dec_err"):
        out[name] = np.zeros(n)
    out["pm_ra"] = np.full(n, np.nan) if pm_ra is None else pm_ra
    out["pm_dec"] = np.full(n, np.nan) if pm_dec is None else pm_dec
    for k, band in enumerate(columns):
        out[f"{band}_flux"], out[f"{band}_flux_err"] = flux[:, k], err[:, k]
    good = np.isfinite(a) & np.isfinite(d)
    if not good.any():
        raise DataError("no row of the reference catalogue has a position")
    return out[good]


def compare_photometry(
    stars: Table,
    references: Sequence[Table],
    *,
    bands: Sequence[str],
    survey: str,
    name: str,
    camera: str = "decam",
    options: ZeroPointOptions = ZeroPointOptions(),
) -> ZeroPointFit:
    """Differences of calibrated stars from another catalogue; nothing is changed.

    Parameters
    ----------
    stars : astropy.table.Table
        From `make_stars`, or the stars of a ``calibratedCatalog``.
    references : sequence of astropy.table.Table
        Shards in the schema ``refcat``.
    bands : sequence of str
        Bands of the stars.
    survey : str
        Survey of the reference, for colour terms and extinction.
    name : str
        Its name.
    camera : str
        Camera of the stars; empty leaves out the colour terms.
    options : ZeroPointOptions
        Stars and match.

    Returns
    -------
    ZeroPointFit
        The table's ``offset`` is the mean difference; residuals of the stars are around it.
    """
    return fit_zero_points(
        stars, references, bands=list(bands), survey=survey, band_map={"Y": "y"}, name=name,
        options=options, locus=StellarLocusOptions(use=False), camera=camera,
    )  # fmt: skip
