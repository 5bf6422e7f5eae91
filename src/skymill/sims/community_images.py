"""One CCD as the Community Pipeline delivers it: counts with their sky, weight, data quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.geometry import FitsWcs, local_jacobian
from skymill.sims import _detector_kernels as kernels
from skymill.sims.camera import Pointing
from skymill.sims.community_draw import SersicSources, draw_sersic
from skymill.sims.community_plan import ReleasePatchOptions, Window
from skymill.sims.detector import CCD_SHAPE, PIXEL_MM, CcdFacts, defect_boxes
from skymill.sims.draw import PsfField
from skymill.sims.optics import wcs_header

__all__ = ["DQ", "CcdImage", "expose_ccd", "sky_level"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Codes of data quality since version 3.5 of the pipeline.
DQ = {"bad": 1, "no_value": 2, "saturated": 3, "bleed": 4, "cosmic_ray": 5}


# Halos of stars: r^-2 laws [1/arcsec2 at 1 arcsec]; CCDs that scatter less in z.
_HALO = {"g": 4.5e-4, "r": 3.3e-4, "i": 3.3e-4}
_COMPACT = ("N20", "S8", "S10", "S18", "S21", "S27")


@dataclass(frozen=True)
class CcdImage:
    """One CCD of an exposure.

    Parameters
    ----------
    ccd : CcdFacts
        The CCD.
    window : tuple of int
        First pixel and size of the image within the CCD.
    image : (ny, nx) float32 [ADU]
        Counts with the sky.
    weight : (ny, nx) float32 [1/ADU2]
        Inverse variance; 0 where the data quality is not 0.
    quality : (ny, nx) int32
        Codes of `DQ`.
    gain, read_noise : float [electron/ADU, electron]
        Of the CCD.
    wcs : FitsWcs
        True mapping of the image's pixels.
    sky : float [ADU]
        Median of the true sky.
    sigma : float [ADU]
        Noise of a pixel of plain sky.
    seen : astropy.table.Table
        The sources on the image: ``row`` (of the truth), ``x y`` [pixel], ``flux`` [ADU],
        ``sharpness`` (sum of squared pixels for unit flux), ``usable`` (the centre is not masked).
    record : dict
        Facts for the truth table.
    """

    ccd: CcdFacts
    window: Window
    image: Float32Array
    weight: Float32Array
    quality: NDArray[np.int32]
    gain: float
    read_noise: float
    wcs: FitsWcs
    sky: float
    sigma: float
    seen: Table
    record: dict[str, Any]


def true_wcs(ccd: CcdFacts, pointing: Pointing, window: Window) -> FitsWcs:
    """The true mapping of an image's pixels."""
    header = wcs_header(ccd, pointing.optics)
    header["CRPIX1"] -= window[0]
    header["CRPIX2"] -= window[1]
    return FitsWcs(header)


def psf_field(ccd: CcdFacts, pointing: Pointing, x: Float64Array, y: Float64Array) -> PsfField:
    """PSF of an exposure at pixels of a whole CCD."""
    focal_x, focal_y = ccd.focal_position(x=x, y=y)
    fwhm, g1, g2 = pointing.psf.at(focal_x=focal_x, focal_y=focal_y)
    return PsfField(pointing.psf.profile, pointing.psf.beta, fwhm, g1, g2)


def sky_level(
    ccd: CcdFacts, pointing: Pointing, *, x: Float64Array, y: Float64Array
) -> Float64Array:
    """True sky: a level, a gradient over the field and a bowl over the CCD.

    Parameters
    ----------
    ccd : CcdFacts
        The CCD.
    pointing : Pointing
        The exposure.
    x, y : float64 [pixel]
        Pixels of the whole CCD; broadcast against each other.

    Returns
    -------
    float64 [electron]
        The sky.
    """
    focal_x, focal_y = ccd.focal_position(x=x, y=y)
    slope = pointing.sky_slope
    u = x / (CCD_SHAPE[1] - 1.0) - 0.5
    v = y / (CCD_SHAPE[0] - 1.0) - 0.5
    bowl = 0.008 * (u**2 + v**2) * (1.0 if ccd.number % 2 else -1.0)
    light = 1.0 + slope[0] * focal_x / 225.0 + slope[1] * focal_y / 225.0 + bowl
    return np.asarray(pointing.sky_electrons * light)


