"""Fluxes from the columns of anyone's catalogue: magnitudes or fluxes, under whatever names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError
from skymill.data.units import njy_from_magnitude

__all__ = ["BandColumns", "choose_band_columns", "find_band_columns", "parse_band_columns",
           "read_band_fluxes"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: nJy in one unit of flux; magnitudes are AB.
_UNITS = {"mag": np.nan, "njy": 1.0, "ujy": 1e3, "mjy": 1e6, "jy": 1e9, "nmgy": 3631.0}
#: Bands that are looked for.
_BANDS = ("u", "g", "r", "i", "z", "Y", "y")
#: Beyond these a magnitude stands for: looked at and not detected; not looked at.
_UNDETECTED, _UNOBSERVED = 90.0, -90.0
#: Names under which a band's value and error may stand, best first; ``{k}`` is psf or cmodel.
_PATTERNS = (
    ("{b}_calibrated_flux", ("{b}_calibrated_fluxerr",), "njy"),
    ("{b}_{k}_flux", ("{b}_{k}_fluxerr",), "njy"),
    ("{b}_{k}_mag", ("{b}_{k}_magerr",), "mag"),
    ("flux_{b}", ("flux_ivar_{b}",), "nmgy"),
    ("mag_{b}", ("magerr_{b}", "mag_err_{b}", "err_{b}", "mag_{b}_err", "e_mag_{b}"), "mag"),
    ("{b}_mag", ("{b}_magerr", "{b}_mag_err", "e_{b}_mag", "err_{b}_mag"), "mag"),
    ("{b}mag", ("e_{b}mag", "{b}magerr", "{b}mag_err", "err_{b}mag"), "mag"),
    ("{b}_flux", ("{b}_flux_err", "{b}_fluxerr"), "njy"),
    ("{b}", ("{b}err", "{b}_err", "err_{b}", "e_{b}", "sig_{b}"), "mag"),
)


@dataclass(frozen=True)
class BandColumns:
    """Columns of one band.

    Parameters
    ----------
    value, error : str
        Names of the columns, or ``NAME[2]`` for an element of a vector; an error whose name has
        ``ivar`` in it is an inverse variance.
    unit : str
        mag, nJy, uJy, mJy, Jy or nmgy (nanomaggies), in any case.
    """

    value: str
    error: str
    unit: str = "mag"

    def __post_init__(self) -> None:
        if self.unit.lower() not in _UNITS:
            raise ConfigError(
                f"the unit of {self.value!r} must be mag, nJy, uJy, mJy, Jy or nmgy; got "
                f"{self.unit!r}"
            )


def parse_band_columns(entries: Sequence[str]) -> dict[str, BandColumns]:
    """Columns written as ``band=VALUE,ERROR`` or ``band=VALUE,ERROR,unit``.

    Parameters
    ----------
    entries : sequence of str
        For example ``("u=MAG_U,MAGERR_U", "g=FLUX_G,FLUX_IVAR_G,nmgy")``.

    Returns
    -------
    dict of str to BandColumns
        By band, in the order given.

    Raises
    ------
    ConfigError
        If an entry is malformed.
    """
    out = {}
    for entry in entries:
        band, _, columns = entry.partition("=")
        words = [word.strip() for word in columns.split(",")]
        if not band.strip() or not all(words) or len(words) not in (2, 3):
            raise ConfigError(
                f"the columns of a band are written band=VALUE,ERROR or band=VALUE,ERROR,unit; "
                f"got {entry!r}"
            )
        out[band.strip()] = BandColumns(*words)
    return out


def _candidates(band: str, kind: str) -> Iterator[tuple[str, str, str]]:
    # What is calibrated already is not calibrated again.
    for value, errors, unit in _PATTERNS[1:] if kind == "psf" else _PATTERNS:
        for error in errors:
            yield value.format(b=band, k=kind), error.format(b=band, k=kind), unit


def find_band_columns(
    names: Sequence[str], bands: Sequence[str], *, kind: str = "cmodel"
) -> dict[str, BandColumns]:
    """Columns of the bands by the names that are common in the field.

    Parameters
    ----------
    names : sequence of str
        Columns of the catalogue.
    bands : sequence of str
        Bands that are looked for.
    kind : str
        ``cmodel`` (or what ``skymill zero-points`` has calibrated) or ``psf``, for catalogues of
        this package.

    Returns
    -------
    dict of str to BandColumns
        The bands that were found. Exact names go before names in another case; single letters
        count if no band has a longer name.
    """
    exact = set(names)
    lower = {name.lower(): name for name in reversed(list(names))}
    out = {}
    for band in bands:
        for value, error, unit in _candidates(band, kind):
            if value in exact and error in exact:
                out[band] = BandColumns(value, error, unit)
                break
        else:
            # Without regard to case y and Y are one band: not for single letters.
            for value, error, unit in _candidates(band, kind):
                if len(value) > 1 and value.lower() in lower and error.lower() in lower:
                    found = BandColumns(lower[value.lower()], lower[error.lower()], unit)
                    if all(c.value != found.value for c in out.values()):
                        out[band] = found
                    break
    # Beside mag_g and mag_r a column z is a redshift.
    letters = [band for band, found in out.items() if len(found.value) == 1]
    if len(letters) < len(out):
        for band in letters:
            del out[band]
    return out


def choose_band_columns(
    names: Sequence[str],
    *,
    bands: str = "",
    entries: Sequence[str] = (),
    kind: str = "cmodel",
    minimum: int = 1,
    option: str = "--band",
) -> dict[str, BandColumns]:
    """Columns of the bands that a person asks for, by the names given or common ones.

    Parameters
    ----------
    names : sequence of str
        Columns of the catalogue.
    bands : str
        Bands with commas between, such as ``"g,r,i"``; empty for those of ``entries``, or all
        that are found.
    entries : sequence of str
        Columns of single bands, as `parse_band_columns` takes them.
    kind : str
        ``cmodel`` (or what ``skymill zero-points`` has calibrated) or ``psf``, for catalogues of
        this package.
    minimum : int
        Bands that are needed.
    option : str
        How a person names the columns of a band, for the message.

    Returns
    -------
    dict of str to BandColumns
        By band, in the order asked for.

    Raises
    ------
    DataError
        If a band that was asked for is not found, or too few are.
    """
    wanted = [b.strip() for b in bands.split(",") if b.strip()]
    given = parse_band_columns(entries)
    rest = [b for b in (wanted or _BANDS) if b not in given]
    columns = find_band_columns(names, rest, kind=kind) if wanted or not given else {}
    columns.update(given)
    columns = {b: columns[b] for b in (wanted or columns) if b in columns}
    missing = [b for b in wanted if b not in columns]
    if missing or len(columns) < minimum:
        few = f"at least {minimum} band{'s' if minimum > 1 else ''}"
        what = f"band {', '.join(missing)}" if missing else few
        shown = ", ".join(names[:30]) + (" ..." if len(names) > 30 else "")
        raise DataError(
            f"the catalogue has no columns of a common name for {what}; it has {shown}; name them "
            f"with {option} BAND=VALUE,ERROR[,UNIT]"
        )
    return columns


def _numbers(table: Table, name: str, band: str) -> Float64Array:
    """A column, or an element of one as ``MAG[2]``."""
    element = re.fullmatch(r"(.+)\[(\d+)\]", name) if name not in table.colnames else None
    found = element[1] if element else name
    if found not in table.colnames:
        shown = ", ".join(table.colnames[:30]) + (" ..." if len(table.colnames) > 30 else "")
        raise DataError(f"the catalogue has no column {found!r} for band {band}; it has {shown}")
    column = table[found]
    if element:
        if column.ndim != 2 or int(element[2]) >= column.shape[1]:
            raise DataError(f"{name!r} of band {band} is not an element: {found} is {column.shape}")
        column = column[:, int(element[2])]
    if column.dtype.kind not in "fiu" or column.ndim != 1:
        raise DataError(
            f"column {name!r} of band {band} must hold one number a row; it is {column.dtype} "
            f"of shape {column.shape}"
            + (f"; one element of it is {found}[0]" if column.ndim == 2 else "")
        )
    return np.asarray(np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan))


def _from_magnitudes(mag: Float64Array, err: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Fluxes of magnitudes; 99 with a limiting magnitude as its error is a flux of zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        seen = (np.abs(mag) < _UNDETECTED) & (err > 0)
        limit = (mag >= _UNDETECTED) & (np.abs(err) > 10.0) & (np.abs(err) < _UNDETECTED)
        flux = np.where(seen, njy_from_magnitude(np.where(seen, mag, 0.0)), np.nan)
        sigma = np.where(seen, flux * err * np.log(10.0) / 2.5, np.nan)
    bound = njy_from_magnitude(np.where(limit, np.abs(err), 0.0))
    return np.where(limit, 0.0, flux), np.where(limit, bound, sigma)


def read_band_fluxes(
    table: Table, columns: Mapping[str, BandColumns]
) -> tuple[Float64Array, Float64Array]:
    """Fluxes and errors of a catalogue.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    columns : mapping of str to BandColumns
        Columns of each band.

    Returns
    -------
    flux, flux_err : (n, n_band) float64 [nJy]
        NaN where not measured: NaN, masked, a magnitude of -99, or an error that is not positive.
        A magnitude of 99 whose error is a limiting magnitude (1 sigma) is a flux of zero with
        that error; with any other error it is not measured.

    Raises
    ------
    DataError
        If a column is missing or not numeric.
    """
    flux = np.full((len(table), len(columns)), np.nan)
    error = flux.copy()
    for k, (band, names) in enumerate(columns.items()):
        value, sigma = _numbers(table, names.value, band), _numbers(table, names.error, band)
        if re.search("ivar", names.error, re.IGNORECASE):
            known = sigma > 0
            sigma = np.where(known, 1.0 / np.sqrt(np.where(known, sigma, 1.0)), np.nan)
        if names.unit.lower() == "mag":
            value, sigma = _from_magnitudes(value, sigma)
        else:
            unit = _UNITS[names.unit.lower()]
            value, sigma = value * unit, sigma * unit
        good = np.isfinite(value) & np.isfinite(sigma) & (sigma > 0)
        flux[good, k], error[good, k] = value[good], sigma[good]
    return flux, error
