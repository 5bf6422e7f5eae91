"""Photometric redshifts of a demonstration against the truth, and what they do to the shear."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.demo.truth import Truth, match_truth
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.masses.sources import (
    SourceOptions,
    mean_efficiency,
    rows_behind,
    select_sources,
)
from skymill.photoz.metrics import point_metrics
from skymill.photoz.storage import match_pz

__all__ = ["match_photoz", "photoz_numbers", "source_numbers"]

Numbers = dict[str, Any]
Float64Array = NDArray[np.float64]


def match_photoz(photoz: Table, catalogue: Table, truth: Truth) -> tuple[Table, Table]:
    """Photometric redshifts and the true galaxies that they belong to, row by row.

    Parameters
    ----------
    photoz, catalogue : astropy.table.Table
        ``photoz``, and the ``calibratedCatalog`` that has the positions of its objects.
    truth : Truth
        The truth.

    Returns
    -------
    photoz, galaxies : astropy.table.Table
        Matched rows.
    """
    rows = {name: i for i, name in enumerate(catalogue["ID"])}
    known = photoz[np.array([name in rows for name in photoz["ID"]], bool)]
    positions = catalogue[np.array([rows[name] for name in known["ID"]], np.int64)]
    first, second = match_truth(positions, truth.galaxies, radius_arcsec=0.8)
    return known[first], truth.galaxies[second]


def _graded(z_phot: Float64Array, z_true: Float64Array) -> Numbers:
    found = point_metrics(z_phot, z_true)
    return {name: found[name] for name in ("n", "nmad", "bias", "outliers")}


def photoz_numbers(photoz: Table, catalogue: Table, truth: Truth) -> Numbers:
    """Photometric against true redshifts of matched galaxies.

    Parameters
    ----------
    photoz, catalogue : astropy.table.Table
        ``photoz`` and the ``calibratedCatalog``, row by row.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        Number of galaxies; number, NMAD, bias and outliers for i < 23 and for odds > 0.7.
    """
    chosen, galaxies = match_photoz(photoz, catalogue, truth)
    z_phot, z_true = np.asarray(chosen["z_phot"], np.float64), np.asarray(galaxies["z"])
    good = np.isfinite(z_phot)
    samples = {
        "bright": good & (np.asarray(galaxies["mag_i"]) < 23),
        "sure": good & (np.asarray(chosen["odds"], np.float64) > 0.7),
    }
    out: Numbers = {"n": int(good.sum())}
    for name, rows in samples.items():
        if rows.sum() > 20:
            out[name] = _graded(z_phot[rows], z_true[rows])
    return out


def source_numbers(shear: Table, photoz: Table, truth: Truth) -> Numbers:
    """What the redshifts of the lensing sources do to the signal of the most massive halo.

    The sources are those that the mass is fitted to, with its default cuts. The signal that is
    fitted is the efficiency D_LS/D_S that p(z) promises; what is there is the true one, none in
    front of the cluster and for its members.

    Parameters
    ----------
    shear, photoz : astropy.table.Table
        ``shearCatalog`` and ``photoz``.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        ``sources``: number, NMAD, bias and outliers of the sources. ``members`` and ``not_behind``:
        shares of them by weight that are members, and that are not behind the halo at all.
        ``signal_ratio`` with its error: true over promised signal (by which the mass is biased to
        first order); ``signal_ratio_boosted``: the same with the correction for members that the
        counts of sources ask for; ``dilution`` with its error:
        that correction at the members' scale radius. Empty without a halo or sources.
    """
    use = shear[np.asarray(shear["use"], bool)]
    g, weight = np.hypot(use["g1"], use["g2"]), np.asarray(use["weight"], np.float64)
    use = use[np.isfinite(g + weight) & (g < 2.0) & (weight > 0)]
    first, second = match_truth(use, truth.galaxies, radius_arcsec=0.8)
    if len(first) < 100 or not len(truth.halos):
        return {}
    halo = truth.halos[int(np.argmax(truth.halos["m200"]))]
    z_lens, centre = float(halo["redshift"]), (float(halo["ra"]), float(halo["dec"]))
    table, z_true = use[first], np.asarray(truth.galaxies["z"], np.float64)[second]
    pz, z_grid = match_pz(photoz, table)
    sample, _ = ShearSample.from_columns(
        ra=table["ra"], dec=table["dec"], g1=table["g1"], g2=table["g2"], weight=table["weight"],
        z=table["z_phot"], pz=pz, z_grid=z_grid, mag=table["mag"], keep_unknown_z=True,
    )  # fmt: skip
    options = SourceOptions(dilution="measured")
    try:
        sources = select_sources(sample, z_lens=z_lens, centre=centre, options=options)
    except NoDataError:
        return {}
    keep = _chosen(sample, z_lens, centre, options)
    out: Numbers = {"sources": _graded(np.asarray(table["z_phot"], float)[keep], z_true[keep])}
    member = np.asarray(truth.galaxies["is_member"], bool)[second][keep]
    true = FIDUCIAL.lensing_efficiency(z_true[keep], z_lens=z_lens)
    true = np.where(member, 0.0, true)
    weight, promised = sources.weight, sources.beta
    out["members"] = float(np.average(member, weights=weight))
    out["not_behind"] = float(np.average(true <= 0, weights=weight))
    out["dilution"], out["dilution_err"] = sources.dilution.amplitude, sources.dilution.error
    for name, boost in (("signal_ratio", 1.0), ("signal_ratio_boosted", sources.boost)):
        out[name], out[f"{name}_err"] = _ratio(
            weight * promised * boost * true, weight * promised**2
        )
    return out


def _chosen(
    sample: ShearSample, z_lens: float, centre: tuple[float, float], options: SourceOptions
) -> NDArray[np.bool_]:
    """The rows that `select_sources` keeps, in their order."""
    east, north, _, _ = sample.in_plane(centre)
    scale = float(FIDUCIAL.angular_distance(z_lens)) * np.pi / 10800.0
    radius = np.hypot(east, north) * scale
    inside = (radius >= options.radius_min_mpc) & (radius <= options.radius_max_mpc)
    beta, _ = mean_efficiency(sample, z_lens=z_lens, cosmology=FIDUCIAL)
    return inside & (radius > 0) & rows_behind(sample, beta, z_lens=z_lens, options=options)


def _ratio(above: Float64Array, below: Float64Array) -> tuple[float, float]:
    """Ratio of two sums, and its error from the scatter of the galaxies."""
    ratio = float(above.sum() / below.sum())
    left = above - ratio * below
    return ratio, float(np.sqrt(np.sum(left**2)) / below.sum())
