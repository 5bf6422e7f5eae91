"""One exposure of the simulated DECam: light to electrons to a raw file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.files import atomic_path
from skymill.data.geometry import FitsWcs, local_jacobian
from skymill.sims import effects
from skymill.sims.detector import CCD_SHAPE, RAW_SHAPE, CcdFacts, ccd_facts
from skymill.sims.draw import PsfField, Sources, draw_sources
from skymill.sims.exposure import (
    AIRMASS_TERM,
    SKY_BRIGHTNESS,
    ZERO_POINT,
    InstrumentOptions,
    Pointing,
)
from skymill.sims.headers import ExposureHead, extension_header, primary_header
from skymill.sims.optics import Optics, wcs_header
from skymill.sims.scene import Scene

__all__ = [
    "AIRMASS_TERM",
    "SKY_BRIGHTNESS",
    "ZERO_POINT",
    "InstrumentOptions",
    "Pointing",
    "simulate_exposure",
    "simulate_flat",
    "simulate_zero",
]

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]


def ccd_sources(
    scene: Scene, ccd: CcdFacts, pointing: Pointing, wcs: FitsWcs
) -> tuple[Sources, PsfField, dict[str, Any]]:
    """What falls on or near a CCD, with its fluxes in electrons.

    Parameters
    ----------
    scene : Scene
        The sky.
    ccd : CcdFacts
        The CCD.
    pointing : Pointing
        The exposure.
    wcs : FitsWcs
        True WCS of the CCD.

    Returns
    -------
    sources : Sources
        Stars, then galaxies.
    psf : PsfField
        PSF at each of them.
    record : dict
        Counts for the truth table.
    """
    band = pointing.head.band
    years = (pointing.head.mjd - scene.epoch) / 365.25
    stars, galaxies = scene.stars, scene.galaxies
    dec = np.asarray(stars["dec"]) + np.asarray(stars["pm_dec"]) * years / 3.6e6
    ra = np.asarray(stars["ra"]) + np.asarray(stars["pm_ra"]) * years / 3.6e6 / np.cos(
        np.radians(dec)
    )
    ra = np.concatenate([ra, np.asarray(galaxies["ra"])])
    dec = np.concatenate([dec, np.asarray(galaxies["dec"])])
    column = f"mag_{band}"
    magnitude = np.concatenate([np.asarray(stars[column]), np.asarray(galaxies[column])])
    flux = 10.0 ** (0.4 * (pointing.zero_point - magnitude))
    near = _near_ccd(ra, dec, wcs, flux)
    is_star = np.arange(ra.size) < len(stars)
    keep = np.flatnonzero(near)
    x, y = wcs.sky_to_pixel(ra=ra[keep], dec=dec[keep])
    jacobian = local_jacobian(wcs, x=x, y=y)
    star = is_star[keep]
    index = keep[~star] - len(stars)
    n = keep.size
    disk, bulge = np.zeros((n, 2, 2)), np.zeros((n, 2, 2))
    fraction = np.full(n, -1.0)
    disk[star] = bulge[star] = 1e-3 * np.eye(2)
    shape = _galaxy_matrices(galaxies, index)
    disk[~star] = shape * np.asarray(galaxies["hlr_disk"])[index, None, None]
    bulge[~star] = shape * np.asarray(galaxies["hlr_bulge"])[index, None, None]
    fraction[~star] = np.asarray(galaxies["bulge_fraction"])[index]
    focal_x, focal_y = ccd.focal_position(x=x, y=y)
    fwhm, g1, g2 = pointing.psf.at(focal_x=focal_x, focal_y=focal_y)
    inside = (x > -0.5) & (x < CCD_SHAPE[1] - 0.5) & (y > -0.5) & (y < CCD_SHAPE[0] - 0.5)
    record = {
        "n_stars": int((inside & star).sum()),
        "n_galaxies": int((inside & ~star).sum()),
    }
    return (
        Sources(x, y, flux[keep], fraction, disk, bulge, jacobian),
        PsfField(pointing.psf.profile, pointing.psf.beta, fwhm, g1, g2),
        record,
    )


def _near_ccd(
    ra: Float64Array, dec: Float64Array, wcs: FitsWcs, flux: Float64Array
) -> NDArray[np.bool_]:
    """Who may reach the CCD, by a local linear map that is good to some pixels."""
    ra0, dec0 = wcs.pixel_to_sky(x=[1023.5], y=[2047.5])
    jac = local_jacobian(wcs, x=[1023.5], y=[2047.5])[0]
    east = ((ra - ra0[0] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec)) * 3600.0
    north = (dec - dec0[0]) * 3600.0
    x, y = np.linalg.inv(jac) @ np.stack([east, north]) + np.array([[1023.5], [2047.5]])
    margin = np.where(flux > 2e5, 600.0, 150.0) + 60.0
    close = np.abs(dec - dec0[0]) < 2.0
    return np.asarray(
        close
        & (x > -margin)
        & (x < CCD_SHAPE[1] + margin)
        & (y > -margin)
        & (y < CCD_SHAPE[0] + margin)
    )


def _galaxy_matrices(galaxies: Any, index: NDArray[np.int64]) -> Float64Array:
    """Lensing matrix times intrinsic shape, (n, 2, 2), x to the East."""
    g1, g2 = np.asarray(galaxies["g1_int"])[index], np.asarray(galaxies["g2_int"])[index]
    norm = 1.0 / np.sqrt(1.0 - g1**2 - g2**2)
    shape = np.empty((index.size, 2, 2))
    shape[:, 0, 0], shape[:, 1, 1] = (1 + g1) * norm, (1 - g1) * norm
    shape[:, 0, 1] = shape[:, 1, 0] = g2 * norm
    kappa = np.asarray(galaxies["kappa"])[index]
    a, b = np.asarray(galaxies["gamma1"])[index], np.asarray(galaxies["gamma2"])[index]
    lens = np.empty((index.size, 2, 2))
    lens[:, 0, 0], lens[:, 1, 1] = 1 - kappa - a, 1 - kappa + a
    lens[:, 0, 1] = lens[:, 1, 0] = -b
    return np.asarray(np.linalg.solve(lens, shape))


def expected_image(
    scene: Scene, ccd: CcdFacts, pointing: Pointing, options: InstrumentOptions
) -> tuple[Float32Array, FitsWcs, dict[str, Any]]:
    """Mean light on a CCD before any noise.

    Parameters
    ----------
    scene : Scene
        The sky.
    ccd : CcdFacts
        The CCD.
    pointing : Pointing
        The exposure.
    options : InstrumentOptions
        Effects.

    Returns
    -------
    image : (4096, 2048) float32 [electron]
        Sources, sky and trails times the response of the pixels.
    wcs : FitsWcs
        True WCS of the trimmed CCD.
    record : dict
        Facts for the truth table.
    """
    wcs = FitsWcs(wcs_header(ccd, pointing.optics))
    image = np.zeros(CCD_SHAPE, np.float32)
    sources, psf, record = ccd_sources(scene, ccd, pointing, wcs)
    level = pointing.sky_electrons if options.sky else 0.0
    draw_sources(image, sources, psf, noise=float(np.sqrt(level + 50.0)))
    if level > 0.0:
        slope = pointing.sky_slope if options.sky_gradient else (0.0, 0.0)
        effects.add_sky(image, ccd, level=level, slope=slope)
        if options.fringes:
            effects.add_fringes(image, ccd, band=pointing.head.band, level=level)
    record["n_satellites"] = 0
    if options.satellites:
        record["n_satellites"] = effects.add_satellites(
            image, ccd, pointing, rate=options.satellite_rate
        )
    if options.flat:
        image *= effects.response(ccd.number, pointing.head.band, options.camera_seed)
    record["sky_electrons"] = level
    return image, wcs, record


def simulate_exposure(
    scene: Scene,
    pointing: Pointing,
    ccds: Sequence[int],
    options: InstrumentOptions,
    path: Path,
) -> list[dict[str, Any]]:
    """Expose, read out and write one raw file.

    Parameters
    ----------
    scene : Scene
        The sky.
    pointing : Pointing
        The exposure.
    ccds : sequence of int
        CCDNUM of the CCDs in the file.
    options : InstrumentOptions
        Effects.
    path : pathlib.Path
        File to write, ``.fits`` or ``.fits.fz``; replaced in one step when complete.

    Returns
    -------
    list of dict
        Truth of each CCD: WCS, sky, zero point, PSF at the centre, counts.
    """
    electrons, records = {}, []
    for number in ccds:
        ccd = ccd_facts(number)
        rng = np.random.default_rng([pointing.seed, number])
        image, wcs, record = expected_image(scene, ccd, pointing, options)
        image, more = effects.detect_charge(
            image, ccd, options, rng, exposure_time=pointing.head.exposure_time
        )
        electrons[number] = image
        fx, fy = ccd.focal_position(x=np.array([1023.5]), y=np.array([2047.5]))
        fwhm, g1, g2 = pointing.psf.at(focal_x=fx, focal_y=fy)
        records.append(
            {
                "visit": pointing.head.number, "detector": number, "name": ccd.name,
                "wcs": wcs.header.tostring(), "zero_point": pointing.zero_point,
                "njy_per_electron": pointing.njy_per_electron,
                "fwhm": float(fwhm[0]), "psf_g1": float(g1[0]), "psf_g2": float(g2[0]),
                **record, **more,
            }
        )  # fmt: skip
    _read_out(electrons, pointing.head, pointing.seed, options, path)
    return records


def simulate_zero(
    head: ExposureHead, ccds: Sequence[int], options: InstrumentOptions, path: Path, *, seed: int
) -> None:
    """Write a raw zero (bias) frame.

    Parameters
    ----------
    head : ExposureHead
        Header with ``kind`` zero.
    ccds : sequence of int
        CCDNUM of the CCDs in the file.
    options : InstrumentOptions
        Effects.
    path : pathlib.Path
        File to write.
    seed : int
        Seed of the noise.
    """
    electrons = {number: np.zeros(CCD_SHAPE, np.float32) for number in ccds}
    _read_out(electrons, head, seed, options, path)


def simulate_flat(
    head: ExposureHead,
    ccds: Sequence[int],
    options: InstrumentOptions,
    path: Path,
    *,
    seed: int,
    level: float = 60000.0,
) -> None:
    """Write a raw dome flat.

    Parameters
    ----------
    head : ExposureHead
        Header with ``kind`` dome flat.
    ccds : sequence of int
        CCDNUM of the CCDs in the file.
    options : InstrumentOptions
        Effects; the response must be on for the flat to show anything.
    path : pathlib.Path
        File to write.
    seed : int
        Seed of the noise.
    level : float [electron]
        Charge in a pixel of relative response 1.
    """
    electrons = {}
    for number in ccds:
        image = np.full(CCD_SHAPE, level, np.float32)
        if options.flat:
            image *= effects.response(number, head.band, options.camera_seed)
        rng = np.random.default_rng([seed, number])
        plain = replace(options, cosmic_rays=False)
        electrons[number], _ = effects.detect_charge(
            image, ccd_facts(number), plain, rng, exposure_time=head.exposure_time
        )
    _read_out(electrons, head, seed, options, path)


def _read_out(
    electrons: dict[int, Float32Array],
    head: ExposureHead,
    seed: int,
    options: InstrumentOptions,
    path: Path,
) -> None:
    adu = {n: effects.amplifier_signals(e, ccd_facts(n), options) for n, e in electrons.items()}
    hdus: list[Any] = [fits.PrimaryHDU(header=primary_header(head, len(electrons)))]
    compressed = path.name.endswith(".fz")
    boresight = Optics(head.ra, head.dec, chip_rotation=False, distortion=options.distortion)
    for number in electrons:
        ccd = ccd_facts(number)
        signals = effects.with_crosstalk(number, adu) if options.crosstalk else adu[number]
        rng = np.random.default_rng([seed, number, 1])
        raw = effects.assemble_raw(ccd, signals, options, rng)
        header = extension_header(ccd, boresight)
        if compressed:
            hdus.append(
                fits.CompImageHDU(
                    raw, header, name=ccd.name, compression_type="RICE_1",
                    tile_shape=(1, RAW_SHAPE[1]),
                )
            )  # fmt: skip
        else:
            hdus.append(fits.ImageHDU(raw, header, name=ccd.name))
    write_whole(fits.HDUList(hdus), path)


def write_whole(hdus: fits.HDUList, path: Path) -> None:
    """Write a FITS file under a temporary name and rename it when it is complete.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        What to write.
    path : pathlib.Path
        Final name; an existing file is replaced.
    """
    with atomic_path(path) as draft:
        hdus.writeto(draft)