def _sources_on(
    sources: Table, pointing: Pointing, ccd: CcdFacts, wcs: FitsWcs, window: Window
) -> tuple[NDArray[np.int64], SersicSources, PsfField]:
    band = pointing.head.band
    years = (pointing.head.mjd - 57388.0) / 365.25
    dec = np.asarray(sources["dec"]) + np.asarray(sources["pm_dec"]) * years / 3.6e6
    ra = np.asarray(sources["ra"]) + np.asarray(sources["pm_ra"]) * years / 3.6e6 / np.cos(
        np.radians(dec)
    )
    flux = np.asarray(sources[f"flux_{band}"]) * 10.0 ** (0.4 * (pointing.zero_point - 22.5))
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    margin = np.where(flux > 2e5, 600.0, 120.0)
    keep = np.flatnonzero(
        (x > -margin) & (x < window[2] + margin) & (y > -margin) & (y < window[3] + margin)
    )
    x, y = x[keep], y[keep]
    at = sources[keep]
    drawn = SersicSources(
        x=x, y=y, flux=flux[keep], sersic=np.asarray(at["sersic"]),
        radius=np.asarray(at["shape_r"]), g1=-np.asarray(at["shape_e1"]),
        g2=np.asarray(at["shape_e2"]), jacobian=local_jacobian(wcs, x=x, y=y),
    )  # fmt: skip
    return keep, drawn, psf_field(ccd, pointing, x + window[0], y + window[1])


def _halo(radius: Float64Array, band: str, ccd: str) -> Float64Array:
    """Light that DECam scatters beyond the PSF, for a star of unit flux [1/arcsec2].

    Numbers: measured by the Legacy Surveys; the light within 7 arcsec belongs to the PSF.
    """
    if band in _HALO:
        light = _HALO[band] * np.maximum(radius, 1.0) ** -2
    else:
        alpha, beta, share = (16.0, 2.3, 0.0095) if ccd in _COMPACT else (17.65, 1.7, 0.0145)
        light = share * (beta - 1) / (np.pi * alpha**2) * (1 + (radius / alpha) ** 2) ** -beta
    return np.asarray(light * np.clip(radius - 7.0, 0.0, 1.0))


def _add_halos(
    image: Float32Array, stars: SersicSources, band: str, ccd: str, noise: float
) -> None:
    """Add the halos of bright stars out to a hundredth of the noise, 400 arcsec at most."""
    scale = 0.2634
    ny, nx = image.shape
    for k in np.flatnonzero((stars.sersic == 0.0) & (stars.flux > 1e6)):
        trial = np.linspace(7.0, 400.0, 200)
        shown = _halo(trial, band, ccd) * stars.flux[k] * scale**2 > 0.01 * noise
        if not shown.any():
            continue
        reach = float(trial[shown].max()) / scale
        x0, x1 = (int(np.clip(stars.x[k] + d, 0, nx)) for d in (-reach, reach))
        y0, y1 = (int(np.clip(stars.y[k] + d, 0, ny)) for d in (-reach, reach))
        u, v = np.arange(x0, x1) - stars.x[k], np.arange(y0, y1) - stars.y[k]
        radius = np.hypot(u[None, :], v[:, None]) * scale
        light = np.where(radius < reach * scale, _halo(radius, band, ccd), 0.0)
        image[y0:y1, x0:x1] += (light * stars.flux[k] * scale**2).astype(np.float32)


