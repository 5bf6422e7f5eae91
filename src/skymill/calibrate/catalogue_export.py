"""The public object catalogue in the columns of the published export step; its calibration."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.extinction import (
    ExtinctionOptions,
    extinction_coefficient,
    parse_coefficients,
    read_ebv,
)
from skymill.calibrate.star_galaxy import StarGalaxyOptions, classify
from skymill.data.errors import DataError, NoDataError
from skymill.data.flags import MeasureFlag, PhotometryFlag
from skymill.data.options import option
from skymill.data.tables import load_schema
from skymill.data.units import magnitude_error, magnitude_from_njy

__all__ = ["ExportOptions", "apply_zero_points", "bands_of", "catalogue_fluxes",
           "classify_catalogue", "deredden_catalogue", "export_catalogue", "find_ebv",
           "object_names"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: Bits with which a measurement has no meaningful value.
_FAILED = int(
    MeasureFlag.NO_DATA | MeasureFlag.NO_PSF | MeasureFlag.NO_VARIANCE | MeasureFlag.BAD_MOMENTS
    | MeasureFlag.UNUSABLE_CENTRE
)  # fmt: skip
_BAND = re.compile(r"^(u|g|r|i|z|Y|y|VR|N964|N708|N540)_psfFlux$")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which objects are exported."""

    band: str = option("r", "Band of the shapes and of the flags that decide")
    psf_band: str = option("i", "Second band whose PSF shape is exported")
    prefix: str = option("LVS", "First word of the names of objects")


def bands_of(table: Table) -> list[str]:
    """Bands of an object table or of an exported catalogue, in its order.

    Parameters
    ----------
    table : astropy.table.Table
        A table with ``{band}_psfFlux`` or ``{band}_psf_mag``.

    Returns
    -------
    list of str
        Names of the bands.
    """
    names = [n.replace("_psf_mag", "_psfFlux") for n in table.colnames]
    return [m.group(1) for m in (_BAND.match(n) for n in names) if m]


def object_names(ra: Float64Array, dec: Float64Array, *, prefix: str = "LVS") -> NDArray[np.str_]:
    """Names ``LVS JHHMMSS.ss+DDMMSS.ss``, made unique by a letter where two agree.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    prefix : str
        First word.

    Returns
    -------
    (n,) str
        Names; the coordinates are truncated as the IAU asks.
    """
    seconds = np.floor(np.asarray(ra, np.float64) % 360.0 * 24000.0 + 1e-6).astype(np.int64)
    arcsec = np.floor(np.abs(np.asarray(dec, np.float64)) * 360000.0 + 1e-6).astype(np.int64)
    seconds %= 24 * 360000
    names: list[str] = []
    seen: dict[str, int] = {}
    for s, a, sign in zip(seconds, arcsec, np.where(np.asarray(dec) < 0, "-", "+"), strict=True):
        name = (
            f"{prefix} J{s // 360000:02d}{s // 6000 % 60:02d}{s // 100 % 60:02d}.{s % 100:02d}"
            f"{sign}{a // 360000:02d}{a // 6000 % 60:02d}{a // 100 % 60:02d}.{a % 100:02d}"
        )
        count = seen.get(name, 0)
        seen[name] = count + 1
        names.append(name if count == 0 else f"{name}{chr(ord('a') + count)}")
    return np.array(names, dtype="U26")


def _get(table: Table, name: str, default: float = np.nan) -> Float64Array:
    if name not in table.colnames:
        return np.full(len(table), default)
    return np.asarray(np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), default))


def _flagged(table: Table, name: str) -> NDArray[np.bool_]:
    if name not in table.colnames:
        return np.zeros(len(table), bool)
    column = np.asarray(table[name])
    return column if column.dtype == bool else (column.astype(np.int64) & _FAILED) != 0


def _moments(
    out: Table, name: str, xx: Float64Array, yy: Float64Array, xy: Float64Array, *, second: bool
) -> None:
    """Columns of one shape; ``second`` bands keep the published prefix ``i_``."""
    if not second:
        out[f"{name}_xx"], out[f"{name}_yy"], out[f"{name}_xy"] = xx, yy, xy
    total = xx + yy
    safe = np.where(total > 0, total, np.nan)
    out[f"{name}_e1"], out[f"{name}_e2"] = (xx - yy) / safe, 2.0 * xy / safe


