"""Filter curves of cameras and surveys, from speclite and a table of our own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError

__all__ = ["FILTER_SETS", "FilterCurve", "load_filters"]

Float64Array = NDArray[np.float64]

#: Filter curves by the name of the camera or survey and the band: those of speclite, and
#: SkyMapper's, which it lacks, of the table beside this file.
FILTER_SETS = {
    "decam": {b: f"decam2014-{b}" for b in "ugrizY"},
    "sdss": {b: f"sdss2010-{b}" for b in "ugriz"},
    "bok": {"g": "BASS-g", "r": "BASS-r"},
    "mosaic3": {"z": "MzLS-z"},
    "legacy_north": {"g": "BASS-g", "r": "BASS-r", "z": "MzLS-z"},
    "ps1": {b: f"panstarrs-{b}" for b in "grizy"},
    "megacam": {b: f"cfht_megacam-{b}" for b in "ugriz"},
    "lsst": {b: f"lsst2023-{b}" for b in "ugrizy"},
    "hsc": {b: f"hsc2017-{b}" for b in "grizy"},
    "sm_dr4": {b: f"skymapper-{b}" for b in "uvgriz"},
}


@dataclass(frozen=True)
class FilterCurve:
    """Throughput of a band for photons.

    Parameters
    ----------
    band : str
        Name.
    wavelength : (n,) float64 [Angstrom]
        Rising.
    throughput : (n,) float64
        Any normalisation.
    """

    band: str
    wavelength: Float64Array
    throughput: Float64Array

    def __post_init__(self) -> None:
        if len(self.wavelength) < 2 or np.any(np.diff(self.wavelength) <= 0):
            raise DataError(f"the wavelengths of filter {self.band} must rise")
        if not np.all(np.isfinite(self.throughput)) or self.throughput.max() <= 0:
            raise DataError(
                f"the throughput of filter {self.band} must be finite and somewhere > 0"
            )


@functools.cache
def _own_curves() -> dict[str, tuple[Float64Array, Float64Array]]:
    path = resources.files("skymill.calibrate") / "tables" / "skymapper_filters.csv"
    with resources.as_file(path) as file:
        table = Table.read(file, format="ascii.csv")
    return {
        f"skymapper-{band}": (
            np.asarray(table["wavelength"][table["band"] == band], np.float64),
            np.asarray(table["throughput"][table["band"] == band], np.float64),
        )
        for band in "uvgriz"
    }


def _load_curve(name: str, band: str) -> FilterCurve:
    from speclite.filters import load_filter

    if name in _own_curves():
        return FilterCurve(band, *_own_curves()[name])
    try:
        curve = load_filter(name)
    except (ValueError, OSError) as err:
        raise ConfigError(
            f"speclite has no filter curve {name!r} for band {band!r}: {err}"
        ) from err
    return FilterCurve(band, np.asarray(curve.wavelength), np.asarray(curve.response))


def load_filters(
    camera: str, bands: Sequence[str], *, other: Mapping[str, str] | None = None
) -> tuple[FilterCurve, ...]:
    """Filter curves of a camera or survey.

    Parameters
    ----------
    camera : str
        ``decam``, ``sdss``, ``bok``, ``mosaic3``, ``legacy_north`` (g and r of BASS, z of MzLS),
        ``ps1``, ``megacam``, ``lsst``, ``hsc`` or ``sm_dr4`` (SkyMapper).
    bands : sequence of str
        Names of the bands.
    other : mapping of str to str, optional
        Curves that take the place of the camera's, by band: of speclite, as ``BASS-g``, or of
        SkyMapper, as ``skymapper-g``.

    Returns
    -------
    tuple of FilterCurve
        In the order asked for.

    Raises
    ------
    ConfigError
        If the camera, one of its bands or a curve is unknown.
    """
    if camera not in FILTER_SETS:
        raise ConfigError(f"camera must be one of {', '.join(FILTER_SETS)}; got {camera!r}")
    known = {**FILTER_SETS[camera], **(other or {})}
    if missing := [band for band in bands if band not in known]:
        raise ConfigError(f"{camera} has no band {missing[0]!r}; it has {', '.join(known)}")
    return tuple(_load_curve(known[band], band) for band in bands)
