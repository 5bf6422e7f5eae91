"""What one exposure is: its circumstances, and the effects that are switched on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skymill.data.options import check_choice, check_range, option
from skymill.data.units import AB_ZERO_POINT_NJY
from skymill.sims.headers import ExposureHead
from skymill.sims.optics import Optics, PsfModel

__all__ = ["AIRMASS_TERM", "SKY_BRIGHTNESS", "ZERO_POINT", "InstrumentOptions", "Pointing"]

#: AB magnitude of one electron per second at airmass 1, sky brightness [mag/arcsec2] in dark time
#: and extinction [mag/airmass]. g r i z Y zero points, g r z sky: Legacy Surveys DR7-8 constants;
#: the rest: CTIO exposure-time calculator, rounded.
ZERO_POINT = {"u": 24.90, "g": 26.610, "r": 26.818, "i": 26.758, "z": 26.484, "Y": 25.321}
SKY_BRIGHTNESS = {"u": 22.6, "g": 22.04, "r": 20.91, "i": 19.90, "z": 18.46, "Y": 17.9}
AIRMASS_TERM = {"u": 0.45, "g": 0.17, "r": 0.10, "i": 0.07, "z": 0.06, "Y": 0.06}


@dataclass(frozen=True, kw_only=True)
class InstrumentOptions:
    """Effects of telescope, camera and atmosphere; each has its switch."""

    noise: bool = option(True, "photon noise")
    bias: bool = option(True, "two-dimensional bias structure and row-by-row drift")
    gain: bool = option(True, "real gains; off: 1 electron per ADU")
    read_noise: bool = option(True, "read-out noise")
    flat: bool = option(True, "pixel response, CCD response and vignetting")
    fringes: bool = option(True, "fringes in z and Y")
    crosstalk: bool = option(True, "crosstalk between amplifiers")
    nonlinearity: bool = option(True, "non-linear amplifiers")
    brighter_fatter: bool = option(True, "charge repelled by charge")
    saturation: bool = option(True, "full wells with bleed trails")
    cosmic_rays: bool = option(True, "cosmic rays")
    satellites: bool = option(True, "satellite trails")
    bad_columns: bool = option(True, "the bad pixels and columns of the real CCDs")
    varying_psf: bool = option(True, "PSF that varies over the field; off: one round PSF a visit")
    distortion: bool = option(True, "optical distortion and rotations of the CCDs")
    pointing_error: bool = option(True, "telescope pointing, rotation and scale errors")
    sky_gradient: bool = option(True, "gradient of the sky over the field")
    sky: bool = option(True, "light of the night sky")
    psf: str = option("moffat", "radial profile of the PSF: moffat or kolmogorov")
    moffat_beta: float = option(3.0, "exponent of the Moffat profile")
    cosmic_ray_rate: float = option(1.6, "tracks per cm2 and minute", unit="1/cm2/min")
    satellite_rate: float = option(0.35, "satellite trails per exposure of 600 s")
    camera_seed: int = option(20120912, "seed of the fixed patterns (flat, bias) of the camera")

    def __post_init__(self) -> None:
        check_choice(self, "psf", ("moffat", "kolmogorov"))
        check_range(self, "moffat_beta", low=1.5, high=10.0)
        check_range(self, "cosmic_ray_rate", low=0.0, high=1000.0)
        check_range(self, "satellite_rate", low=0.0, high=100.0)

    @classmethod
    def ideal(cls, **changes: Any) -> InstrumentOptions:
        """Every effect off (also sky and noise), but for the given ones."""
        names = [n for n, f in cls.__dataclass_fields__.items() if f.type == "bool"]
        return replace(cls(), **{**dict.fromkeys(names, False), **changes})


@dataclass(frozen=True)
class Pointing:
    """One exposure: where, when, how long, through what air.

    Parameters
    ----------
    head : ExposureHead
        What the header says; ``head.ra``, ``head.dec`` are where the telescope believes to point.
    optics : Optics
        Where it points in truth.
    psf : PsfModel
        The PSF over the focal plane.
    transparency : float
        Light that clouds let through.
    sky : float [mag/arcsec2]
        Brightness of the sky.
    sky_slope : (float, float)
        Relative change of the sky over 225 mm of focal plane in x and y.
    seed : int
        Seed of the noise of this exposure.
    """

    head: ExposureHead
    optics: Optics
    psf: PsfModel
    transparency: float
    sky: float
    sky_slope: tuple[float, float]
    seed: int

    @property
    def zero_point(self) -> float:
        """AB magnitude of one electron in this exposure."""
        band, airmass = self.head.band, self.head.airmass or 1.0
        per_second = ZERO_POINT[band] - AIRMASS_TERM[band] * (airmass - 1.0)
        light = max(self.transparency * self.head.exposure_time, 1e-9)
        return per_second + 2.5 * float(np.log10(light))

    @property
    def njy_per_electron(self) -> float:
        """NanoJansky of one electron."""
        return float(10.0 ** (0.4 * (AB_ZERO_POINT_NJY - self.zero_point)))

    @property
    def sky_electrons(self) -> float:
        """Sky in a pixel of relative response 1 [electron]."""
        band = self.head.band
        rate = 10.0 ** (0.4 * (ZERO_POINT[band] - self.sky)) * 0.2634**2
        return float(rate * self.head.exposure_time)
