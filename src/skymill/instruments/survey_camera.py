"""Cameras whose images the Community Pipeline has calibrated: what differs between them."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skymill.data.errors import ConfigError, DataError

__all__ = ["SURVEY_CAMERAS", "SurveyCamera", "camera_of_file", "survey_camera"]

_MODULES = {
    "decam": "skymill.instruments.decam.survey_facts",
    "mosaic": "skymill.instruments.mosaic3.facts",
    "90prime": "skymill.instruments.bok.facts",
}

#: Names of the cameras in the layout of a survey.
SURVEY_CAMERAS = tuple(_MODULES)

_IMAGE = re.compile(r"^(?P<prefix>c4d|k4m|ksb)_\d{6}_\d{6}_ooi_")


@dataclass(frozen=True, kw_only=True)
class SurveyCamera:
    """One camera of a survey.

    Parameters
    ----------
    name : str
        ``decam``, ``mosaic`` or ``90prime``: the folder below ``images`` and ``calib``.
    prefix : str
        First letters of its image files.
    header_words : tuple of str
        What the card INSTRUME says, in lower case.
    pixel_scale : float [arcsec/pixel]
        Nominal width of a pixel.
    unit_is_electrons_per_second : bool
        The images are rates in electrons; otherwise counts (ADU) of the whole exposure.
    zero_points : mapping of str to float [mag]
        Nominal magnitude of one image unit per second at airmass 1, by band. The unit is a count
        for DECam, an electron for the others.
    extinction : mapping of str to float [mag/airmass]
        By band.
    ps1_colour_terms : mapping of str to tuple of float
        Polynomial in the Pan-STARRS1 colour g - i that is added to the Pan-STARRS1 magnitude.
    ignored_codes : frozenset of int
        Codes of the data quality that do not spoil a pixel, because the pipeline often erred.
    min_stars : int
        Fewer stars make no zero point.
    typical_gain : float [electron/count]
        Where the header has no gain.
    """

    name: str
    prefix: str
    header_words: tuple[str, ...]
    pixel_scale: float
    unit_is_electrons_per_second: bool
    zero_points: Mapping[str, float]
    extinction: Mapping[str, float]
    ps1_colour_terms: Mapping[str, tuple[float, ...]]
    ignored_codes: frozenset[int] = field(default_factory=frozenset)
    min_stars: int = 20
    typical_gain: float = 1.0

    def gain(self, header: Mapping[str, Any]) -> float:
        """Electrons of one count.

        Parameters
        ----------
        header : mapping
            Cards of the primary HDU and the CCD.

        Returns
        -------
        float [electron/count]
            Mean of GAINA and GAINB, or GAIN; the typical gain where there are none.
        """
        for keys in (("GAINA", "GAINB"), ("GAIN", "ARAWGAIN")):
            found = [header.get(key) for key in keys]
            good = [
                float(v) for v in found if isinstance(v, int | float) and math.isfinite(v) and v > 0
            ]
            if good:
                return sum(good) / len(good) if keys[0] == "GAINA" else good[0]
        return self.typical_gain

    def band(self, header: Mapping[str, Any]) -> str:
        """Band of the card FILTER: ``zd DECam k1038`` is z, ``bokr`` is r.

        Parameters
        ----------
        header : mapping
            Cards of the primary HDU.

        Returns
        -------
        str
            The band, or the first word of the card if it is no band of the camera.
        """
        words = str(header.get("FILTER", "")).split()
        first = words[0] if words else ""
        short = first.removeprefix("bok")
        if self.name == "mosaic" and short == "zd":
            return "z"
        return short or first

    def exposure_number(self, header: Mapping[str, Any]) -> int:
        """Number of the exposure.

        Parameters
        ----------
        header : mapping
            Cards of the primary HDU.

        Returns
        -------
        int
            EXPNUM; for 90prime the digits of the archive's name: ``d7873.0103.fits`` is 78730103.

        Raises
        ------
        DataError
            If the header does not tell it.
        """
        number = header.get("EXPNUM")
        if isinstance(number, int) and number > 0:
            return number
        name = Path(str(header.get("DTACQNAM", ""))).name
        digits = re.sub(r"\D", "", name.split(".fits")[0]) if self.name == "90prime" else ""
        if not digits and (found := re.search(r"(\d+)\.fits", name)):
            digits = found.group(1)
        if not digits:
            raise DataError("the header has no exposure number (cards EXPNUM, DTACQNAM)")
        return int(digits)


def survey_camera(name: str) -> SurveyCamera:
    """A camera by its name in the layout.

    Parameters
    ----------
    name : str
        ``decam``, ``mosaic`` (or ``mosaic3``), ``90prime`` (or ``bok``).

    Returns
    -------
    SurveyCamera
        Its facts.

    Raises
    ------
    ConfigError
        If it is not known.
    """
    key = {"mosaic3": "mosaic", "bok": "90prime"}.get(name.strip().lower(), name.strip().lower())
    if key not in _MODULES:
        raise ConfigError(f"camera must be one of {', '.join(SURVEY_CAMERAS)}; got {name!r}")
    found = importlib.import_module(_MODULES[key]).CAMERA
    assert isinstance(found, SurveyCamera)
    return found


def camera_of_file(path: str | Path) -> SurveyCamera:
    """The camera of an image by its file name.

    Parameters
    ----------
    path : path
        Such as ``c4d_150329_083320_ooi_r_ls9.fits.fz``.

    Returns
    -------
    SurveyCamera
        Its facts.

    Raises
    ------
    DataError
        If the name is not that of a community-processed image.
    """
    match = _IMAGE.match(Path(path).name)
    if match is None:
        raise DataError(
            f"{Path(path).name} is no community-processed image: its name must begin with c4d_, "
            "k4m_ or ksb_, date and time, and _ooi_"
        )
    by_prefix = {survey_camera(name).prefix: survey_camera(name) for name in SURVEY_CAMERAS}
    return by_prefix[match.group("prefix")]