def export_catalogue(objects: Table, *, options: ExportOptions = ExportOptions()) -> Table:
    """Turn the objects of a tract into the public catalogue.

    Parameters
    ----------
    objects : astropy.table.Table
        Schema ``objectTable_tract``.
    options : ExportOptions
        Bands and names.

    Returns
    -------
    astropy.table.Table
        Schema ``exportCatalog``; the metadata count the objects that were left out and why.

    Raises
    ------
    DataError
        If the band of the shapes is missing.
    NoDataError
        If no object is left.
    """
    band = options.band
    bands = bands_of(objects)
    if band not in bands:
        raise DataError(
            f"the object table has no band {band!r} (it has {', '.join(bands) or 'none'}); set the "
            "band of the export to one of them"
        )
    keep = np.ones(len(objects), bool)
    counts: dict[str, int] = {}
    primary = np.asarray(objects["detect_isPrimary"], bool)
    for reason, bad in (
        ("not_primary", ~primary),
        ("cmodel_failed", _flagged(objects, f"{band}_cModelFlux_flags")),
        ("psf_failed", _flagged(objects, f"{band}_psfFlux_flags")),
        ("no_position", ~np.isfinite(_get(objects, "coord_ra"))),
    ):
        counts[reason] = int((keep & bad).sum())
        keep &= ~bad
    if not keep.any():
        raise NoDataError(f"no object of {len(objects)} can be exported: {counts}")
    t = objects[keep]
    ra, dec = _get(t, "coord_ra"), _get(t, "coord_dec")
    out = Table({"ID": object_names(ra, dec, prefix=options.prefix), "ra": ra, "dec": dec})
    for name in ("objectId", "tract", "patch"):
        out[name] = np.asarray(t[name]) if name in t.colnames else np.full(len(t), -1)
    out["x"], out["y"] = _get(t, "x"), _get(t, "y")
    extendedness = _get(t, f"{band}_extendedness")
    out["extendedness"] = np.where(
        np.isfinite(extendedness), extendedness, _get(t, "refExtendedness")
    )
    out["e1"], out["e2"] = _get(t, f"{band}_hsmE1"), _get(t, f"{band}_hsmE2")
    out["res"], out["sigmae"] = _get(t, f"{band}_hsmResolution"), _get(t, f"{band}_hsmSigmaE")
    out["rkron"], out["blendedness"] = _get(t, f"{band}_kronRad"), _get(t, f"{band}_blendedness")
    for name, source in (("psf_used", "calib_psf_used"), ("psf_reserved", "calib_psf_reserved")):
        column = f"{band}_{source}"
        out[name] = np.asarray(t[column], bool) if column in t.colnames else np.zeros(len(t), bool)
    _export_shapes(out, t, band, options.psf_band)
    out["hsm_flag"] = _flagged(t, f"{band}_hsm_flags") | ~np.isfinite(out["e1"])
    out["sdss_flag"] = ~np.isfinite(out["sdss_xx"])
    out["ebv"] = _get(t, "ebv")
    for b in bands:
        _export_photometry(out, t, b)
    out.meta.update(band=band, left_out=json.dumps(counts))
    return load_schema("exportCatalog").apply(out)


def _export_shapes(out: Table, t: Table, band: str, psf_band: str) -> None:
    for name, suffix in (("sdss", ""), ("sdss_psf", "PSF")):
        xx, yy, xy = (_get(t, f"{band}_{m}{suffix}") for m in ("ixx", "iyy", "ixy"))
        _moments(out, name, xx, yy, xy, second=False)
        # Our shapes have one set of moments: those of HSM are the same adaptive ones.
        _moments(out, name.replace("sdss", "hsm"), xx, yy, xy, second=False)
    if f"{psf_band}_ixxPSF" in t.colnames:
        xx, yy, xy = (_get(t, f"{psf_band}_{m}PSF") for m in ("ixx", "iyy", "ixy"))
    else:
        xx = yy = xy = np.full(len(t), np.nan)
    out["i_sdss_psf_xx"], out["i_sdss_psf_yy"], out["i_sdss_psf_xy"] = xx, yy, xy
    _moments(out, "i_sdss_psf", xx, yy, xy, second=True)


def _export_photometry(out: Table, t: Table, band: str) -> None:
    for kind, column in (("psf", "psfFlux"), ("cmodel", "cModelFlux")):
        bad = _flagged(t, f"{band}_{column}_flags")
        flux = np.where(bad, np.nan, _get(t, f"{band}_{column}"))
        err = np.where(bad, np.nan, _get(t, f"{band}_{column}Err"))
        out[f"{band}_inst_{kind}_flux"], out[f"{band}_inst_{kind}_fluxerr"] = flux, err
        _set_magnitudes(out, band, kind, flux, err)


def _set_magnitudes(
    out: Table, band: str, kind: str, flux: Float64Array, err: Float64Array
) -> None:
    with np.errstate(invalid="ignore"):
        out[f"{band}_{kind}_mag"] = magnitude_from_njy(flux)
        out[f"{band}_{kind}_magerr"] = magnitude_error(flux, err)


def classify_catalogue(
    catalogue: Table, *, band: str = "r", options: StarGalaxyOptions = StarGalaxyOptions()
) -> Table:
    """Add the classes to a catalogue.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    band : str
        Band whose magnitude limits the stars.
    options : StarGalaxyOptions
        The border.

    Returns
    -------
    astropy.table.Table
        Schema ``classifiedCatalog``: the same rows with ``is_star``, ``is_galaxy`` and
        ``photometry_flags``.
    """
    out = catalogue.copy()
    star, galaxy = classify(
        _get(out, "extendedness"), _get(out, f"{band}_psf_mag"), options=options
    )
    out["is_star"], out["is_galaxy"] = star, galaxy
    flags = np.zeros(len(out), np.uint32)
    flags[~(star | galaxy)] |= np.uint32(PhotometryFlag.NO_CLASS)
    out["photometry_flags"] = flags
    out.meta.pop("schema", None)
    return load_schema("classifiedCatalog").apply(out)