def _add_trail(
    image: Float32Array, ccd: CcdFacts, pointing: Pointing, window: Window,
    options: ReleasePatchOptions,
) -> int:  # fmt: skip
    """A satellite that crosses the patch in this exposure; the same on all its CCDs."""
    rng = np.random.default_rng([pointing.seed, 4242])
    if rng.random() >= options.trails:
        return 0
    focal_x, focal_y = options.focal_centre()
    reach = 0.3 * min(options.patch_size()) / 0.263 * PIXEL_MM
    x, y = np.array([focal_x, focal_y]) + rng.uniform(-reach, reach, 2)
    direction = rng.uniform(0.0, np.pi)
    peak = 3.0 * np.sqrt(pointing.sky_electrons + 100.0) * 10 ** rng.uniform(0.0, 1.0)
    before = float(image.sum(dtype=np.float64))
    kernels.add_line(
        image, (x - ccd.x_min) / PIXEL_MM - window[0], (y - ccd.y_min) / PIXEL_MM - window[1],
        direction, peak, 1.7,
    )  # fmt: skip
    return int(float(image.sum(dtype=np.float64)) > before + peak)


def _cosmic_rays(
    shape: tuple[int, int], rng: np.random.Generator, *, rate: float, exposure_time: float
) -> tuple[Float32Array, int]:
    """Charge of muons and low-energy electrons alone [electron]."""
    image = np.zeros(shape, np.float32)
    area = shape[0] * shape[1] * 0.0015**2
    number = int(rng.poisson(rate * area * exposure_time / 60.0))
    muon = rng.random(number) < 0.6
    slant = np.tan(np.arccos(np.clip(rng.random(number), 0.06, 1.0) ** (1.0 / 3.0)))
    length = np.where(muon, 0.5 + 250.0 / 15.0 * slant, rng.exponential(8.0, number) + 1.0)
    path = np.hypot(length * 15.0, np.where(muon, 250.0, 0.0))
    charge = np.where(muon, 80.0 * path / length, rng.lognormal(6.3, 0.7, number))
    kernels.cosmic_rays(
        image, rng.uniform(0, shape[1], number), rng.uniform(0, shape[0], number),
        rng.uniform(0, 2 * np.pi, number), length, charge * rng.lognormal(0.0, 0.3, number),
        np.where(muon, 0.0, 0.35), rng.standard_normal(100_003),
    )  # fmt: skip
    return image, number


def _bad_pixels(ccd: CcdFacts, window: Window) -> BoolArray:
    bad = np.zeros((window[3], window[2]), bool)
    for x0, y0, nx, ny in defect_boxes(ccd.number):
        x, y = int(x0) - window[0], int(y0) - window[1]
        bad[max(y, 0) : max(y + int(ny), 0), max(x, 0) : max(x + int(nx), 0)] = True
    return bad


def _interpolate(image: Float32Array, holes: BoolArray) -> None:
    """Fill holes along the rows, as the pipeline does with bad pixels and bleed trails."""
    columns = np.arange(image.shape[1])
    for j in np.flatnonzero(holes.any(axis=1)):
        row = holes[j]
        if not row.all():
            image[j, row] = np.interp(columns[row], columns[~row], image[j, ~row])


def _detect(
    electrons: Float32Array, ccd: CcdFacts, well: float, pointing: Pointing, window: Window,
    options: ReleasePatchOptions,
) -> tuple[Float32Array, NDArray[np.int32], dict[str, int]]:  # fmt: skip
    """Photon noise, cosmic rays, full wells, bad pixels; the codes of what the pipeline finds."""
    rng = np.random.default_rng([pointing.seed, ccd.number])
    shape = electrons.shape
    saturated = electrons >= well
    kernels.add_shot_noise(electrons, rng.standard_normal(shape, dtype=np.float32))
    record, found = {}, np.zeros(shape, bool)
    # The pipeline finds most cosmic rays; the others are left for the comparison of exposures.
    for name, share in (("found", options.found_cosmic_rays),
                        ("left", 1.0 - options.found_cosmic_rays)):  # fmt: skip
        rays, record[f"n_cosmic_rays_{name}"] = _cosmic_rays(
            shape, rng, rate=share * options.cosmic_ray_rate,
            exposure_time=pointing.head.exposure_time,
        )  # fmt: skip
        electrons += rays
        if name == "found":
            found = ndimage.binary_dilation(rays > 0.0)
    kernels.bleed(electrons, np.full(shape[1], well))
    full = electrons >= 0.999 * well
    near_full = ndimage.binary_dilation(full, np.array([[0, 1, 0]] * 3, bool), iterations=3)
    near_full |= ndimage.binary_dilation(saturated, iterations=2)
    quality = np.zeros(shape, np.int32)
    quality[found] = DQ["cosmic_ray"]
    quality[near_full] = DQ["bleed"]
    quality[saturated] = DQ["saturated"]
    bad = _bad_pixels(ccd, window)
    quality[bad] = DQ["bad"]
    record["n_saturated"] = int(full.sum())
    record["n_bad"] = int(bad.sum())
    return electrons, quality, record


