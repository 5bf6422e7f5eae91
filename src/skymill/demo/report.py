"""The report of a campaign: figures and numbers; of a demonstration, with the truth beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

import skymill
from skymill.campaign.campaign import Campaign
from skymill.campaign.cluster import Cluster
from skymill.data.errors import MissingInputError
from skymill.data.files import atomic_path
from skymill.demo import numbers, redshifts
from skymill.demo.page import Goal, Section, write_page
from skymill.demo.products import Products
from skymill.demo.truth import Truth, read_truth
from skymill.qa import report_figures
from skymill.qa.repeatability import Repeatability

__all__ = ["step_times", "write_report"]


def step_times(cluster: Cluster) -> dict[str, float]:
    """How long each step took, the longest of its bands.

    Parameters
    ----------
    cluster : Cluster
        Settings of the campaign.

    Returns
    -------
    dict of str to float
        ``step_s`` to seconds; steps that were not performed are left out.
    """
    timing: dict[str, float] = {}
    for unit in Campaign(cluster, show_progress=False).status():
        if unit.seconds is not None:
            key = f"{unit.step}_s"
            timing[key] = round(max(timing.get(key, 0.0), unit.seconds), 2)
    return timing


def write_report(
    folder: Path,
    cluster: Cluster,
    timing: dict[str, float],
    *,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write ``report/index.html`` and ``report/summary.json``.

    Parameters
    ----------
    folder : Path
        Folder of the campaign. That of a demonstration has its ``truth``; without one the report
        has what can be said of the products alone.
    cluster : Cluster
        The settings that were run.
    timing : dict of str to float
        ``step_s`` to seconds.
    say : callable
        Receives lines for the user.

    Returns
    -------
    dict
        The contents of ``summary.json``.

    Raises
    ------
    MissingInputError
        If the campaign has no repository yet.
    """
    if not (Path(cluster.repo_path) / "butler.yaml").exists():
        raise MissingInputError(
            f"{folder} has nothing to report: there is no repository at {cluster.repo_path}; "
            "'skymill run cluster.yaml' makes it"
        )
    truth = read_truth(folder / "truth") if (folder / "truth").is_dir() else None
    out = folder / "report"
    out.mkdir(exist_ok=True)
    with Products(cluster) as products:
        summary, figures = _collect(products, cluster, truth)
    if timing:
        figures["times.png"] = report_figures.draw_times(timing)
    summary["timing"] = timing
    summary["version"] = skymill.__version__
    summary["verdict"] = _verdict(summary)
    for name, content in figures.items():
        _write(out / name, content)
    _write(out / "summary.json", json.dumps(_clean(summary), indent=1).encode())
    write_page(
        out / "index.html",
        summary,
        _sections(summary, figures),
        _goals(summary) if truth else [],
        cluster="" if truth else cluster.name,
    )
    say(f"report: {len(figures)} figures")
    return summary