def find_ebv(catalogue: Table, *, options: ExtinctionOptions) -> Float64Array:
    """E(B-V) of each object.

    Parameters
    ----------
    catalogue : astropy.table.Table
        With ``ra`` and ``dec`` [deg], or the column of the options.
    options : ExtinctionOptions
        Where it comes from.

    Returns
    -------
    (n,) float64 [mag]
        NaN where it is unknown.

    Raises
    ------
    DataError
        If the column is not there.
    """
    n = len(catalogue)
    if options.source == "none":
        return np.zeros(n)
    if options.source == "constant":
        return np.full(n, options.constant)
    if options.source == "map":
        ebv = read_ebv(options, _get(catalogue, "ra"), _get(catalogue, "dec"))
    else:
        if options.column not in catalogue.colnames:
            raise DataError(
                f"the catalogue has no column {options.column!r} with E(B-V); set the source of "
                "the extinction to constant, map or none"
            )
        ebv = _get(catalogue, options.column)
    return np.where(np.isfinite(ebv), ebv, options.constant) if options.fill_missing else ebv


def deredden_catalogue(
    catalogue: Table, *, options: ExtinctionOptions = ExtinctionOptions()
) -> Table:
    """Remove the Galactic extinction from the magnitudes of every band.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``classifiedCatalog``.
    options : ExtinctionOptions
        Source and coefficients.

    Returns
    -------
    astropy.table.Table
        Schema ``dereddenedCatalog``: no row is dropped; where E(B-V) is unknown the magnitudes stay
        as they are and the row is flagged NO_EXTINCTION. Fluxes ``{b}_psf_flux`` and
        ``{b}_cmodel_flux`` [nJy], negative ones too, are added.
    """
    out = catalogue.copy()
    ebv = find_ebv(out, options=options)
    known = np.isfinite(ebv)
    out["ebv"] = ebv
    flags = np.asarray(out["photometry_flags"], np.uint32).copy()
    flags[~known] |= np.uint32(PhotometryFlag.NO_EXTINCTION)
    out["photometry_flags"] = flags
    other = parse_coefficients(options.coefficients)
    dust = np.where(known, ebv, 0.0)
    for band in bands_of(out):
        coefficient = extinction_coefficient(band, survey=options.survey, other=other)
        factor = 10.0 ** (0.4 * coefficient * dust)
        for kind in ("psf", "cmodel"):
            flux = _get(out, f"{band}_inst_{kind}_flux") * factor
            err = _get(out, f"{band}_inst_{kind}_fluxerr") * factor
            out[f"{band}_{kind}_flux"], out[f"{band}_{kind}_fluxerr"] = flux, err
            _set_magnitudes(out, band, kind, flux, err)
        out.meta[f"extinction_{band}"] = coefficient
    out.meta.pop("schema", None)
    return load_schema("dereddenedCatalog").apply(out)


def apply_zero_points(catalogue: Table, offsets: dict[str, float]) -> Table:
    """Put every band on its zero point.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``dereddenedCatalog``.
    offsets : dict of str to float [mag]
        What to subtract from the magnitudes of each band; bands without one stay.

    Returns
    -------
    astropy.table.Table
        Schema ``calibratedCatalog``. The errors of single objects are not inflated: the error of a
        zero point is common to all, and stands in the ``zeroPoints`` table.
    """
    out = catalogue.copy()
    for band in bands_of(out):
        shift = offsets.get(band, 0.0)
        factor = 10.0 ** (0.4 * shift)
        for kind in ("psf", "cmodel"):
            flux = _get(out, f"{band}_{kind}_flux") * factor
            err = _get(out, f"{band}_{kind}_fluxerr") * factor
            out[f"{band}_{kind}_flux"], out[f"{band}_{kind}_fluxerr"] = flux, err
            _set_magnitudes(out, band, kind, flux, err)
    out.meta.pop("schema", None)
    return load_schema("calibratedCatalog").apply(out)


def catalogue_fluxes(
    catalogue: Table, bands: Sequence[str], *, kind: str = "cmodel"
) -> tuple[Float64Array, Float64Array]:
    """Fluxes of a calibrated catalogue as arrays.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``calibratedCatalog``.
    bands : sequence of str
        Bands, in the order wanted.
    kind : str
        ``cmodel`` or ``psf``.

    Returns
    -------
    flux, err : (n, n_band) float64 [nJy]
        NaN where not measured.
    """
    flux = np.stack([_get(catalogue, f"{b}_{kind}_flux") for b in bands], axis=1)
    err = np.stack([_get(catalogue, f"{b}_{kind}_fluxerr") for b in bands], axis=1)
    return flux, err