def expose_ccd(
    sources: Table,
    ccd: CcdFacts,
    pointing: Pointing,
    options: ReleasePatchOptions,
    window: Window,
) -> CcdImage:
    """Expose one CCD and calibrate it as the Community Pipeline does.

    As in the real weights, the variance is that of the counts as they were measured, sky and
    sources: image / gain + read noise squared.

    Parameters
    ----------
    sources : astropy.table.Table
        The truth of the sky.
    ccd : CcdFacts
        The CCD.
    pointing : Pointing
        The exposure.
    options : ReleasePatchOptions
        What disturbs it.
    window : tuple of int
        First pixel and size of the image within the CCD.

    Returns
    -------
    CcdImage
        The image with its truth.
    """
    wcs = true_wcs(ccd, pointing, window)
    x0, y0, nx, ny = window
    image = np.zeros((ny, nx), np.float32)
    rows, drawn, psf = _sources_on(sources, pointing, ccd, wcs, window)
    gain = 0.5 * (ccd.amps[0].gain + ccd.amps[1].gain)
    read_noise = 0.5 * (ccd.amps[0].read_noise + ccd.amps[1].read_noise)
    sky_noise = float(np.sqrt(pointing.sky_electrons + read_noise**2))
    sharpness = draw_sersic(image, drawn, psf, noise=sky_noise)
    if options.halos:
        _add_halos(image, drawn, pointing.head.band, ccd.name, sky_noise)
    sky = sky_level(
        ccd, pointing, x=x0 + np.arange(float(nx))[None, :], y=y0 + np.arange(float(ny))[:, None]
    )
    image += sky.astype(np.float32)
    n_trails = _add_trail(image, ccd, pointing, window, options)
    well = min(a.saturation for a in ccd.amps) * gain
    electrons, quality, record = _detect(image, ccd, well, pointing, window, options)
    rng = np.random.default_rng([pointing.seed, ccd.number, 1])
    electrons += np.float32(read_noise) * rng.standard_normal(electrons.shape, dtype=np.float32)
    _interpolate(electrons, (quality == DQ["bad"]) | (quality == DQ["bleed"]))
    variance = np.maximum(electrons, 0.0) + np.float32(read_noise**2)
    weight = np.where(quality == 0, np.float32(gain**2) / variance, np.float32(0.0))
    seen = _seen(rows, drawn, sharpness, quality, gain)
    record.update(n_trails=n_trails, n_sources=len(seen))
    return CcdImage(
        ccd=ccd, window=window, image=(electrons / np.float32(gain)).astype(np.float32),
        weight=weight.astype(np.float32), quality=quality, gain=gain, read_noise=read_noise,
        wcs=wcs, sky=float(np.median(sky)) / gain, sigma=sky_noise / gain, seen=seen,
        record=record,
    )  # fmt: skip


def _seen(
    rows: NDArray[np.int64], drawn: SersicSources, sharpness: Float64Array,
    quality: NDArray[np.int32], gain: float,
) -> Table:  # fmt: skip
    ny, nx = quality.shape
    inside = (drawn.x > -0.5) & (drawn.x < nx - 0.5) & (drawn.y > -0.5) & (drawn.y < ny - 0.5)
    table = Table()
    table["row"], table["x"], table["y"] = rows[inside], drawn.x[inside], drawn.y[inside]
    table["flux"], table["sharpness"] = drawn.flux[inside] / gain, sharpness[inside]
    i, j = np.rint(table["x"]).astype(int), np.rint(table["y"]).astype(int)
    table["usable"] = quality[np.clip(j, 0, ny - 1), np.clip(i, 0, nx - 1)] == 0
    return table
