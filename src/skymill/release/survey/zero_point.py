"""Zero point and astrometric offset of one CCD from its reference stars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.match import match_sky
from skymill.data.errors import ConfigError
from skymill.data.geometry import FitsWcs
from skymill.data.images import PixelPlanes
from skymill.data.options import check_choice, check_range, option
from skymill.data.protocols import Psf
from skymill.instruments.community_ccd import CcdHeader
from skymill.instruments.survey_camera import SurveyCamera
from skymill.release.survey.reference_stars import apparent_positions, ps1_magnitudes
from skymill.release.survey.star_fit import (
    StarFitOptions,
    aperture_fluxes_at,
    fit_psf_stars,
    measure_aperture_stars,
)

__all__ = ["CcdZeroPoint", "References", "ZeroPointOptions", "clip_about", "measure_zero_point",
           "ps1_camera_magnitudes"]  # fmt: skip

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ZeroPointOptions:
    """How a zero point is made."""

    mode: str = option("psf", "psf (fit of the PSF) or aperture")
    max_stars: int = option(1000, "the brightest so many reference stars serve")
    colour_min: float = option(0.4, "bluest g - i of a photometric star", unit="mag")
    colour_max: float = option(2.7, "reddest g - i of a photometric star", unit="mag")
    gaia_match: float = option(
        1.0, "photometric stars must be in Gaia within this (0: not asked)", unit="arcsec"
    )
    match_radius: float = option(1.0, "match in aperture mode", unit="arcsec")
    search_radius: float = option(3.0, "first match that finds the offset", unit="arcsec")
    clip: float = option(2.5, "clipping of the zero point", unit="sigma")
    astrometry_clip: float = option(3.0, "clipping of the offsets", unit="sigma")
    min_snr: float = option(5.0, "smallest signal-to-noise ratio of a photometric star")

    def __post_init__(self) -> None:
        check_choice(self, "mode", ("psf", "aperture"))
        check_range(self, "max_stars", low=3)
        check_range(self, "gaia_match", low=0.0)
        check_range(self, "match_radius", low=0.0, low_open=True)
        check_range(self, "search_radius", low=self.match_radius)
        check_range(self, "clip", low=0.5)
        check_range(self, "astrometry_clip", low=0.5)
        check_range(self, "min_snr", low=0.0)
        if not self.colour_min < self.colour_max:
            raise ConfigError(
                f"colour_min must be < colour_max; got {self.colour_min}, {self.colour_max} mag"
            )


@dataclass(frozen=True, eq=False)
class References:
    """Reference stars about one exposure, schema ``refcat``; either may be empty.

    Parameters
    ----------
    ps1 : Table
        For fluxes, and for positions if ``gaia`` is empty.
    gaia : Table
        For positions.
    """

    ps1: Table
    gaia: Table


#: Range of magnitude of the photometric stars by band [mag].
MAGNITUDES = {
    "u": (16.0, 20.0), "g": (16.0, 20.0), "r": (16.0, 19.5), "i": (16.0, 19.5),
    "z": (16.5, 19.0), "Y": (16.5, 19.0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class CcdZeroPoint:
    """Result for one CCD.

    Parameters
    ----------
    values : dict
        ``zpt`` [mag of one unit a second], ``phrms``, ``phoff``, ``transp``, ``nmatch_photom``,
        ``raoff``, ``decoff``, ``rarms``, ``decrms``, ``rarmeds``, ``decrmeds`` [arcsec],
        ``nmatch_astrom``.
    photometry, astrometry : Table
        One row a star.
    message : str
        Why there is no zero point; empty if there is.
    """

    values: dict[str, Any]
    photometry: Table
    astrometry: Table
    message: str = ""


def clip_about(values: Float64Array, n_sigma: float, *, turns: int = 50) -> BoolArray:
    """Values within so many standard deviations of their mean, iterated.

    The first turn takes median and median absolute deviation, so that a few wild values cannot
    hide others.

    Parameters
    ----------
    values : (n,) float64
        Values, finite.
    n_sigma : float
        Limit.
    turns : int
        Most turns.

    Returns
    -------
    (n,) bool
        Kept.
    """
    keep = np.ones(values.size, bool)
    if values.size < 3:
        return keep
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    if spread > 0:
        keep = np.abs(values - middle) <= 2.0 * n_sigma * spread
    for _ in range(turns):
        middle, spread = values[keep].mean(), values[keep].std()
        new = np.abs(values - middle) <= n_sigma * spread if spread > 0 else keep
        if new.sum() < 3 or np.array_equal(new, keep):
            break
        keep = new
    return keep


def ps1_camera_magnitudes(
    table: Table, camera: SurveyCamera, band: str, options: ZeroPointOptions
) -> tuple[Float64Array, Float64Array]:
    """Magnitudes of Pan-STARRS1 stars in a camera's band.

    Parameters
    ----------
    table : Table
        Schema ``refcat`` with the fluxes of Pan-STARRS1.
    camera : SurveyCamera
        The camera.
    band : str
        Its band.
    options : ZeroPointOptions
        Range of colour.

    Returns
    -------
    magnitude, colour : (n,) float64 [mag]
        In the camera's system, and g - i; NaN for stars that do not serve.
    """
    known = ps1_magnitudes(table)
    base, empty = band.lower(), np.full(len(table), np.nan)
    terms = camera.ps1_colour_terms.get(band)
    if terms is None or not {"g", "i", base} <= set(known):
        return empty, empty
    colour = known["g"] - known["i"]
    term = np.clip(np.polynomial.polynomial.polyval(colour, terms), -1.0, 1.0)
    low, high = MAGNITUDES.get(band, (-np.inf, np.inf))
    reference = known[base]
    with np.errstate(invalid="ignore"):
        good = (colour > options.colour_min) & (colour < options.colour_max)
        good &= (reference > low) & (reference < high)
    return np.where(good, reference + term, np.nan), colour


def measure_zero_point(
    planes: PixelPlanes,
    *,
    info: CcdHeader,
    wcs: FitsWcs,
    psf: Psf | None,
    psf_sigma: float,
    references: References,
    options: ZeroPointOptions = ZeroPointOptions(),
    star_options: StarFitOptions = StarFitOptions(),
) -> CcdZeroPoint:
    """Measure the reference stars of one CCD and tie it to them.

    Parameters
    ----------
    planes : PixelPlanes
        Sky-subtracted pixels in the unit of the image; the planes of detections are changed.
    info : CcdHeader
        Exposure time, band, camera.
    wcs : FitsWcs
        World coordinates without any offset.
    psf : Psf or None
        The model; needed in psf mode.
    psf_sigma : float [pixel]
        Width of the stars.
    references : References
        Reference stars of this part of the sky.
    options : ZeroPointOptions
        Choice of stars, clipping.
    star_options : StarFitOptions
        Fit and apertures.

    Returns
    -------
    CcdZeroPoint
        Zero point, offsets and the tables of the stars.
    """
    job = _Ccd(planes, info, wcs, psf, psf_sigma, options, star_options)
    gaia, ps1 = job.inside(references.gaia), job.inside(references.ps1)
    positions = gaia if len(gaia) else ps1
    if len(positions) == 0 and len(ps1) == 0:
        return job.failed("no reference star lies on the CCD")
    job.find_offset(positions)
    astrometry = job.measure(positions)
    photometry = job.measure(job.photometric(ps1, gaia))
    return job.summarize(photometry, astrometry)


class _Ccd:
    """One CCD while its stars are measured."""

    def __init__(
        self,
        planes: PixelPlanes,
        info: CcdHeader,
        wcs: FitsWcs,
        psf: Psf | None,
        psf_sigma: float,
        options: ZeroPointOptions,
        star_options: StarFitOptions,
    ) -> None:
        self.planes, self.info, self.wcs, self.psf = planes, info, wcs, psf
        self.options, self.star_options = options, star_options
        ny, nx = planes.shape
        ra, dec = wcs.pixel_to_sky(x=[nx / 2, nx / 2 + 1], y=[ny / 2, ny / 2])
        step = np.hypot((ra[1] - ra[0]) * np.cos(np.radians(dec[0])), dec[1] - dec[0])
        self.scale = float(3600.0 * step)
        self.objects = measure_aperture_stars(
            planes, pixel_scale=self.scale, psf_sigma=psf_sigma, options=star_options
        )
        self.shift = (0.0, 0.0)

    def inside(self, table: Table) -> Table:
        """Reference stars on the CCD at the time of the exposure, brightest first."""
        if len(table) == 0:
            return table
        out = table.copy()
        ra, dec = apparent_positions(table, self.info.mjd_tai)
        x, y = self.wcs.sky_to_pixel(ra=ra, dec=dec)
        ny, nx = self.planes.shape
        out["ra_now"], out["dec_now"], out["x_ref"], out["y_ref"] = ra, dec, x, y
        margin = 5.0
        keep = (x > margin) & (x < nx - 1 - margin) & (y > margin) & (y < ny - 1 - margin)
        if self.info.camera.name == "decam" and self.info.ccdname == "S7":
            keep &= x < 1023  # The other amplifier is not stable.
        return out[keep]

    def find_offset(self, positions: Table) -> None:
        """Median offset [pixel] of the detected objects from the reference stars."""
        objects = self.objects
        if len(positions) == 0 or not objects.good.any():
            return
        ra, dec = self.wcs.pixel_to_sky(x=objects.x[objects.good], y=objects.y[objects.good])
        pairs = match_sky(
            positions["ra_now"], positions["dec_now"], ra, dec,
            radius_arcsec=self.options.search_radius,
        )  # fmt: skip
        if len(pairs) < 3:
            return
        dx = objects.x[objects.good][pairs.second] - np.asarray(positions["x_ref"])[pairs.first]
        dy = objects.y[objects.good][pairs.second] - np.asarray(positions["y_ref"])[pairs.first]
        keep = clip_about(dx, 2.5) & clip_about(dy, 2.5)
        if keep.sum() >= 3:
            self.shift = float(np.median(dx[keep])), float(np.median(dy[keep]))

    def photometric(self, ps1: Table, gaia: Table) -> Table:
        """The Pan-STARRS1 stars that serve for the zero point, with ``legacy_survey_mag``."""
        if len(ps1) == 0:
            return ps1
        camera, options = self.info.camera, self.options
        magnitude, colour = ps1_camera_magnitudes(ps1, camera, self.info.band, options)
        out = ps1.copy()
        out["legacy_survey_mag"], out["ps1_gi"] = magnitude, colour
        keep = np.isfinite(magnitude)
        if "is_star" in ps1.colnames:
            keep &= np.asarray(ps1["is_star"], bool)
        if len(gaia) and options.gaia_match > 0:
            # At the exposure's time both are where the star is, but for Pan-STARRS1's own epoch.
            pairs = match_sky(
                ps1["ra"], ps1["dec"], gaia["ra"], gaia["dec"], radius_arcsec=options.gaia_match
            )
            known = np.zeros(len(ps1), bool)
            known[pairs.first] = True
            out["ra_now"][pairs.first] = gaia["ra_now"][pairs.second]
            out["dec_now"][pairs.first] = gaia["dec_now"][pairs.second]
            out["x_ref"][pairs.first] = gaia["x_ref"][pairs.second]
            out["y_ref"][pairs.first] = gaia["y_ref"][pairs.second]
            keep &= known
        return out[keep]

    def _brightest(self, stars: Table) -> Table:
        if len(stars) <= self.options.max_stars:
            return stars
        for name in ("legacy_survey_mag", "phot_g_mean_flux", "r_flux", "i_flux"):
            if name in stars.colnames:
                values = np.nan_to_num(np.asarray(stars[name], float), nan=-np.inf)
                order = np.argsort(values if name.endswith("mag") else -values, kind="stable")
                return stars[np.sort(order[: self.options.max_stars])]
        return stars[: self.options.max_stars]

    def measure(self, stars: Table) -> Table:
        """Flux and position of each star of a list."""
        stars = self._brightest(stars)
        if len(stars) == 0:
            return _no_stars()
        x = np.asarray(stars["x_ref"], float) + self.shift[0]
        y = np.asarray(stars["y_ref"], float) + self.shift[1]
        if self.options.mode == "aperture" or self.psf is None:
            return self._by_aperture(stars)
        fit = fit_psf_stars(self.planes, x=x, y=y, psf=self.psf, options=self.star_options)
        out = self._table(stars, fit.x, fit.y, fit.flux, fit.flux_err, fit.good)
        out["chi2"], out["fracmasked"] = fit.chi2, fit.masked
        return out

    def _by_aperture(self, stars: Table) -> Table:
        objects = self.objects
        ra, dec = self.wcs.pixel_to_sky(x=objects.x - self.shift[0], y=objects.y - self.shift[1])
        pairs = match_sky(
            stars["ra_now"], stars["dec_now"], ra, dec, radius_arcsec=self.options.match_radius
        )
        n, k = pairs.first, pairs.second
        out = self._table(
            stars[n], objects.x[k], objects.y[k], objects.flux[k], objects.flux_err[k],
            objects.good[k],
        )  # fmt: skip
        out["chi2"], out["fracmasked"] = np.full(n.size, np.nan), np.zeros(n.size)
        return out

    def _table(
        self,
        stars: Table,
        x: Float64Array,
        y: Float64Array,
        flux: Float64Array,
        flux_err: Float64Array,
        good: BoolArray,
    ) -> Table:
        info, out = self.info, Table()
        ra_fit, dec_fit = self.wcs.pixel_to_sky(x=x, y=y)
        time = 1.0 if info.camera.unit_is_electrons_per_second else info.exptime
        out["ra"], out["dec"] = np.asarray(stars["ra"]), np.asarray(stars["dec"])
        out["ra_now"], out["dec_now"] = np.asarray(stars["ra_now"]), np.asarray(stars["dec_now"])
        out["ra_fit"], out["dec_fit"] = ra_fit, dec_fit
        out["x_ref"], out["y_ref"] = np.asarray(stars["x_ref"]), np.asarray(stars["y_ref"])
        out["x_fit"], out["y_fit"] = x, y
        out["dx"], out["dy"] = x - out["x_ref"], y - out["y_ref"]
        out["flux"], out["dflux"] = flux, flux_err
        with np.errstate(invalid="ignore", divide="ignore"):
            out["instpsfmag"] = np.where(good, -2.5 * np.log10(flux / time), np.nan)
            out["dinstpsfmag"] = np.where(good, 1.0857362 * flux_err / flux, np.nan)
        for name in ("legacy_survey_mag", "ps1_gi"):
            values = stars[name] if name in stars.colnames else np.full(len(stars), np.nan)
            out[name] = np.asarray(values, float)
        out["good"] = good
        for diameter in (6, 7, 8):
            aperture, error, _ = aperture_fluxes_at(
                self.planes, x=x, y=y, radius_arcsec=diameter / 2, pixel_scale=self.scale,
                options=self.star_options,
            )  # fmt: skip
            out[f"apflux_{diameter}"], out[f"apflux_{diameter}_err"] = aperture, error
        return out

    def failed(self, message: str) -> CcdZeroPoint:
        """A CCD without a zero point."""
        return CcdZeroPoint(_no_values(), _no_stars(), _no_stars(), message)

    def summarize(self, photometry: Table, astrometry: Table) -> CcdZeroPoint:
        """Medians and scatters of the stars."""
        values, camera, message = _no_values(), self.info.camera, ""
        _add_offsets(values, astrometry, self.options.astrometry_clip)
        with np.errstate(invalid="ignore"):
            use = np.asarray(photometry["good"], bool) & np.isfinite(
                np.asarray(photometry["legacy_survey_mag"])
            )
            use &= np.asarray(photometry["flux"]) > self.options.min_snr * photometry["dflux"]
        difference = np.asarray(photometry["legacy_survey_mag"] - photometry["instpsfmag"])
        photometry["dpsfmag"] = difference
        photometry["used_for_photzpt"] = np.zeros(len(photometry), bool)
        values["nstars_photom"] = len(photometry)
        if len(photometry) == 0:
            message = "No photometry available"
        elif use.sum() < camera.min_stars:
            values["nmatch_photom"] = int(use.sum())
            message = (
                f"only {int(use.sum())} stars for the zero point; {camera.name} needs "
                f"{camera.min_stars}"
            )
        else:
            index = np.flatnonzero(use)
            keep = index[clip_about(difference[index], self.options.clip)]
            photometry["used_for_photzpt"][keep] = True
            values["zpt"] = float(np.median(difference[keep]))
            values["phrms"] = float(np.std(difference[keep]))
            values["nmatch_photom"] = int(keep.size)
        return CcdZeroPoint(values, photometry, astrometry, message)


def _no_values() -> dict[str, Any]:
    names = ("zpt", "phrms", "raoff", "decoff", "rarms", "decrms", "rarmeds", "decrmeds",
             "rastddev", "decstddev")  # fmt: skip
    counts = ("nmatch_photom", "nmatch_astrom", "nstars_photom", "nstars_astrom")
    return {**dict.fromkeys(names, 0.0), **dict.fromkeys(counts, 0)}


def _no_stars() -> Table:
    names = ["ra", "dec", "ra_now", "dec_now", "ra_fit", "dec_fit", "x_ref", "y_ref", "x_fit",
             "y_fit", "dx", "dy", "flux", "dflux", "instpsfmag", "dinstpsfmag", "legacy_survey_mag",
             "ps1_gi"]  # fmt: skip
    out = Table({name: np.empty(0) for name in names})
    out["good"] = np.empty(0, bool)
    for diameter in (6, 7, 8):
        out[f"apflux_{diameter}"], out[f"apflux_{diameter}_err"] = np.empty(0), np.empty(0)
    out["chi2"], out["fracmasked"] = np.empty(0), np.empty(0)
    return out


def _add_offsets(values: dict[str, Any], stars: Table, n_sigma: float) -> None:
    """Offsets of the references from the fitted positions [arcsec]."""
    values["nstars_astrom"] = len(stars)
    good = np.asarray(stars["good"], bool)
    stars["used_for_astrom"] = np.zeros(len(stars), bool)
    if not good.any():
        return
    cosine = np.cos(np.radians(np.asarray(stars["dec_now"])))
    wrapped = (np.asarray(stars["ra_now"] - stars["ra_fit"]) + 180.0) % 360.0 - 180.0
    dra = 3600.0 * wrapped * cosine
    ddec = 3600.0 * np.asarray(stars["dec_now"] - stars["dec_fit"])
    index = np.flatnonzero(good)
    keep = index[clip_about(dra[index], n_sigma) & clip_about(ddec[index], n_sigma)]
    if keep.size == 0:
        return
    stars["used_for_astrom"][keep] = True
    for name, offset in (("ra", dra[keep]), ("dec", ddec[keep])):
        low, high = np.percentile(offset, [25, 75])
        values[f"{name}off"] = float(np.median(offset))
        values[f"{name}rms"] = float(np.sqrt(np.mean(offset**2)))
        values[f"{name}rmeds"] = float(np.sqrt(np.median(offset**2)))
        values[f"{name}stddev"] = float((high - low) / 1.349)
    values["nmatch_astrom"] = int(keep.size)
