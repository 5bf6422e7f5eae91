"""Purity and completeness of photometric members against spectroscopic redshifts."""

from __future__ import annotations

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError
from skymill.data.tables import float_column, load_schema

__all__ = ["THRESHOLDS", "grade_members"]

Float64Array = NDArray[np.float64]
#: Probabilities above which a galaxy is taken for a member.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def grade_members(
    sequence: Table,
    spectra: Table,
    *,
    z: float,
    centre: tuple[float, float],
    radius_arcmin: float,
    window: float = 0.01,
    match_arcsec: float = 1.0,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Table:
    """Grade the members of a red sequence with the galaxies that have a spectrum.

    Parameters
    ----------
    sequence : astropy.table.Table
        Schema ``redSequence``.
    spectra : astropy.table.Table
        Columns ``ra``, ``dec`` [deg] and ``z`` or ``z_spec``; NaN is left out.
    z : float
        Redshift of the cluster.
    centre : (ra, dec) [deg]
        Its centre.
    radius_arcmin : float [arcmin]
        Radius of the sequence's region: only spectra within it count.
    window : float
        A galaxy within it of the cluster, as abs(dz) / (1 + z), is a true member.
    match_arcsec : float [arcsec]
        Largest separation of galaxy and spectrum.
    thresholds : tuple of float
        Probabilities of membership to cut at.

    Returns
    -------
    astropy.table.Table
        Schema ``redSequenceGrades``: for each threshold the purity, true members among chosen
        galaxies with a spectrum, and the completeness, chosen galaxies among true members with a
        spectrum (blue ones too), each with its 68 % limits. NaN with a number of 0 where no
        galaxy counts.

    Raises
    ------
    DataError
        If a column is missing.
    """
    name = "z_spec" if "z_spec" in spectra.colnames else "z"
    missing = [n for n in ("ra", "dec", name) if n not in spectra.colnames]
    if missing:
        raise DataError(f"the spectroscopic catalogue has no column {', '.join(missing)}")
    if not window > 0 or not radius_arcmin > 0 or not match_arcsec > 0:
        raise ConfigError(
            "window, radius_arcmin and match_arcsec must be > 0; got "
            f"{window}, {radius_arcmin} and {match_arcsec}"
        )
    probability, redshift = _probabilities(
        sequence, spectra["ra", "dec", name], centre, radius_arcmin, match_arcsec
    )
    member = np.abs(redshift - z) / (1.0 + z) < window
    rows = []
    for threshold in thresholds:
        chosen = probability > threshold
        right = int((chosen & member).sum())
        purity = _fraction(right, int(chosen.sum()))
        completeness = _fraction(right, int(member.sum()))
        rows.append((threshold, *purity, int(chosen.sum()), *completeness, int(member.sum())))
    names = ("threshold", "purity", "purity_low", "purity_high", "n_chosen",
             "completeness", "completeness_low", "completeness_high", "n_member")  # fmt: skip
    table = Table(rows=rows, names=names)
    table.meta.update(n_spectra=len(redshift), window=window, radius_arcmin=radius_arcmin)
    return load_schema("redSequenceGrades").apply(table)


def _probabilities(
    sequence: Table,
    spectra: Table,
    centre: tuple[float, float],
    radius_arcmin: float,
    match_arcsec: float,
) -> tuple[Float64Array, Float64Array]:
    """Probability of membership (0 of no candidate) and redshift of the region's spectra."""
    ra, dec, redshift = (float_column(spectra, name) for name in spectra.colnames)
    known = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(redshift) & (np.abs(dec) <= 90)
    place = SkyCoord(ra[known], dec[known], unit="deg")
    inside = place.separation(SkyCoord(*centre, unit="deg")).arcmin < radius_arcmin
    place, redshift = place[inside], redshift[known][inside]
    probability = np.zeros(len(redshift))
    if len(sequence) and len(redshift):
        galaxies = SkyCoord(np.asarray(sequence["ra"]), np.asarray(sequence["dec"]), unit="deg")
        index, separation, _ = place.match_to_catalog_sky(galaxies)
        near = separation.arcsec < match_arcsec
        probability[near] = np.asarray(sequence["p_member"])[index[near]]
    return probability, redshift


def _fraction(k: int, n: int) -> tuple[float, float, float]:
    """Share k / n with the 68 % limits of Wilson 1927."""
    if n == 0:
        return np.nan, np.nan, np.nan
    p = k / n
    middle = (p + 0.5 / n) / (1.0 + 1.0 / n)
    half = np.sqrt(p * (1.0 - p) / n + 0.25 / n**2) / (1.0 + 1.0 / n)
    return p, middle - half, middle + half
