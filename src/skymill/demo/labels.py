"""The words, units and digits in which the report shows the numbers of ``summary.json``."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Label", "find_label", "show_value"]


@dataclass(frozen=True)
class Label:
    """How a number is shown.

    Parameters
    ----------
    text : str
        Its name.
    unit : str
        Its unit, HTML.
    form : str
        Format of a float; empty chooses the digits by the error, or four significant ones.
    scale : float
        Factor before it is shown.
    """

    text: str
    unit: str = ""
    form: str = ""
    scale: float = 1.0


_MASS = "10<sup>14</sup> M<sub>sun</sub>"

#: Last part of a name in summary.json -> how it is shown.
_LABELS = {
    "snr": Label("signal-to-noise ratio", "", ".1f"),
    "offset_arcmin": Label("from the true position", "arcmin", ".2f"),
    "from_centre_arcmin": Label("from the given centre", "arcmin", ".2f"),
    "true_ra": Label("true right ascension", "deg", ".5f"),
    "true_dec": Label("true declination", "deg", ".5f"),
    "ra": Label("right ascension", "deg", ".5f"),
    "dec": Label("declination", "deg", ".5f"),
    "aperture_arcmin": Label("aperture", "arcmin", ".1f"),
    "highest_b_snr": Label("highest B peak, S/N", "", ".1f"),
    "fit_msun": Label("M200", _MASS, ".2f", 1e-14),
    "sigma_msun": Label("error", _MASS, ".2f", 1e-14),
    "true_msun": Label("true M200", _MASS, ".2f", 1e-14),
    "lower_msun": Label("68 % lower limit", _MASS, ".2f", 1e-14),
    "upper_msun": Label("68 % upper limit", _MASS, ".2f", 1e-14),
    "deviation_sigma": Label("from the truth", "sigma", "+.2f"),
    "relative_error": Label("relative error", "%", ".0f", 100.0),
    "n_galaxies": Label("galaxies"),
    "p_profile": Label("chance of a worse profile", "", ".2f"),
    "p_cross": Label("chance of a larger cross shear", "", ".2f"),
    "n_used": Label("galaxies used"),
    "response": Label("mean response", "", ".3f"),
    "response_error": Label("relative error of the response", "%", ".1f", 100.0),
    "n_clusters": Label("clusters that the response is from"),
    "n_per_arcmin2": Label("density", "arcmin<sup>-2</sup>", ".1f"),
    "relative_mas": Label("scatter of one visit", "mas", ".1f"),
    "repeatability_mmag": Label("scatter of one visit", "mmag", ".1f"),
    "n_stars": Label("stars"),
    "n": Label("number"),
    "offset_east_mas": Label("offset East", "mas", "+.1f"),
    "offset_north_mas": Label("offset North", "mas", "+.1f"),
    "scatter_mas": Label("scatter", "mas", ".1f"),
    "zero_point_error_mmag": Label("zero-point error", "mmag", "+.1f"),
    "magnitude_scatter_mmag": Label("scatter", "mmag", ".1f"),
    "size_residual": Label("T star / T PSF - 1"),
    "e1_residual": Label("e1 star - e1 PSF", "", "+.4f"),
    "e2_residual": Label("e2 star - e2 PSF", "", "+.4f"),
    "e_residual_err": Label("error of these", "", ".4f"),
    "objects": Label("objects"),
    "primary_objects": Label("primary objects"),
    "nmad": Label("NMAD of dz / (1 + z)", "", ".4f"),
    "bias": Label("median", "", "+.4f"),
    "outliers": Label("beyond 0.15", "%", ".1f", 100.0),
    "bright": Label("i &lt; 23"),
    "sure": Label("odds &gt; 0.7"),
    "sources": Label("lensing sources"),
    "members": Label("members among the sources", "%", ".1f", 100.0),
    "not_behind": Label("sources not behind the cluster", "%", ".1f", 100.0),
    "signal_ratio": Label("signal over promised"),
    "signal_ratio_boosted": Label("the same, members corrected"),
    "dilution": Label("dilution measured"),
    "richness": Label("richness within 1 Mpc"),
    "richness_bright": Label("of these above 0.2 L*", "", ".1f"),
    "significance": Label("significance", "sigma", ".1f"),
    "colour_at_middle": Label("colour of the ridge", "mag", ".3f"),
    "middle_mag": Label("at magnitude", "mag", ".2f"),
    "slope": Label("slope", "", ".3f"),
    "scatter": Label("intrinsic scatter", "mag", ".3f"),
    "n_members": Label("members (p &gt; 0.5)"),
    "n_true_red": Label("true red members"),
    "purity": Label("true members among them", "%", ".0f", 100.0),
    "completeness": Label("of the red ones found", "%", ".0f", 100.0),
    "mag_at_snr_10": Label("S/N 10", "mag", ".2f"),
    "mag_at_snr_20": Label("S/N 20", "mag", ".2f"),
    "mag_half_complete": Label("half complete", "mag", ".2f"),
    "visits": Label("visits", "", ".0f"),
    "exposure_time": Label("exposure", "s", ".0f"),
    "astrometry_offset_ra_mas": Label("East of the reference", "mas"),
    "astrometry_offset_dec_mas": Label("North of the reference", "mas"),
    "astrometry_scatter_ra_mas": Label("scatter East", "mas"),
    "astrometry_scatter_dec_mas": Label("scatter North", "mas"),
    "p": Label("chance", "", ".2f"),
    "value": Label("value"),
    "bands": Label("band"),
    "against_truth": Label("against the truth"),
    "tests": Label("test"),
    "samples": Label("galaxies"),
}

#: Last word of a name without a label of its own -> unit.
_UNITS = {"mas": "mas", "mmag": "mmag", "arcmin": "arcmin", "msun": "M<sub>sun</sub>", "s": "s"}


def find_label(name: str) -> Label:
    """How a number of this name is shown.

    Parameters
    ----------
    name : str
        Last part of a name in ``summary.json``.

    Returns
    -------
    Label
        Its own, or the words of the name with the unit that its last word is.
    """
    if name in _LABELS:
        return _LABELS[name]
    words = name.split("_")
    unit = _UNITS.get(words[-1], "")
    if unit and len(words) > 1:
        words = words[:-1]
    return Label(html.escape(" ".join(words)), unit)


def show_value(value: Any, label: Label, error: Any = None) -> str:
    """A number as text.

    Parameters
    ----------
    value : object
        Number or text; `None` is a dash.
    label : Label
        Unit and digits.
    error : float, optional
        Its error, which decides about the digits.

    Returns
    -------
    str
        HTML.
    """
    if value is None:
        return "&ndash;"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(str(value))
    if isinstance(value, int) and label.scale == 1.0:
        return f"{value:,}".replace(",", "&#8239;")
    scaled = value * label.scale
    if isinstance(error, int | float) and math.isfinite(error) and error > 0:
        spread = error * label.scale
        digits = max(0, 1 - math.floor(math.log10(spread)))
        if digits > 6:
            return f"{scaled:.1e} &plusmn; {spread:.0e}"
        return f"{scaled:.{digits}f} &plusmn; {spread:.{digits}f}"
    if label.form:
        return f"{scaled:{label.form}}"
    return f"{scaled:.3e}" if abs(scaled) >= 1e6 else f"{scaled:.4g}"
