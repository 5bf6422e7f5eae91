"""Magnitudes and colour terms computed from filter curves and a library of stellar spectra."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skymill.calibrate.colour_terms import CatalogueTerm, ColourTerm, find_colour_term
from skymill.calibrate.extinction import survey_of
from skymill.calibrate.filters import FILTER_SETS, FilterCurve, load_filters
from skymill.data.errors import ConfigError

__all__ = ["DECAM_SYSTEM", "choose_colour_term", "compute_colour_term", "load_stellar_spectra",
           "synthetic_magnitudes"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: Surveys whose magnitudes are those of DECam.
DECAM_SYSTEM = ("decam", "des", "legacy")
#: Bands of a catalogue that may stand for a camera's band of the same name, and the neighbour
#: that makes the colour.
_NEIGHBOUR = {"u": "g", "g": "r", "r": "i", "i": "z", "z": "i", "Y": "z", "y": "z"}


@functools.cache
def load_stellar_spectra() -> dict[str, tuple[Float64Array, Float64Array]]:
    """The library of Pickles (1998), solar metallicity.

    Returns
    -------
    dict of str to (wavelength, flux)
        By spectral type such as ``G2V``: wavelength (n,) [Angstrom], and flux (n,) per unit
        wavelength on an arbitrary scale.
    """
    path = resources.files("skymill.calibrate") / "tables" / "pickles.parquet"
    with resources.as_file(path) as file:
        table = pq.read_table(file)
    name = np.asarray(table["star"].to_pylist())
    wave = table["wavelength"].to_numpy().astype(np.float64)
    flux = table["flux"].to_numpy().astype(np.float64)
    _, first = np.unique(name, return_index=True)
    return {str(name[i]): (wave[name == name[i]], flux[name == name[i]]) for i in sorted(first)}


def synthetic_magnitudes(
    spectra: Sequence[tuple[Float64Array, Float64Array]], filters: Sequence[FilterCurve]
) -> Float64Array:
    """AB magnitudes of spectra through photon-counting filters.

    Parameters
    ----------
    spectra : sequence of (wavelength, flux)
        Wavelength [Angstrom] and flux per unit wavelength [erg/s/cm2/Angstrom].
    filters : sequence of FilterCurve
        Bands.

    Returns
    -------
    (n_spectrum, n_band) float64 [mag]
        NaN where a spectrum does not reach over the band.
    """
    out = np.full((len(spectra), len(filters)), np.nan)
    for k, (wave, flux) in enumerate(spectra):
        for b, curve in enumerate(filters):
            passing = np.flatnonzero(curve.throughput > 1e-3 * curve.throughput.max())
            low, high = curve.wavelength[passing[0]], curve.wavelength[passing[-1]]
            if low < wave[0] or high > wave[-1]:
                continue
            grid = np.union1d(wave[(wave > low) & (wave < high)], curve.wavelength[passing])
            through = np.interp(grid, curve.wavelength, curve.throughput)
            photons = np.trapezoid(np.interp(grid, wave, flux) * through * grid, grid)
            # c in Angstrom/s; AB magnitudes count F_nu in erg/s/cm2/Hz from -48.6.
            reference = 2.99792458e18 * np.trapezoid(through / grid, grid)
            if photons > 0:
                out[k, b] = -2.5 * np.log10(photons / reference) - 48.6
    return out


@functools.cache
def _stars(filter_set: str, bands: tuple[str, ...], classes: str) -> Float64Array:
    """Magnitudes of the main sequence and of giants of some spectral classes."""
    library = load_stellar_spectra()
    chosen = [
        s for name, s in library.items() if name.endswith(("V", "III")) and name[0] in classes
    ]
    return synthetic_magnitudes(chosen, load_filters(filter_set, bands))


def compute_colour_term(
    catalogue: str,
    band: str,
    *,
    camera: str = "decam",
    secondary: str = "",
    low: float | None = None,
    high: float | None = None,
) -> CatalogueTerm:
    """The colour term of a camera's band against a survey, from filter curves and stars.

    Parameters
    ----------
    catalogue : str
        Set of filters of the survey: a name of `skymill.calibrate.filters.FILTER_SETS`.
    band : str
        Band of the camera; the survey's band of the same name (``y`` for ``Y``) is the primary.
    camera : str
        Set of filters of the camera.
    secondary : str
        Band of the survey that makes the colour primary - secondary; the neighbour if empty.
    low, high : float [mag], optional
        Range of colour of the stars that are fitted, and in which the term holds: -0.5 to 1.0 if
        omitted, for u the F to K stars from 0.95 to 1.6 (where dwarfs and giants of one u - g
        differ by 0.1 mag: the zero points of u come from the stellar locus instead).

    Returns
    -------
    CatalogueTerm
        Quadratic in the colour, least squares over dwarfs and giants.

    Raises
    ------
    ConfigError
        If a band or survey is unknown, or fewer than six stars of the library have the colour.
    """
    if catalogue not in FILTER_SETS:
        raise ConfigError(
            f"there are no filter curves of {catalogue!r}; there are {', '.join(FILTER_SETS)}"
        )
    have = FILTER_SETS[catalogue]
    primary = band if band in have else band.lower()
    if primary not in have:
        raise ConfigError(f"{catalogue} has no band {band!r}; it has {', '.join(have)}")
    other = secondary or _NEIGHBOUR.get(band, "")
    if not secondary and other not in have:
        other = next((b for b in have if b != primary), "")
    if other not in have or other == primary:
        raise ConfigError(
            f"the colour of {catalogue}'s {primary} needs another of its bands; got {other!r}"
        )
    usual = (0.95, 1.6) if band == "u" else (-0.5, 1.0)
    low, high = usual[0] if low is None else low, usual[1] if high is None else high
    # Hot stars have the u - g of solar ones, but another u: few stars of the sky are hot.
    classes = "FGK" if band == "u" else "OBAFGKM"
    reference = _stars(catalogue, (primary, other), classes)
    ours = _stars(camera, (band,), classes)[:, 0]
    colour, step = reference[:, 0] - reference[:, 1], ours - reference[:, 0]
    use = np.isfinite(colour) & np.isfinite(step) & (colour > low) & (colour < high)
    if use.sum() < 6:
        raise ConfigError(
            f"a colour term of {camera} {band} needs 6 stars of the library with {primary} - "
            f"{other} from {low} to {high} mag; there are {int(use.sum())}"
        )
    c0, c1, c2 = np.polynomial.polynomial.polyfit(colour[use], step[use], 2)
    term = ColourTerm(float(c0), float(c1), float(c2), low, high)
    return CatalogueTerm(primary, other, term)


def choose_colour_term(catalogue: str, band: str, *, camera: str = "decam") -> CatalogueTerm | None:
    """The published colour term of a band, else one computed from filter curves and stars.

    Parameters
    ----------
    catalogue : str
        Name of the reference catalogue, such as ``ps1_dr2`` or ``sm_dr4_g``.
    band : str
        Band of the camera.
    camera : str
        Camera, in any case.

    Returns
    -------
    CatalogueTerm or None
        None where the catalogue is in the camera's system or not known, and for u: at one u - g
        the stars of the library differ by 0.1 mag.
    """
    camera = camera.lower()
    term = find_colour_term(catalogue, band, camera=camera)
    survey = survey_of(catalogue, camera=camera)
    same = survey == camera or (camera == "decam" and survey in DECAM_SYSTEM)
    if term is not None or same or band == "u":
        return term
    try:
        return compute_colour_term(survey, band, camera=camera)
    except ConfigError:
        return None
