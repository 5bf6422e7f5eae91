"""Amplifiers of any camera that describes its sections in its headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skymill.data.errors import DataError
from skymill.data.images import Box
from skymill.detrend.amplifiers import AmplifierSections

__all__ = ["amplifier_from_header", "parse_section"]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


def parse_section(text: str) -> Box:
    """A FITS section such as ``[17:528,1:520]`` as a box.

    Parameters
    ----------
    text : str
        1-based, inclusive, x before y.

    Returns
    -------
    Box
        0-based, half open.

    Raises
    ------
    DataError
        If it is not a section with ascending limits.
    """
    match = _SECTION.fullmatch(text.strip())
    if match is None:
        raise DataError(f"a section looks like [x0:x1,y0:y1]; got {text!r}")
    x0, x1, y0, y1 = map(int, match.groups())
    if x0 < 1 or y0 < 1 or x1 < x0 or y1 < y0:
        raise DataError(f"the limits of a section ascend from 1; got {text!r}")
    return Box(x0=x0 - 1, y0=y0 - 1, x1=x1, y1=y1)


def amplifier_from_header(
    header: Mapping[str, Any],
    *,
    name: str = "A",
    data_section: str = "TRIMSEC",
    overscan_section: str = "BIASSEC",
    gain: str = "GAIN",
    read_noise: str = "RDNOISE",
    saturation: float = 65535.0,
) -> AmplifierSections:
    """The one amplifier of a CCD whose header has sections, gain and read noise.

    Parameters
    ----------
    header : mapping of str to object
        FITS header.
    name : str
        Name of the amplifier.
    data_section, overscan_section, gain, read_noise : str
        Keywords; gain in electron/ADU, read noise in electron.
    saturation : float [adu]
        Raw value from which on a pixel is saturated.

    Returns
    -------
    AmplifierSections
        For `skymill.detrend.isr.detrend_ccd`.

    Raises
    ------
    DataError
        If a keyword is missing.
    """
    keys = (data_section, overscan_section, gain, read_noise)
    missing = [k for k in keys if k not in header]
    if missing:
        raise DataError(f"the header has no {', '.join(missing)}; needed: {', '.join(keys)}")
    data = parse_section(str(header[data_section]))
    ny, nx = data.shape
    return AmplifierSections(
        name=name,
        data_box=data,
        overscan_box=parse_section(str(header[overscan_section])),
        box=Box(x0=0, y0=0, x1=nx, y1=ny),
        gain=float(header[gain]),
        read_noise=float(header[read_noise]),
        saturation=saturation,
    )