def _collect(
    products: Products, cluster: Cluster, truth: Truth | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    figures: dict[str, bytes] = {}
    by_band: dict[str, Repeatability] = {}
    absolute: dict[str, dict[str, Any]] = {}
    stars = []
    for band in cluster.bands:
        sources = products.read_table("sourceTable_visit", f"final_visit_summary_{band}")
        if len(sources):
            by_band[band] = numbers.repeatability_of(sources)
            if truth is not None:
                absolute[band] = numbers.bright_stars(sources, truth, band)
        stars.append(products.read_table("finalized_src_table", f"final_visit_summary_{band}"))
    psf_stars = _stack(stars)
    peaks = products.read_table("massMapPeaks", "mass_map")
    summary: dict[str, Any] = {
        "astrometry": numbers.astrometry_numbers(by_band, absolute),
        "photometry": numbers.photometry_numbers(by_band, absolute),
        "psf": numbers.psf_numbers(psf_stars),
        "peak": numbers.peak_numbers(peaks, truth, centre=cluster.position),
        "mass": numbers.mass_numbers(products.read_table("massFit", "mass_fit"), truth),
        "counts": numbers.count_numbers(products, truth),
    }
    shear = products.read_table("shearCatalog", "shear_calibration")
    if len(shear):
        summary["shear"] = numbers.shear_numbers(shear, truth)
    sheared = products.read_table("metaShearCatalog", "meta_lensing")
    if len(sheared):
        summary["metadetection"] = {
            **numbers.mass_numbers(products.read_table("massFit", "meta_mass_fit"), truth),
            **numbers.shear_numbers(sheared, truth),
            **numbers.response_numbers(products.read_table("metaResponse", "meta_lensing")),
        }
    photoz = products.read_table("photoz", "photo_z")
    catalogue = products.read_table("calibratedCatalog", "photometric_calibration")
    if len(photoz) and len(catalogue) and truth is not None:
        summary["photoz"] = redshifts.photoz_numbers(photoz, catalogue, truth)
        if len(shear):
            summary["photoz"] |= redshifts.source_numbers(shear, photoz, truth)
        figures["redshifts.png"] = _redshift_figure(photoz, catalogue, truth)
    if by_band:
        figures["repeatability.png"] = report_figures.draw_repeatability(by_band)
    if len(psf_stars):
        figures["psf.png"] = report_figures.draw_psf(psf_stars)
    if "completeness_r" in summary["counts"]:
        figures["completeness.png"] = report_figures.draw_completeness(
            summary["counts"]["completeness_r"]
        )
    sequence = products.read_table("redSequence", "red_sequence")
    if len(sequence):
        summary["red_sequence"] = numbers.red_sequence_numbers(sequence, truth)
    quality = products.read_table("qualityTable", "quality_check")
    if len(quality):
        summary["quality"], summary["null_tests"] = numbers.quality_numbers(quality)
    figures |= _pictures(products, cluster, truth)
    return summary, figures


def _stack(tables: list[Table]) -> Table:
    full = [t for t in tables if len(t)]
    return vstack(full, metadata_conflicts="silent") if full else Table()


def _redshift_figure(photoz: Table, catalogue: Table, truth: Truth) -> bytes:
    chosen, galaxies = redshifts.match_photoz(photoz, catalogue, truth)
    return report_figures.draw_redshifts(
        np.asarray(galaxies["z"]),
        np.asarray(chosen["z_phot"], np.float64),
        np.asarray(chosen["odds"], np.float64),
    )


#: Pictures that the steps made themselves: dataset type, collection, name.
_READY = (
    ("massFitPicture", "mass_fit", "mass_fit.png"),
    ("massFitPicture", "meta_mass_fit", "meta_mass_fit.png"),
    ("redSequencePicture", "red_sequence", "red_sequence.png"),
    ("qualityPicture", "quality_check", "depth.png"),
    ("qualitySkyPicture", "quality_check", "field.png"),
    ("qualityPsfPicture", "quality_check", "psf_coadd.png"),
    ("qualityNullPicture", "quality_check", "null_tests.png"),
)


def _pictures(products: Products, cluster: Cluster, truth: Truth | None) -> dict[str, bytes]:
    """Pictures that the steps made themselves, and the mass map with the true position."""
    from skymill.lensing.maps.aperture_mass import ApertureMassMap
    from skymill.qa.mass_figures import draw_mass_map
    from skymill.qa.report_figures import draw_colour

    out: dict[str, bytes] = {}
    hdus = products.read_one("massMap", "mass_map")
    mass_map = None if hdus is None else ApertureMassMap.from_hdulist(hdus)
    mark = None
    if truth is not None and len(truth.halos):
        halo = truth.halos[int(np.argmax(truth.halos["m200"]))]
        mark = (float(halo["ra"]), float(halo["dec"]))
    colour = products.read_one("exportColor", "export_data")
    if colour is not None:
        picture, placed = draw_colour(colour, mass_map, mark=mark or cluster.position)
        out["overlay.jpg" if placed else "colour.jpg"] = picture
    if mass_map is not None:
        peaks = products.read_table("massMapPeaks", "mass_map")
        out["mass_map.png"] = draw_mass_map(mass_map, peaks, mark=mark)
    for dataset_type, collection, name in _READY:
        picture = products.read_one(dataset_type, collection)
        if picture is not None:
            out[name] = picture
    return out


def _verdict(summary: dict[str, Any]) -> str:
    peak, mass = summary["peak"], summary["mass"]
    if peak["snr"] is None or mass["fit_msun"] is None:
        return "there is no mass yet" if "true_msun" not in mass else "no mass peak was found"
    offset = ""
    if peak.get("offset_arcmin") is not None:
        offset = f", {peak['offset_arcmin']:.2f} arcmin off"
    elif peak.get("from_centre_arcmin") is not None:
        offset = f", {peak['from_centre_arcmin']:.2f} arcmin from the centre"
    text = (
        f"mass peak at S/N {peak['snr']:.1f}{offset}; M200 = ({mass['fit_msun'] / 1e14:.1f} +- "
        f"{mass['sigma_msun'] / 1e14:.1f}) x 1e14 Msun"
    )
    true = mass.get("true_msun")
    return text if true is None else f"{text}, truth {true / 1e14:.1f}"


def _goals(summary: dict[str, Any]) -> list[Goal]:
    """What the demonstration should reach; a number that does not exist misses its goal."""
    mass = summary["mass"]
    deviation = mass.get("deviation_sigma")
    table = [
        ("S/N of the mass peak", summary["peak"]["snr"], "{:.1f}", "at least 5", lambda v: v >= 5),
        (
            "peak from the true position [arcmin]",
            summary["peak"]["offset_arcmin"],
            "{:.2f}",
            "at most 1",
            lambda v: v <= 1,
        ),
        (
            "mass from the truth [sigma]",
            None if deviation is None else abs(deviation),
            "{:.2f}",
            "at most 2",
            lambda v: v <= 2,
        ),
        (
            "error of the mass",
            mass.get("relative_error"),
            "{:.0%}",
            "at most 30 %",
            lambda v: v <= 0.3,
        ),
        (
            "relative astrometry of bright stars [mas]",
            summary["astrometry"].get("relative_mas"),
            "{:.1f}",
            "at most 20",
            lambda v: v <= 20,
        ),
        (
            "photometric repeatability of bright stars [mmag]",
            summary["photometry"].get("repeatability_mmag"),
            "{:.1f}",
            "at most 15",
            lambda v: v <= 15,
        ),
        (
            "galaxies with a shear [per square arcminute]",
            summary.get("shear", {}).get("n_per_arcmin2"),
            "{:.1f}",
            "at least 12",
            lambda v: v >= 12,
        ),
    ]
    return [
        Goal(
            name=name,
            value="none" if value is None else form.format(value),
            wanted=wanted,
            met=value is not None and bool(met(value)),
        )
        for name, value, form, wanted, met in table
    ]


#: Title, pictures, what they show, numbers, whether half of the width is enough.
_SECTIONS: tuple[tuple[str, tuple[str, ...], str, str, bool], ...] = (
    ("The sky", ("overlay.jpg", "colour.jpg"), "The coadds in colour{contours}.", "counts", False),
    ("Mass map", ("mass_map.png",),
     "E mode (left) and B mode, which lensing does not make, as signal-to-noise ratio; plus signs "
     "are peaks{circle}.", "peak", False),
    ("Mass", ("mass_fit.png",),
     "Excess surface density with the best NFW halo; the cross shear tests for systematics. Right: "
     "masses of the bootstrap.", "mass", False),
    ("Shear", (), "{shear}", "shear", False),
    ("Metadetection", ("meta_mass_fit.png",),
     "The mass from shears that are calibrated by the response of detection and shapes to applied "
     "shears.", "metadetection", False),
    ("Null tests of the shears", ("null_tests.png",),
     "What should vanish without systematics, with jackknife errors. A massive cluster in the "
     "field makes the shear around random points differ from zero.", "null_tests", False),
    ("Red sequence", ("red_sequence.png",),
     "Colour and magnitude of the members with the ridge that was fitted to them; their density on "
     "the sky, the field subtracted, with the region as a circle.", "red_sequence", False),
    ("Depth", ("depth.png",),
     "Number counts, errors, and magnitudes of objects at S/N 10 and 20 in each band.", "quality",
     False),
    ("The field", ("field.png",),
     "Objects of the catalogue, outlines of the CCDs, and positions of stars against the "
     "reference.", "", False),
    ("Astrometry of the visits", ("repeatability.png",),
     "Positions and magnitudes of bright stars in single visits about the mean of all.",
     "astrometry", False),
    ("Photometry of the visits", (), "", "photometry", False),
    ("Point-spread function of the visits", ("psf.png",),
     "Stars against the model, and their shapes over the CCDs.", "psf", False),
    ("Point-spread function of the coadd", ("psf_coadd.png",),
     "Size and shape over the field, residuals at stars, and the rho statistics.", "", False),
    ("Photometric redshifts", ("redshifts.png",),
     "Against the truth. Lensing signal of the sources: what is there over what their redshifts "
     "promise, by which the mass is biased to first order.", "photoz", True),
    ("Completeness", ("completeness.png",), "Share of the true objects that were found.", "", True),
    ("Seconds", ("times.png",), "Elapsed time of each step, the longest of its bands.", "", False),
)  # fmt: skip


def _sections(summary: dict[str, Any], figures: dict[str, bytes]) -> list[Section]:
    known = summary["peak"].get("true_ra") is not None
    words = {
        "contours": ", with the signal-to-noise ratio of the aperture mass as contours and a cross "
        f"at the {'true position' if known else 'given centre'} of the cluster"
        if "overlay.jpg" in figures else "",
        "circle": ", the circle is the true position" if known else "",
        "shear": "Measured shears of matched galaxies are (1 + m) times the true ones plus c, "
        "their intrinsic shapes taken out." if "m1" in summary.get("shear", {}) else "",
    }  # fmt: skip
    out = []
    for title, names, caption, key, half in _SECTIONS:
        shown = tuple(name for name in names if name in figures)
        values = _clean(summary.get(key) or {}) if key else {}
        if not shown and not values:
            continue
        out.append(
            Section(
                title=title,
                figures=shown,
                caption=caption.format(**words) if shown or not names else "",
                numbers=_for_page(key, values),
                half=half,
            )
        )
    return out


def _for_page(key: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a section as its tables: what a figure shows already is left out."""
    if key == "counts":
        return {k: v for k, v in values.items() if k != "completeness_r"}
    if key == "peak" and "true_ra" not in values:
        return {k: v for k, v in values.items() if k != "offset_arcmin"}
    if key == "null_tests":
        return {"tests": values} if values else {}
    if key == "photoz":
        samples = {k: v for k, v in values.items() if isinstance(v, dict)}
        others = {k: v for k, v in values.items() if k not in samples and k != "n"}
        return {**others, "samples": samples}
    return values


def _clean(value: Any) -> Any:
    """JSON has no NaN: a number that does not exist is null."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as draft:
        draft.write_bytes(content)
