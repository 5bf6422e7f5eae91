"""The numbers of the report: each figure beside its truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.calibrate.match import match_sky
from skymill.data.statistics import robust_sigma
from skymill.data.units import magnitude_from_njy
from skymill.demo.products import Products
from skymill.demo.truth import Truth, match_truth
from skymill.qa.repeatability import Repeatability, measure_repeatability

__all__ = [
    "astrometry_numbers",
    "bright_stars",
    "count_numbers",
    "mass_numbers",
    "peak_numbers",
    "photometry_numbers",
    "psf_numbers",
    "quality_numbers",
    "red_sequence_numbers",
    "repeatability_of",
    "shear_numbers",
]

Numbers = dict[str, Any]


def _separation_arcmin(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    found = match_sky([ra1], [dec1], [ra2], [dec2], radius_arcsec=3600.0 * 90)
    return float(found.separation[0] / 60) if len(found) else float("nan")


def repeatability_of(sources: Table) -> Repeatability:
    """Repeatability of the bright, clean stars of one band's visits.

    Parameters
    ----------
    sources : astropy.table.Table
        ``sourceTable_visit`` of all visits.

    Returns
    -------
    Repeatability
        Scatter of single visits.
    """
    clean = (np.asarray(sources["psfFlux_flags"]) == 0) & ~np.asarray(sources["blended"])
    clean &= (np.asarray(sources["centroid_flags"]) == 0) & (
        np.asarray(sources["extendedness"]) < 0.5
    )
    return measure_repeatability(
        ra=np.asarray(sources["ra"]),
        dec=np.asarray(sources["dec"]),
        flux=np.asarray(sources["psfFlux"]),
        snr=np.asarray(sources["snr"]),
        visit=np.asarray(sources["visit"]),
        star=clean,
    )


def bright_stars(sources: Table, truth: Truth, band: str) -> Numbers:
    """Positions and magnitudes of bright stars against the truth.

    Parameters
    ----------
    sources : astropy.table.Table
        ``sourceTable_visit`` of one band.
    truth : Truth
        The truth.
    band : str
        Band.

    Returns
    -------
    dict
        Median offsets and scatter.
    """
    stars = truth.stars.copy()
    years = (float(np.mean(truth.exposures["mjd"])) - 57388.0) / 365.25
    cos_dec = np.cos(np.radians(stars["dec"]))
    stars["ra"] = np.asarray(stars["ra"]) + np.asarray(stars["pm_ra"]) * years / 3.6e6 / cos_dec
    stars["dec"] = np.asarray(stars["dec"]) + np.asarray(stars["pm_dec"]) * years / 3.6e6
    bright = sources[
        (np.asarray(sources["snr"]) > 100) & (np.asarray(sources["psfFlux_flags"]) == 0)
    ]
    first, second = match_truth(bright, stars, radius_arcsec=0.5)
    if first.size == 0:
        return {"n": 0}
    east = (np.asarray(bright["ra"])[first] - np.asarray(stars["ra"])[second]) * 3.6e6
    east *= cos_dec[second]
    north = (np.asarray(bright["dec"])[first] - np.asarray(stars["dec"])[second]) * 3.6e6
    mag = magnitude_from_njy(bright["psfFlux"])[first] - np.asarray(stars[f"mag_{band}"])[second]
    return {
        "n": int(first.size),
        "offset_east_mas": float(np.median(east)),
        "offset_north_mas": float(np.median(north)),
        "scatter_mas": robust_sigma(np.concatenate([east, north])),
        "zero_point_error_mmag": float(1e3 * np.median(mag)),
        "magnitude_scatter_mmag": 1e3 * robust_sigma(mag),
    }


def astrometry_numbers(by_band: dict[str, Repeatability], absolute: dict[str, Numbers]) -> Numbers:
    """Relative and absolute astrometry of all bands.

    Parameters
    ----------
    by_band : dict
        Repeatability of each band.
    absolute : dict
        `bright_stars` of each band.

    Returns
    -------
    dict
        ``relative_mas`` is the worst band's.
    """
    values = [r.astrometry_mas for r in by_band.values() if r.n_stars]
    return {
        "relative_mas": float(max(values)) if values else None,
        "bands": {b: {"relative_mas": r.astrometry_mas, "n_stars": r.n_stars}
                  for b, r in by_band.items()},
        **_against_truth({
            b: {k: v for k, v in n.items() if "mmag" not in k} for b, n in absolute.items()
        }),
    }  # fmt: skip


def _against_truth(bands: dict[str, Numbers]) -> Numbers:
    return {"against_truth": bands} if bands else {}


def photometry_numbers(by_band: dict[str, Repeatability], absolute: dict[str, Numbers]) -> Numbers:
    """Repeatability and zero-point errors of all bands.

    Parameters
    ----------
    by_band : dict
        Repeatability of each band.
    absolute : dict
        `bright_stars` of each band.

    Returns
    -------
    dict
        ``repeatability_mmag`` is the worst band's.
    """
    values = [r.photometry_mmag for r in by_band.values() if r.n_stars]
    return {
        "repeatability_mmag": float(max(values)) if values else None,
        "bands": {b: {"repeatability_mmag": r.photometry_mmag} for b, r in by_band.items()},
        **_against_truth(
            {b: {k: v for k, v in n.items() if "mas" not in k} for b, n in absolute.items()}
        ),
    }


def psf_numbers(stars: Table) -> Numbers:
    """Residuals of the final PSF on stars that it has not seen.

    Parameters
    ----------
    stars : astropy.table.Table
        ``finalized_src_table`` of all visits.

    Returns
    -------
    dict
        Means with their errors.
    """
    if len(stars) == 0:
        return {"n": 0}
    kept = np.asarray(stars["calib_psf_reserved"])
    chosen = stars[kept] if kept.sum() > 20 else stars
    size = (np.asarray(chosen["sigma"]) / np.asarray(chosen["sigmaPsf"])) ** 2 - 1
    e1 = np.asarray(chosen["e1"]) - np.asarray(chosen["e1Psf"])
    e2 = np.asarray(chosen["e2"]) - np.asarray(chosen["e2Psf"])
    n = len(chosen)
    return {
        "n": n,
        "size_residual": float(np.median(size)),
        "size_residual_err": 1.25 * robust_sigma(size) / np.sqrt(n),
        "e1_residual": float(np.median(e1)),
        "e2_residual": float(np.median(e2)),
        "e_residual_err": 1.25 * robust_sigma(e1) / np.sqrt(n),
    }


def peak_numbers(
    peaks: Table, truth: Truth | None, *, centre: tuple[float, float] | None = None
) -> Numbers:
    """The highest E peak against the true position of the cluster, or against its centre.

    Parameters
    ----------
    peaks : astropy.table.Table
        ``massMapPeaks``.
    truth : Truth, optional
        The truth.
    centre : (ra, dec), optional [deg]
        Where the settings say that the cluster is.

    Returns
    -------
    dict
        ``snr`` is `None` without a peak.
    """
    out: Numbers = {"snr": None, "offset_arcmin": None}
    if truth is not None and len(truth.halos):
        halo = truth.halos[int(np.argmax(truth.halos["m200"]))]
        out |= {"true_ra": float(halo["ra"]), "true_dec": float(halo["dec"])}
    best = peaks[np.asarray(peaks["is_best"])] if len(peaks) else peaks
    if len(best):
        out |= {k: float(best[k][0]) for k in ("snr", "ra", "dec")}
        out["aperture_arcmin"] = float(best["aperture"][0])
        if centre is not None:
            out["from_centre_arcmin"] = _separation_arcmin(out["ra"], out["dec"], *centre)
        if "true_ra" in out:
            out["offset_arcmin"] = _separation_arcmin(
                out["ra"], out["dec"], out["true_ra"], out["true_dec"]
            )
    b_mode = peaks[np.asarray(peaks["mode"]) == "B"] if len(peaks) else peaks
    out["highest_b_snr"] = float(np.max(b_mode["snr"])) if len(b_mode) else None
    return out


def mass_numbers(fit: Table, truth: Truth | None) -> Numbers:
    """The fitted mass against the true one.

    Parameters
    ----------
    fit : astropy.table.Table
        ``massFit``.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        ``fit_msun`` is `None` without a fit.
    """
    out: Numbers = {"fit_msun": None, "sigma_msun": None}
    if truth is not None:
        true = float(np.max(truth.halos["m200"])) if len(truth.halos) else 0.0
        out = {"true_msun": true, **out}
    if len(fit):
        row = fit[0]
        out["fit_msun"], out["sigma_msun"] = float(row["m200"]), float(row["m200_err"])
        if "true_msun" in out:
            out["deviation_sigma"] = (out["fit_msun"] - out["true_msun"]) / out["sigma_msun"]
        out["relative_error"] = out["sigma_msun"] / out["fit_msun"]
        out["lower_msun"], out["upper_msun"] = float(row["m200_lower"]), float(row["m200_upper"])
        out["n_galaxies"] = int(row["n_galaxies"])
        out["p_profile"], out["p_cross"] = float(row["p_profile"]), float(row["p_cross"])
    return out


def shear_numbers(shear: Table, truth: Truth | None) -> Numbers:
    """Measured against true shears of matched galaxies, and the number of usable galaxies.

    Parameters
    ----------
    shear : astropy.table.Table
        ``shearCatalog``.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        ``m`` and ``c`` of the ensemble with errors; ``n_per_arcmin2``.
    """
    use = shear[np.asarray(shear["use"])]
    out: Numbers = {"n_used": len(use), "n_per_arcmin2": len(use) / _area_arcmin2(shear)}
    if truth is None:
        return out
    first, second = match_truth(use, truth.galaxies, radius_arcsec=0.8)
    if first.size < 100:
        return out
    weight = np.asarray(use["weight"])[first]
    for k in (1, 2):
        true = np.asarray(truth.galaxies[f"g{k}"])[second]
        measured = np.asarray(use[f"g{k}"])[first]
        # The intrinsic shape is most of the noise of one galaxy: take it out.
        intrinsic = np.asarray(truth.galaxies[f"g{k}_int"])[second]
        design = np.stack([np.ones_like(true), true, intrinsic], axis=1) * np.sqrt(weight)[:, None]
        solution, *_ = np.linalg.lstsq(design, measured * np.sqrt(weight), rcond=None)
        residual = measured * np.sqrt(weight) - design @ solution
        covariance = np.linalg.inv(design.T @ design) * residual.var()
        out[f"c{k}"], out[f"c{k}_err"] = float(solution[0]), float(np.sqrt(covariance[0, 0]))
        out[f"m{k}"], out[f"m{k}_err"] = float(solution[1] - 1), float(np.sqrt(covariance[1, 1]))
    return out


def response_numbers(response: Table) -> Numbers:
    """The response of metadetection.

    Parameters
    ----------
    response : astropy.table.Table
        ``metaResponse``.

    Returns
    -------
    dict
        ``response`` is the mean over sizes, ``response_error`` the relative error of all together.
    """
    if not len(response):
        return {}
    nodes = response[np.asarray(response["node"]) >= 0]
    last = response[np.asarray(response["node"]) < 0][0]
    return {
        "response": float(np.mean(nodes["r"])),
        "response_error": float(last["r_err"] / last["r"]),
        "n_clusters": int(last["n_cluster"]),
    }


def _area_arcmin2(table: Table) -> float:
    """Area of the cells of 0.5 arcmin that hold an object."""
    ra, dec = np.asarray(table["ra"]), np.asarray(table["dec"])
    east = (ra - ra[0] + 180.0) % 360.0 - 180.0
    x = east * np.cos(np.radians(np.median(dec)))
    cells = np.stack([np.floor(x * 60), np.floor((dec - dec.min()) * 60)])
    return float(max(1, np.unique(cells, axis=1).shape[1]))


def red_sequence_numbers(sequence: Table, truth: Truth | None) -> Numbers:
    """The red sequence; in a demonstration with its purity and completeness.

    Parameters
    ----------
    sequence : astropy.table.Table
        ``redSequence``, with its metadata.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        ``richness`` with its error; of candidates above a probability of one half ``purity``,
        and of true red members within the radius ``completeness``.
    """
    names = ("richness", "richness_err", "richness_bright", "significance", "colour_at_middle",
             "middle_mag", "slope", "scatter")  # fmt: skip
    out: Numbers = {k: float(sequence.meta[k]) for k in names if k in sequence.meta}
    chosen = sequence[np.asarray(sequence["p_member"]) > 0.5]
    out["n_members"] = len(chosen)
    if truth is None or not len(chosen) or "radius_arcmin" not in sequence.meta:
        return out
    first, second = match_truth(chosen, truth.galaxies, radius_arcsec=1.0)
    member = np.asarray(truth.galaxies["is_member"], bool)
    out["purity"] = float(member[second].mean()) if first.size else None
    halo = truth.halos[int(np.argmax(truth.halos["m200"]))]
    # The simulated red members have the elliptical template.
    wanted = member & (np.asarray(truth.galaxies["template"]) < 0.25)
    band = str(sequence.meta["reference"])
    wanted &= np.asarray(truth.galaxies[f"mag_{band}"]) < float(sequence.meta["faint_mag"])
    place = SkyCoord(truth.galaxies["ra"], truth.galaxies["dec"], unit="deg")
    centre = SkyCoord(halo["ra"], halo["dec"], unit="deg")
    wanted &= place.separation(centre).arcmin < float(sequence.meta["radius_arcmin"])
    found = np.zeros(len(member), bool)
    found[second] = True
    out["n_true_red"] = int(wanted.sum())
    out["completeness"] = float(found[wanted].mean()) if wanted.any() else None
    return out


def quality_numbers(table: Table) -> tuple[Numbers, Numbers]:
    """Depth and positions, and the null tests, of the quality table.

    Parameters
    ----------
    table : astropy.table.Table
        ``qualityTable``.

    Returns
    -------
    quality, null_tests : dict
        Numbers for each band; value, error and chance of each null test.
    """
    bands: Numbers = {}
    tests: Numbers = {}
    out: Numbers = {}
    for row in table:
        name, band, value = str(row["quantity"]), str(row["band"]), float(row["value"])
        if name.startswith("null_"):
            tests[name.removeprefix("null_")] = {
                "value": value, "value_err": float(row["error"]), "p": float(row["p_value"]),
            }  # fmt: skip
        elif name.startswith(("mag_at_snr", "mag_half", "visits", "exposure_time")):
            bands.setdefault(band, {})[name] = value
        elif name.startswith("astrometry_"):
            out[f"{name}_mas"], out[f"{name}_mas_err"] = value, float(row["error"])
    if bands:
        out["bands"] = bands
    return out, tests


def count_numbers(products: Products, truth: Truth | None) -> Numbers:
    """How many datasets and objects there are, and how complete they are.

    Parameters
    ----------
    products : Products
        The datasets.
    truth : Truth
        The truth.

    Returns
    -------
    dict
        Counts.
    """
    objects = products.read_table("objectTable_tract", "coadd_3c")
    out: Numbers = {"objects": len(objects)}
    if len(objects) == 0:
        return out
    primary = objects[np.asarray(objects["detect_isPrimary"])]
    out["primary_objects"] = len(primary)
    if truth is None:
        return out
    inside = _inside(truth.galaxies, primary)
    columns = ("ra", "dec", "mag_r")
    stars = truth.stars[_inside(truth.stars, primary)]
    sources = vstack([truth.galaxies[inside][columns], stars[columns]], metadata_conflicts="silent")
    _, second = match_truth(primary, sources, ra="coord_ra", dec="coord_dec", radius_arcsec=1.0)
    found = np.zeros(len(sources), bool)
    found[second] = True
    magnitude = np.asarray(sources["mag_r"])
    out["completeness_r"] = {
        f"{low:g}-{low + 0.5:g}": float(found[(magnitude >= low) & (magnitude < low + 0.5)].mean())
        for low in np.arange(20, 25.5, 0.5)
        if ((magnitude >= low) & (magnitude < low + 0.5)).sum() > 10
    }
    return out


def _inside(table: Table, objects: Table) -> NDArray[np.bool_]:
    """Objects within the box that the middle 98 % of the measured ones span."""
    ra, dec = np.asarray(objects["coord_ra"]), np.asarray(objects["coord_dec"])
    # From an object of the field, so that a field on the meridian is as narrow as any other.
    middle = float(ra[0])

    def east(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values - middle + 180.0) % 360.0 - 180.0

    low_ra, high_ra = np.percentile(east(ra), [1, 99])
    low_dec, high_dec = np.percentile(dec, [1, 99])
    a, d = east(np.asarray(table["ra"])), np.asarray(table["dec"])
    return (a > low_ra) & (a < high_ra) & (d > low_dec) & (d < high_dec)
