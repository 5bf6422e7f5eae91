"""Images of the DECam Community Pipeline: a calibrated exposure of ours from the triple of files.

An image is ``*_ooi_*``, its weight ``*_oow_*``, its data quality ``*_ood_*``, all with the same
extensions. Cut-outs of any size are read like whole CCDs: the world coordinates, the PSF and the
sky are those of the cut-out's pixels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Exposure, PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane, is_set
from skymill.data.photometry import FluxScale
from skymill.data.units import AB_ZERO_POINT_NJY, MAG_ERR_FACTOR
from skymill.instruments.community_ccd import companion, is_damage, shifted_wcs, uses_codes
from skymill.instruments.decam.headers import (
    RawFile,
    ccd_hdus,
    describe,
    exposure_info,
    merge_headers,
    open_raw,
    translate,
)
from skymill.instruments.survey_folder import SurveyFolder, ZeroPoint
from skymill.measure.background import Background, BackgroundOptions, estimate_background
from skymill.measure.moments import adaptive_moments

__all__ = ["CommunityFile", "community_mask", "is_community_image", "read_headers"]

Float32Array = NDArray[np.float32]

_IMAGE_NAME = re.compile(r"(^c4d_.*_oo)i(_.*(?<!-psfex)(?<!-splinesky)\.fits(\.fz|\.gz)?$)")

#: Data quality since version 3.5 of the pipeline: one code each pixel.
CODES: dict[int, MaskPlane] = {
    1: MaskPlane.BAD,
    2: MaskPlane.NO_DATA,
    3: MaskPlane.SAT,
    4: MaskPlane.SAT,  # bleed trail
    5: MaskPlane.CR,
    6: MaskPlane.BAD,  # low weight
    7: MaskPlane.CR,  # differs from the stack of its night: a transient
    8: MaskPlane.STREAK | MaskPlane.BAD,  # long streak
}

#: Data quality before: one bit each reason.
BITS: dict[int, MaskPlane] = {
    1: MaskPlane.BAD,
    2: MaskPlane.SAT,
    4: MaskPlane.INTRP,
    16: MaskPlane.CR,
    64: MaskPlane.SAT,  # bleed trail
    128: MaskPlane.CR,  # transient
    256: MaskPlane.EDGE | MaskPlane.BAD,
    512: MaskPlane.EDGE | MaskPlane.BAD,
}

#: Weights below this fraction of the median are no weights, unless the source's own photons
#: explain them: lossy compression leaves such numbers where the weight was zero.
_LOW_WEIGHT = 0.1


def is_community_image(path: str | Path) -> bool:
    """Whether a file's name is that of an image of the DECam Community Pipeline.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    bool
        True for ``c4d_*_ooi_*.fits`` with or without ``.fz`` or ``.gz``.
    """
    return _IMAGE_NAME.match(Path(path).name) is not None


def community_mask(quality: NDArray[np.integer[Any]], *, codes: bool) -> NDArray[np.int32]:
    """Mask planes of the pipeline's data quality.

    Parameters
    ----------
    quality : (ny, nx) int
        Pixels of the ``ood`` file.
    codes : bool
        True for codes (version 3.5 and later), False for bits.

    Returns
    -------
    (ny, nx) int32
        Bits of `MaskPlane`; an unknown code makes its pixel BAD.
    """
    values = np.asarray(quality).astype(np.int64)
    out = np.zeros(values.shape, np.int32)
    known = np.zeros(values.shape, bool)
    for number, plane in (CODES if codes else BITS).items():
        hit = values == number if codes else (values & number) != 0
        out[hit] |= np.int32(int(plane))
        known |= hit
    out[(values != 0) & ~known] |= np.int32(int(MaskPlane.BAD))
    return out


@contextmanager
def _open(path: Path) -> Iterator[fits.HDUList]:
    hdus = open_raw(path)
    try:
        yield hdus
    finally:
        hdus.close()


@dataclass(frozen=True, kw_only=True)
class CommunityFile:
    """One file of calibrated CCDs of one exposure.

    Parameters
    ----------
    path : str
        The image.
    exposure : RawFile
        What its headers say of the exposure.
    """

    path: str
    exposure: RawFile

    def companion(self, kind: str) -> Path:
        """The weight (``w``) or the data quality (``d``) that belongs to the image.

        Parameters
        ----------
        kind : str
            ``w`` or ``d``.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        MissingInputError
            If it is not there.
        """
        return companion(self.path, kind)

    def read(
        self,
        detector: int,
        survey: SurveyFolder,
        *,
        options: BackgroundOptions = BackgroundOptions(),
    ) -> tuple[Exposure, Background]:
        """Read one CCD as a calibrated exposure.

        Parameters
        ----------
        detector : int
            CCD number.
        survey : SurveyFolder
            Where the PSF, the sky and the zero point are.
        options : BackgroundOptions
            For a CCD without a sky in the folder: the sky is then estimated.

        Returns
        -------
        exposure : Exposure
            Sky-subtracted pixels in electrons with world coordinates, PSF and flux scale.
        background : Background
            The sky that was subtracted [electron].

        Raises
        ------
        DataError, MissingInputError
            In one sentence: what of the CCD is missing or unusable.
        """
        header, image = self._pixels(Path(self.path), detector)
        _, weight = self._pixels(self.companion("w"), detector, image.shape)
        _, quality = self._pixels(self.companion("d"), detector, image.shape)
        name = str(header.get("EXTNAME", header.get("DETPOS", detector))).strip()
        where = f"{self.path} CCD {name}"
        gain = _gain(header, where)
        zero_point = survey.zero_point(self.exposure.exposure, name, header)
        wcs = _wcs(header, zero_point, where)
        psf = survey.psf(self.path, self.exposure.exposure, name)
        mask = community_mask(
            quality.astype(np.int64), codes=uses_codes(str(header.get("PLVER", "")))
        )
        level = survey.sky(self.path, self.exposure.exposure, name, shape=image.shape)
        planes = _planes(image, weight, mask, gain, level, where)
        if level is None:
            background = estimate_background(planes.image, planes.mask, options=options)
        else:
            background = _as_background(level * gain, planes)
        planes.image -= background.evaluate()
        exposure = Exposure(
            planes=planes,
            info=exposure_info(self.exposure, detector),
            wcs=wcs,
            psf=psf,
            photo_calib=_flux_scale(zero_point, self.exposure.exposure_time, gain, image.shape),
        )
        exposure.summary = _summary(exposure, background, zero_point)
        return exposure, background

    def _pixels(
        self, path: Path, detector: int, shape: tuple[int, ...] | None = None
    ) -> tuple[fits.Header, Float32Array]:
        with _open(path) as hdus:
            ccds = ccd_hdus(hdus, str(path))
            if detector not in ccds:
                raise DataError(f"{path} has no CCD {detector}; it has {sorted(ccds)}")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AstropyWarning)
                    pixels = np.array(ccds[detector].data, np.float32)
            except Exception as err:
                if not is_damage(err):
                    raise
                raise DataError(
                    f"the pixels of {path} CCD {detector} cannot be read: {err}"
                ) from err
            header = merge_headers(hdus[0].header, ccds[detector].header)
        if pixels.ndim != 2 or (shape is not None and pixels.shape != shape):
            raise DataError(
                f"{path} CCD {detector} must have "
                f"{'two dimensions' if shape is None else f'the shape {shape} of its image'}; "
                f"got {pixels.shape}"
            )
        return header, pixels


def read_headers(path: str | Path) -> CommunityFile:
    """Read what the headers of an image say.

    Parameters
    ----------
    path : path
        A file ``c4d_*_ooi_*``.

    Returns
    -------
    CommunityFile
        The file.

    Raises
    ------
    MissingInputError, DataError
        With one sentence about what is wrong with the file.
    """
    with _open(Path(path)) as hdus:
        ccds = ccd_hdus(hdus, str(path))
        header = merge_headers(hdus[0].header, ccds[min(ccds)].header)
        kind = str(header.get("PROCTYPE", "")).strip().lower()
        if kind == "raw":
            raise DataError(f"{path} is a raw frame (card PROCTYPE); ingest it with ingest-raws")
        return CommunityFile(
            path=str(path), exposure=describe(translate(header, str(path)), str(path), ccds)
        )


def _gain(header: fits.Header, where: str) -> float:
    """Electrons per count: the mean of the two amplifiers, which the flat has made equal."""
    found = [header.get(key) for key in ("GAINA", "GAINB")]
    gains = [float(g) for g in found if isinstance(g, int | float) and np.isfinite(g) and g > 0]
    if not gains:
        raise DataError(f"{where} has no gain (cards GAINA, GAINB)")
    return float(np.mean(gains))


def _wcs(header: fits.Header, zero_point: ZeroPoint, where: str) -> FitsWcs:
    wcs = shifted_wcs(header, ra_offset=zero_point.ra_offset, dec_offset=zero_point.dec_offset)
    if wcs is None:
        raise DataError(f"{where} has no world coordinates (cards CTYPE1, CTYPE2)")
    return wcs


def _planes(
    image: Float32Array,
    weight: Float32Array,
    mask: NDArray[np.int32],
    gain: float,
    level: Float32Array | None,
    where: str,
) -> PixelPlanes:
    """Electrons with their variance; pixels without a weight are BAD."""
    good = np.isfinite(weight) & (weight > 0) & np.isfinite(image)
    usable = good & ~is_set(mask, UNUSABLE)
    if not usable.any():
        raise DataError(f"all pixels of {where} are masked or have no weight")
    median = float(np.median(weight[usable]))
    sky = float(np.median(image[usable])) if level is None else level
    with np.errstate(divide="ignore"):
        explained = 1.0 / median + np.maximum(image - sky, 0.0) / gain
        good &= (weight >= _LOW_WEIGHT * median) | (1.0 / weight < 4.0 * explained)
        variance = np.where(good, 1.0 / weight, np.nan).astype(np.float32)
    out = mask.copy()
    out[~good] |= np.int32(int(MaskPlane.BAD))
    out[~np.isfinite(image)] |= np.int32(int(MaskPlane.UNMASKEDNAN))
    pixels = np.where(np.isfinite(image), image, np.float32(0.0))
    return PixelPlanes(
        (pixels * np.float32(gain)).astype(np.float32),
        variance * np.float32(gain) ** 2,
        out,
        unit="electron",
    )


def _as_background(level: Float32Array, planes: PixelPlanes, box: int = 64) -> Background:
    """A mesh whose spline goes through the level at the centres of its boxes."""
    ny, nx = level.shape
    # A small cut-out needs a few boxes too, as one would be flat.
    shape = tuple(min(n, max(6, round(n / box))) for n in (ny, nx))
    mesh = np.empty(shape, np.float32)
    rms = np.empty(shape, np.float32)
    y_edges, x_edges = (
        np.round(np.linspace(0, n, k + 1)).astype(int)
        for n, k in zip(level.shape, shape, strict=True)
    )
    usable = ~is_set(planes.mask, UNUSABLE) & (planes.variance > 0)
    typical = float(np.median(planes.variance[usable]))
    for i, j in np.ndindex(*shape):
        part = np.s_[y_edges[i] : y_edges[i + 1], x_edges[j] : x_edges[j + 1]]
        # The mean of a smooth surface over a box is its value at the centre to second order.
        mesh[i, j] = level[part].mean()
        inside = planes.variance[part][usable[part]]
        rms[i, j] = np.sqrt(np.median(inside) if inside.size else typical)
    return Background(mesh=mesh, rms=rms, shape=(ny, nx), box=min(box, max(1, nx // shape[1])))


def _flux_scale(
    zero_point: ZeroPoint, exposure_time: float, gain: float, shape: tuple[int, ...]
) -> FluxScale:
    """NanoJansky of an electron; the zero point is the magnitude of one count a second."""
    magnitude = AB_ZERO_POINT_NJY - zero_point.magnitude
    mean = 10.0 ** (0.4 * magnitude) / (exposure_time * gain)
    ny, nx = shape
    return FluxScale(mean, mean * zero_point.error / MAG_ERR_FACTOR, None, (ny, nx))


def _summary(exposure: Exposure, background: Background, zero_point: ZeroPoint) -> dict[str, float]:
    planes, scale = exposure.planes, exposure.photo_calib
    if exposure.psf is None or scale is None:
        raise DataError("the exposure has no PSF or no flux scale")
    ny, nx = planes.shape
    stamp = exposure.psf.draw(x=np.array([(nx - 1) / 2]), y=np.array([(ny - 1) / 2]))[0]
    half = stamp.shape[0] // 2
    shape = adaptive_moments(
        stamp,
        np.full_like(stamp, 1e-8),
        np.zeros(stamp.shape, np.int32),
        x=np.array([float(half)]),
        y=np.array([float(half)]),
        sigma=2.0,
    )
    usable = ~is_set(planes.mask, UNUSABLE) & np.isfinite(planes.variance)
    sigma = float(shape.sigma[0])
    return {
        "psfSigma": sigma,
        "psfIxx": float(shape.ixx[0]),
        "psfIyy": float(shape.iyy[0]),
        "psfIxy": float(shape.ixy[0]),
        "ellipticity": float(np.hypot(shape.e1[0], shape.e2[0])),
        "fwhm": 2.3548 * sigma,
        "zeroPoint": AB_ZERO_POINT_NJY - 2.5 * float(np.log10(scale.mean)),
        "zeroPointErr": zero_point.error,
        "zeroPointScatter": zero_point.scatter,
        "nPhotometry": float(zero_point.n_photometry),
        "nAstrometry": float(zero_point.n_astrometry),
        "skyBg": float(np.median(background.mesh)),
        "skyNoise": float(np.sqrt(np.median(planes.variance[usable]))),
        "expTime": exposure.info.exposure_time,
        "mjd": exposure.info.mjd_mid,
        "airmass": exposure.info.airmass,
        "ccdCuts": float(zero_point.cuts),
    }
