"""From measurements by band to the tables of objects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.errors import DataError, NoDataError
from skymill.data.flags import MeasureFlag
from skymill.data.images import Box
from skymill.data.protocols import Wcs
from skymill.data.tables import load_schema
from skymill.measure.patch import band_rank

__all__ = [
    "choose_reference",
    "finish_forced",
    "finish_measurement",
    "join_bands",
    "public_objects",
    "stack_patches",
]

_IDENTITY = ("parent", "n_siblings", "is_sky", "detect_isPrimary")
_MASKED_CENTRE = MeasureFlag.UNUSABLE_CENTRE | MeasureFlag.INTERPOLATED
_FAILED_CENTRE = MeasureFlag.NO_DATA | MeasureFlag.NOT_CONVERGED | MeasureFlag.NEGATIVE_FLUX
_FLUXES = (
    "psfFlux",
    "cModelFlux",
    "kronFlux",
    *(f"ap{r:02d}Flux" for r in (3, 6, 9, 12, 17, 25)),
)


def finish_measurement(
    table: Table,
    catalogue: Table,
    *,
    band: str,
    wcs: Wcs,
    inner_box: Box,
    in_tract: NDArray[np.bool_] | None = None,
    n_image: NDArray[np.integer] | None = None,
    box: Box | None = None,
    psf_flags: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> Table:
    """Add identity, sky position and origin to a table of `measure_objects`.

    Parameters
    ----------
    table : astropy.table.Table
        Measurements, in the order of ``catalogue``.
    catalogue : astropy.table.Table
        Schema ``deepCoadd_deblendedCatalog``.
    band : str
        Band of the measurements.
    wcs : Wcs
        Mapping of the tract's pixels.
    inner_box : Box
        Pixels that belong to this patch alone.
    in_tract : (n,) bool, optional
        Whether each source belongs to this tract alone; all do if omitted.
    n_image : (ny, nx) int, optional
        Number of exposures in each pixel of ``box``.
    box : Box, optional
        Pixels of the patch in the tract.
    psf_flags : two (n,) bool, optional
        Whether each source was used for the PSF model of an exposure, and kept out to test one.

    Returns
    -------
    astropy.table.Table
        Schema ``deepCoadd_meas``. ``detect_isPrimary`` is decided by the peak, which is the same
        in all bands.
    """
    out = _with_flux_units(table)
    n = len(catalogue)
    out["id"] = np.asarray(catalogue["id"])
    x, y = np.asarray(out["x"]), np.asarray(out["y"])
    out["ra"], out["dec"] = wcs.pixel_to_sky(x=x, y=y) if n else (np.empty(0), np.empty(0))
    for name in ("parent", "n_siblings", "is_sky"):
        out[name] = np.asarray(catalogue[name])
    peak_x, peak_y = np.asarray(catalogue["x"]), np.asarray(catalogue["y"])
    inside = (peak_x >= inner_box.x0 - 0.5) & (peak_x < inner_box.x1 - 0.5)
    inside &= (peak_y >= inner_box.y0 - 0.5) & (peak_y < inner_box.y1 - 0.5)
    if in_tract is not None:
        inside &= in_tract
    out["detect_isPrimary"] = inside & ~np.asarray(catalogue["is_sky"])
    column = f"peak_{band}"
    out["peak_detected"] = (
        np.asarray(catalogue[column]) if column in catalogue.colnames else np.zeros(n, bool)
    )
    count = np.zeros(n, np.int32)
    if n_image is not None and box is not None and n:
        ny, nx = n_image.shape
        ix = np.clip(np.floor(x + 0.5).astype(int) - box.x0, 0, nx - 1)
        iy = np.clip(np.floor(y + 0.5).astype(int) - box.y0, 0, ny - 1)
        count = n_image[iy, ix].astype(np.int32)
    out["inputCount"] = count
    used, reserved = psf_flags or (np.zeros(n, bool), np.zeros(n, bool))
    out["calib_psf_used"], out["calib_psf_reserved"] = used, reserved
    return load_schema("deepCoadd_meas").apply(out)


def finish_forced(table: Table, reference: Table) -> Table:
    """Add the identity to a table of `force_objects`.

    Parameters
    ----------
    table : astropy.table.Table
        Measurements, in the order of ``reference``.
    reference : astropy.table.Table
        Schema ``deepCoadd_ref``.

    Returns
    -------
    astropy.table.Table
        Schema ``deepCoadd_forced_src``.
    """
    out = _with_flux_units(table)
    out["id"] = np.asarray(reference["id"])
    return load_schema("deepCoadd_forced_src").apply(out)


def _with_flux_units(table: Table) -> Table:
    if "psfFlux" not in table.colnames:
        raise NoDataError("there is no source to write")
    return table.copy()


def choose_reference(tables: Mapping[str, Table], *, min_snr: float = 10.0) -> Table:
    """Take each source from the band that shows it best.

    Parameters
    ----------
    tables : mapping of str to astropy.table.Table
        Tables of schema ``deepCoadd_meas`` by band, of the same sources.
    min_snr : float
        Signal to noise of the PSF flux that lets a band lead.

    Returns
    -------
    astropy.table.Table
        Schema ``deepCoadd_ref``: the first band in the order of `patch.BAND_PRIORITY` in which the
        source was detected, has a centroid, its own pixels there and ``min_snr``; else the first
        whose centre lies on masked or interpolated pixels, such as a saturated core; without such
        a band that with the highest signal to noise.

    Raises
    ------
    DataError
        If the tables list different sources.
    """
    order = sorted(tables, key=band_rank)
    first = tables[order[0]]
    for band in order[1:]:
        if not np.array_equal(tables[band]["id"], first["id"]):
            raise DataError(f"the measurements in {order[0]} and {band} are of different sources")
    n = len(first)
    chosen, second = np.full(n, -1), np.full(n, -1)
    best_snr, best = np.full(n, -np.inf), np.zeros(n, np.int64)
    for k, band in enumerate(order):
        table = tables[band]
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = np.asarray(table["psfFlux"]) / np.asarray(table["psfFluxErr"])
        snr = np.where(np.isfinite(snr), snr, -np.inf)
        flags = np.asarray(table["centroid_flags"])
        centred = (flags & np.uint32(int(_FAILED_CENTRE))) == 0
        good = np.asarray(table["peak_detected"]) & centred & (snr >= min_snr)
        second = np.where((second < 0) & good, k, second)
        good &= (flags & np.uint32(int(_MASKED_CENTRE))) == 0
        chosen = np.where((chosen < 0) & good, k, chosen)
        better = snr > best_snr
        best = np.where(better, k, best)
        best_snr = np.where(better, snr, best_snr)
    chosen = np.where(chosen < 0, second, chosen)
    chosen = np.where(chosen < 0, best, chosen)
    out = first.copy()
    out.meta.pop("schema", None)
    for name in out.colnames:
        stack = np.stack([np.asarray(tables[b][name]) for b in order])
        out[name] = stack[chosen, np.arange(n)]
    out["refBand"] = np.array(order)[chosen] if n else np.empty(0, "U8")
    return load_schema("deepCoadd_ref").apply(out)


def join_bands(
    measured: Mapping[str, Table], forced: Mapping[str, Table], reference: Table
) -> Table:
    """All measurements of the sources of a patch side by side.

    Parameters
    ----------
    measured, forced : mapping of str to astropy.table.Table
        Tables of schema ``deepCoadd_meas`` and ``deepCoadd_forced_src`` by band.
    reference : astropy.table.Table
        Schema ``deepCoadd_ref``.

    Returns
    -------
    astropy.table.Table
        Schema ``deepCoadd_obj``.

    Raises
    ------
    DataError
        If the tables list different sources.
    """
    out = Table({"id": np.asarray(reference["id"])})
    names = (*_IDENTITY, "refBand", "ra", "dec", "x", "y", "extendedness")
    for name in names:
        out[f"ref_{name}"] = np.asarray(reference[name])
    for kind, tables in (("meas", measured), ("forced", forced)):
        for band in sorted(tables, key=band_rank):
            table = tables[band]
            if not np.array_equal(table["id"], reference["id"]):
                raise DataError(f"the {kind} table of {band} and the reference list other sources")
            for name in table.colnames:
                if name != "id" and name not in _IDENTITY:
                    out[f"{band}_{kind}_{name}"] = np.asarray(table[name])
    return load_schema("deepCoadd_obj").apply(out)


def public_objects(objects: Table, *, tract: int, patch: int) -> Table:
    """The columns that users read.

    Parameters
    ----------
    objects : astropy.table.Table
        Schema ``deepCoadd_obj``.
    tract, patch : int
        Identity.

    Returns
    -------
    astropy.table.Table
        Schema ``objectTable``: fluxes are the forced ones, shapes those measured in each band.
    """
    n = len(objects)
    out = Table({"objectId": np.asarray(objects["id"])})
    for name, source in (("coord_ra", "ra"), ("coord_dec", "dec"), ("x", "x"), ("y", "y")):
        out[name] = np.asarray(objects[f"ref_{source}"])
    out["tract"], out["patch"] = np.full(n, tract, np.int32), np.full(n, patch, np.int32)
    out["detect_isPrimary"] = np.asarray(objects["ref_detect_isPrimary"])
    out["detect_isSky"] = np.asarray(objects["ref_is_sky"])
    out["parentObjectId"] = np.asarray(objects["ref_parent"])
    # Only leaves are listed: the row that leads its footprint stands for the parent.
    leads = np.asarray(objects["ref_parent"]) == np.asarray(objects["id"])
    n_siblings = np.asarray(objects["ref_n_siblings"]).astype(np.int32)
    out["deblend_nChild"] = np.where(leads, n_siblings, 0).astype(np.int32)
    out["deblend_nSiblings"] = np.asarray(objects["ref_n_siblings"]).astype(np.int32)
    out["refBand"] = np.asarray(objects["ref_refBand"])
    out["refExtendedness"] = np.asarray(objects["ref_extendedness"])
    schema = load_schema("objectTable")
    bands = [c.removesuffix("_meas_ixx") for c in objects.colnames if c.endswith("_meas_ixx")]
    for band in bands:
        _band_columns(out, objects, band)
    return schema.apply(out)


def _band_columns(out: Table, objects: Table, band: str) -> None:
    """Columns of one band of the public table; NO_DATA where it was not forced."""
    n = len(objects)
    for flux in _FLUXES:
        for suffix in ("", "Err", "_flags"):
            source = f"{band}_forced_{flux}{suffix}"
            missing: NDArray[np.generic] = np.full(n, np.nan)
            if suffix == "_flags":
                missing = np.full(n, int(MeasureFlag.NO_DATA), np.uint32)
            known = source in objects.colnames
            out[f"{band}_{flux}{suffix}"] = np.asarray(objects[source]) if known else missing
    prefix = f"{band}_meas_"
    described = {c.name.removeprefix("{band}_") for c in load_schema("objectTable").columns}
    for column in objects.colnames:
        name = column.removeprefix(prefix)
        if column.startswith(prefix) and name in described:
            target = f"{band}_{name}"
            if target not in out.colnames and name not in ("x", "y"):
                out[target] = np.asarray(objects[column])
    forced = f"{band}_forced_extendedness"
    if forced in objects.colnames:
        out[f"{band}_extendedness"] = np.asarray(objects[forced])
    out[f"{band}_detected"] = np.asarray(objects[f"{prefix}peak_detected"])
    for flux in ("psfFlux", "cModelFlux"):
        out[f"{band}_free_{flux}"] = np.asarray(objects[f"{prefix}{flux}"])


def stack_patches(tables: list[Table]) -> Table:
    """The objects of all patches of a tract.

    Parameters
    ----------
    tables : list of astropy.table.Table
        Tables of schema ``objectTable``.

    Returns
    -------
    astropy.table.Table
        Schema ``objectTable_tract``; every row, ``detect_isPrimary`` picks each object once. A
        band that a patch does not have is NaN there, with NO_DATA in its flags.

    Raises
    ------
    NoDataError
        If there is no table.
    """
    if not tables:
        raise NoDataError("there is no object table to put together")
    names: dict[str, np.dtype] = {}
    for table in tables:
        for name in table.colnames:
            names.setdefault(name, table[name].dtype)
    parts = []
    for table in tables:
        part = Table({n: np.asarray(table[n]) for n in table.colnames})
        for name, dtype in names.items():
            if name not in part.colnames:
                part[name] = _absent(name, dtype, len(part))
        parts.append(part[list(names)])
    return load_schema("objectTable_tract").apply(vstack(parts, metadata_conflicts="silent"))


def _absent(name: str, dtype: np.dtype, n: int) -> NDArray[np.generic]:
    if name.endswith("_flags"):
        return np.full(n, int(MeasureFlag.NO_DATA), np.uint32)
    return np.full(n, np.nan, dtype) if dtype.kind == "f" else np.zeros(n, dtype)
