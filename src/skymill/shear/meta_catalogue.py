"""The catalogue of a patch under one applied shear, from the cells of its coadds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.calibrate.catalogue_export import find_ebv, object_names
from skymill.calibrate.extinction import (
    ExtinctionOptions,
    extinction_coefficient,
    parse_coefficients,
)
from skymill.coadd.cells import CellCut
from skymill.data.errors import DataError, NoDataError
from skymill.data.flags import PhotometryFlag
from skymill.data.protocols import Wcs
from skymill.data.tables import load_schema
from skymill.data.units import magnitude_error, magnitude_from_njy
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions, metadetect_cell

__all__ = [
    "bands_of",
    "calibrate_sheared",
    "join_sheared",
    "measure_sheared_cells",
    "total_flux_factor",
]

Float64Array = NDArray[np.float64]
_MOST_CELLS = 10_000


def bands_of(table: Table) -> list[str]:
    """Bands of a catalogue of this module.

    Parameters
    ----------
    table : astropy.table.Table
        With columns ``{band}_inst_flux``.

    Returns
    -------
    list of str
        In the order of the columns.
    """
    ending = "_inst_flux"
    return [n.removesuffix(ending) for n in table.colnames if n.endswith(ending)]


def total_flux_factor(
    size_ratio: Float64Array, *, sigma: float, width: float, largest: float = 5.0
) -> Float64Array:
    """Total flux of a Gaussian galaxy over what a weight for point sources sees of it.

    Parameters
    ----------
    size_ratio : (n,) float64
        Weighted size T over that of the PSF.
    sigma, width : float [pixel]
        PSF and weight.
    largest : float
        Bound of the factor, for sources as wide as the weight lets them seem.

    Returns
    -------
    (n,) float64
        At least one. The same in all bands: colours do not depend on it.
    """
    psf, weight = 2.0 * sigma**2, 2.0 * width**2
    seen = np.asarray(size_ratio, np.float64) / (1.0 / psf + 1.0 / weight)
    # Under the weight 1/T_seen = 1/T + 1/T_weight.
    inverse = np.where(seen > 0, 1.0 / np.where(seen > 0, seen, 1.0) - 1.0 / weight, 1.0 / psf)
    size = 1.0 / np.maximum(inverse, 1.0 / (1e3 * psf))
    return np.clip((weight + size) / (weight + psf), 1.0, largest)


def measure_sheared_cells(
    cuts: Iterable[CellCut],
    *,
    shear: str,
    bands: Sequence[str],
    wcs: Wcs,
    tract: int,
    patch: int,
    margin: int,
    options: MetadetectOptions | None = None,
) -> Table:
    """Shear, detect and measure the cells of a patch.

    Parameters
    ----------
    cuts : iterable of CellCut
        Its cells.
    shear : str
        One of `skymill.shear.metacal.SHEAR_TYPES`.
    bands : sequence of str
        Bands of the table; a cell that one cannot be measured in has no fluxes there.
    wcs : Wcs
        Mapping of the tract's pixels.
    tract, patch : int
        Identity; with the number of the cell they make the column ``cell``.
    margin : int [pixel]
        Rim of the cells.
    options : MetadetectOptions, optional
        Search and measurement.

    Returns
    -------
    astropy.table.Table
        Schema ``shearedObjects``. Sources on holes and beyond the cell are left out, with the
        shear undone: the same sky counts under every shear.

    Raises
    ------
    DataError
        If the shear is not known.
    """
    if shear not in SHEAR_TYPES:
        raise DataError(f"shear must be one of {', '.join(SHEAR_TYPES)}; got {shear!r}")
    options = options or MetadetectOptions()
    parts = [
        _measure_cell(cut, shear, bands, margin, options, patch * _MOST_CELLS + cut.index)
        for cut in cuts
    ]
    schema = load_schema("shearedObjects")
    if not parts or not sum(map(len, parts)):
        return schema.empty(bands=bands)
    table = vstack(parts, metadata_conflicts="silent")
    ra, dec = wcs.pixel_to_sky(x=np.asarray(table["x"]), y=np.asarray(table["y"]))
    table["ra"], table["dec"] = ra, dec
    table["tract"], table["patch"] = np.full(len(table), tract), np.full(len(table), patch)
    table.meta.clear()
    table.meta["shear"] = shear
    return schema.apply(table)


def _measure_cell(
    cut: CellCut,
    shear: str,
    bands: Sequence[str],
    margin: int,
    options: MetadetectOptions,
    number: int,
) -> Table:
    found = metadetect_cell(
        cut.images, cut.variances.astype(np.float32), cut.noises, cut.psfs,
        bands=cut.bands, shear_bands=cut.shear_bands, margin=margin - 1, types=(shear,),
        spectra=cut.spectra, options=options,
    )[shear]  # fmt: skip
    column, row = (np.rint(np.asarray(found[n])).astype(np.int64) for n in ("x", "y"))
    x, y = np.asarray(found["x"]) + cut.x0, np.asarray(found["y"]) + cut.y0
    box = cut.box
    keep = (x >= box.x0 - 0.5) & (x < box.x1 - 0.5) & (y >= box.y0 - 0.5) & (y < box.y1 - 0.5)
    shear_rows = [cut.bands.index(b) for b in cut.shear_bands]
    lost = cut.lost[:, row, column]
    keep &= ~lost[shear_rows].any(axis=0)
    sigma, width = float(found.meta["sigma"]), float(found.meta["width"])
    out = Table({"x": x, "y": y})
    out["cell"] = np.full(len(out), number)
    for name in ("e1", "e2", "size_ratio", "snr", "detection"):
        out[name] = np.asarray(found[name], np.float64)
    out["flags"] = np.asarray(found["flags"], np.uint32)
    out["psf_sigma"] = np.full(len(out), sigma)
    out["total_factor"] = total_flux_factor(out["size_ratio"], sigma=sigma, width=width)
    for band in bands:
        flux, err = np.full((2, len(out)), np.nan)
        if band in cut.bands:
            seen = ~lost[cut.bands.index(band)]
            flux[seen] = found[f"{band}_flux"][seen]
            err[seen] = found[f"{band}_flux_err"][seen]
        out[f"{band}_inst_flux"], out[f"{band}_inst_fluxerr"] = flux, err
    return out[keep]


def join_sheared(tables: dict[str, Sequence[Table]], *, prefix: str = "LVS") -> Table:
    """One catalogue of a tract from those of its patches under every shear.

    Parameters
    ----------
    tables : dict of str to sequence of Table
        For each of `skymill.shear.metacal.SHEAR_TYPES` the patches (schema ``shearedObjects``).
    prefix : str
        First word of the names of objects.

    Returns
    -------
    astropy.table.Table
        Schema ``metaCatalog``: the column ``shear`` tells the rows of each version. A band that a
        patch lacks has no fluxes there. Total magnitudes are of a Gaussian galaxy.

    Raises
    ------
    NoDataError
        If a version has no object.
    DataError
        If a version was not made for a patch that another has.
    """
    patches = {
        name: {(int(t["tract"][0]), int(t["patch"][0])) for t in parts if len(t)}
        for name, parts in tables.items()
    }
    for name in SHEAR_TYPES:
        if not patches.get(name):
            raise NoDataError(
                f"the sheared set {name} has no object; run meta_4b again, or look at "
                "deepCoadd_metaCells for the reasons that cells are not used"
            )
    bands = dict.fromkeys(b for parts in tables.values() for t in parts for b in bands_of(t))
    joined = []
    for name in SHEAR_TYPES:
        parts = [t for t in tables[name] if len(t)]
        one = vstack([Table(t, meta={}) for t in parts]).filled(np.nan)
        one["shear"] = np.full(len(one), name, "U7")
        ra, dec = np.asarray(one["ra"]), np.asarray(one["dec"])
        one["ID"] = object_names(ra, dec, prefix=prefix)
        joined.append(one)
    table = vstack(joined)
    table["ebv"] = np.full(len(table), np.nan)
    for band in bands:
        _set_magnitudes(table, band, *_total(table, band))
    counts = {name: len(t) for name, t in zip(SHEAR_TYPES, joined, strict=True)}
    table.meta["n"] = json.dumps(counts)
    return load_schema("metaCatalog").apply(table)


def _total(table: Table, band: str, factor: Float64Array | float = 1.0) -> list[Float64Array]:
    """Total flux of a band and its error [nJy], times a factor."""
    total = np.asarray(table["total_factor"], np.float64) * factor
    return [np.asarray(table[f"{band}_inst_{n}"], np.float64) * total for n in ("flux", "fluxerr")]


def _set_magnitudes(table: Table, band: str, flux: Float64Array, err: Float64Array) -> None:
    with np.errstate(invalid="ignore"):
        table[f"{band}_mag"] = magnitude_from_njy(flux)
        table[f"{band}_magerr"] = magnitude_error(flux, err)


def calibrate_sheared(
    catalogue: Table, zero_points: Table, *, extinction: ExtinctionOptions = ExtinctionOptions()
) -> Table:
    """Free the fluxes from extinction and put them on the zero points of the unsheared catalogue.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``metaCatalog``.
    zero_points : astropy.table.Table
        Schema ``zeroPoints``, of the step photometric_calibration; a band without one stays.
    extinction : ExtinctionOptions
        Source of E(B-V) and coefficients.

    Returns
    -------
    astropy.table.Table
        The same rows with ``{band}_flux``, ``{band}_fluxerr`` [nJy], magnitudes of these, and
        ``photometry_flags``.
    """
    out = catalogue.copy()
    ebv = find_ebv(out, options=extinction)
    known = np.isfinite(ebv)
    out["ebv"] = ebv
    out["photometry_flags"] = np.where(known, 0, int(PhotometryFlag.NO_EXTINCTION)).astype(
        np.uint32
    )
    offsets = {
        str(row["band"]): float(row["offset"])
        for row in zero_points
        if str(row["source"]) != "none"
    }
    other = parse_coefficients(extinction.coefficients)
    dust = np.where(known, ebv, 0.0)
    for band in bands_of(out):
        coefficient = extinction_coefficient(band, survey=extinction.survey, other=other)
        factor = 10.0 ** (0.4 * (coefficient * dust + offsets.get(band, 0.0)))
        flux, err = _total(out, band, factor)
        out[f"{band}_flux"], out[f"{band}_fluxerr"] = flux, err
        _set_magnitudes(out, band, flux, err)
    out.meta.pop("schema", None)
    return out
