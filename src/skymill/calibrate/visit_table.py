"""Rows of the visit tables: one CCD's geometry, quality and calibration, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.ccd import scale_fluxes
from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import ExposureInfo
from skymill.data.photometry import FluxScale
from skymill.data.tables import load_schema
from skymill.data.units import AB_ZERO_POINT_NJY, MAG_ERR_FACTOR

__all__ = [
    "calibrate_sources",
    "choose_tract",
    "flux_scale_of",
    "header_text",
    "join_tables",
    "make_visit_row",
    "make_visit_summary",
    "pad_coefficients",
    "update_visit_summary",
    "wcs_of",
]

Float64Array = NDArray[np.float64]

#: Smallest width of the matrix of Chebyshev coefficients in a table.
_MIN_TERMS = 3

_HAS_FIELD = "photoCalibCoefficients"


def header_text(wcs: FitsWcs) -> str:
    """The header of a mapping as text, one card after the other without line ends.

    Parameters
    ----------
    wcs : FitsWcs
        The mapping.

    Returns
    -------
    str
        Text for `wcs_of`.
    """
    return str(wcs.header.tostring(sep="", endcard=True, padding=False))


def wcs_of(row: Any) -> FitsWcs:
    """The mapping of a row of a visit table.

    Parameters
    ----------
    row : Row
        With column ``wcs``.

    Returns
    -------
    FitsWcs
        The mapping.
    """
    text = str(row["wcs"])
    if not text:
        raise DataError(
            f"visit {row['visit']} detector {row['detector']} has no world coordinates in its row"
        )
    return FitsWcs(fits.Header.fromstring(text))


def flux_scale_of(row: Any, *, shape: tuple[int, int]) -> FluxScale:
    """The flux scale of a row of a visit table.

    Parameters
    ----------
    row : Row
        With columns ``photoCalibMean``, ``photoCalibErr``, ``photoCalibCoefficients``.
    shape : (ny, nx)
        Size of the CCD.

    Returns
    -------
    FluxScale
        NanoJansky per electron.
    """
    return FluxScale(
        float(row["photoCalibMean"]),
        float(row["photoCalibErr"]),
        np.asarray(row["photoCalibCoefficients"], np.float64),
        shape,
    )


def pad_coefficients(coefficients: Float64Array | None, terms: int = _MIN_TERMS) -> Float64Array:
    """Chebyshev coefficients as a square matrix.

    Parameters
    ----------
    coefficients : (ky, kx) float64, optional
        Coefficients; a constant field if omitted.
    terms : int
        Smallest width of the result.

    Returns
    -------
    (k, k) float64
        The same field.
    """
    given = np.ones((1, 1)) if coefficients is None else np.asarray(coefficients, np.float64)
    out = np.zeros((max(terms, *given.shape),) * 2)
    out[: given.shape[0], : given.shape[1]] = given
    return out


def make_visit_row(
    *,
    info: ExposureInfo,
    shape: tuple[int, int],
    wcs: FitsWcs,
    photo_calib: FluxScale,
    summary: Mapping[str, float],
    aperture_correction: Mapping[str, float],
) -> dict[str, Any]:
    """The row of one CCD in ``visitSummary``.

    Parameters
    ----------
    info : ExposureInfo
        Identity.
    shape : (ny, nx)
        Size of the image.
    wcs : FitsWcs
        World coordinates.
    photo_calib : FluxScale
        NanoJansky per electron.
    summary : mapping of str to float
        Numbers of the CCD.
    aperture_correction : mapping of str to float
        PSF flux over the flux of each other algorithm.

    Returns
    -------
    dict
        One value for each column; NaN (0 for counts) where the summary has none.
    """
    ny, nx = shape
    corners = wcs.pixel_to_sky(
        x=[-0.5, nx - 0.5, nx - 0.5, -0.5, 0.5 * (nx - 1)],
        y=[-0.5, -0.5, ny - 0.5, ny - 0.5, 0.5 * (ny - 1)],
    )
    row: dict[str, Any] = {}
    for column in load_schema("visitSummary").columns:
        if column.dtype == "float64" and not column.shape:
            row[column.name] = float(summary.get(column.name, np.nan))
        elif column.dtype == "int32":
            row[column.name] = int(np.nan_to_num(summary.get(column.name, 0.0)))
    row.update(
        visit=info.visit,
        detector=info.detector,
        band=info.band,
        physical_filter=info.physical_filter,
        ra=corners[0][4],
        dec=corners[1][4],
        ra_corners=corners[0][:4],
        dec_corners=corners[1][:4],
        nx=nx,
        ny=ny,
        expTime=info.exposure_time,
        mjd=info.mjd_mid,
        airmass=info.airmass,
        wcs=header_text(wcs),
        photoCalibMean=photo_calib.mean,
        photoCalibErr=photo_calib.mean_err,
        photoCalibCoefficients=pad_coefficients(photo_calib.coefficients),
        apertureCorrections=json.dumps(dict(aperture_correction)),
    )
    return row


def make_visit_summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Join the rows of a visit's CCDs.

    Parameters
    ----------
    rows : sequence of dict
        From `make_visit_row`.

    Returns
    -------
    Table
        ``visitSummary``, sorted by detector, columns in the order of the schema.
    """
    schema = load_schema("visitSummary")
    ordered = sorted(rows, key=lambda r: int(r["detector"]))
    terms = max((np.shape(r["photoCalibCoefficients"])[0] for r in ordered), default=_MIN_TERMS)
    table = Table()
    for column in schema.columns:
        values = [r[column.name] for r in ordered]
        if column.name == "photoCalibCoefficients":
            values = [pad_coefficients(v, terms) for v in values]
        table[column.name] = np.array(values)
    return schema.apply(table)


def _rows_of(table: Table | None, visit: int) -> dict[int, Any]:
    if table is None:
        return {}
    return {int(r["detector"]): r for r in table if int(r["visit"]) == visit}


def update_visit_summary(
    summary: Table,
    *,
    sky_wcs: Table | None,
    photo_calib: Table | None,
    psf: Table | None,
) -> Table:
    """Replace the calibration of a visit's CCDs by the joint one and the final PSF's numbers.

    Parameters
    ----------
    summary : Table
        ``visitSummary``.
    sky_wcs : Table, optional
        ``jointcalSkyWcsCatalog``; the single-frame coordinates stay if omitted.
    photo_calib : Table, optional
        ``jointcalPhotoCalibCatalog``; the single-frame scales stay if omitted.
    psf : Table, optional
        ``finalized_psf_ap_corr_catalog``; the first PSF's numbers stay if omitted.

    Returns
    -------
    Table
        ``finalVisitSummary``. CCDs without a row in a given table are left out: they have no
        valid calibration.
    """
    visit = int(summary["visit"][0]) if len(summary) else -1
    wcs_rows, photo_rows = _rows_of(sky_wcs, visit), _rows_of(photo_calib, visit)
    psf_rows = _rows_of(psf, visit)
    rows = []
    for old in summary:
        detector = int(old["detector"])
        row = {name: old[name] for name in summary.colnames}
        given = ((sky_wcs, wcs_rows), (photo_calib, photo_rows), (psf, psf_rows))
        if any(table is not None and detector not in rows_ for table, rows_ in given):
            continue
        if sky_wcs is not None:
            row.update(_geometry(wcs_rows[detector], int(old["nx"]), int(old["ny"])))
        if photo_calib is not None:
            row.update(_scale(photo_rows[detector]))
        if psf is not None:
            new = psf_rows[detector]
            row.update({n: new[n] for n in new.colnames if n in row})
        rows.append(row)
    if not rows:
        return load_schema("finalVisitSummary").empty()
    table = make_visit_summary(rows)
    table.meta["schema"] = "finalVisitSummary"
    return load_schema("finalVisitSummary").apply(table)


def _geometry(new: Any, nx: int, ny: int) -> dict[str, Any]:
    ra, dec = wcs_of(new).pixel_to_sky(
        x=[-0.5, nx - 0.5, nx - 0.5, -0.5, 0.5 * (nx - 1)],
        y=[-0.5, -0.5, ny - 0.5, ny - 0.5, 0.5 * (ny - 1)],
    )
    return {
        "wcs": str(new["wcs"]),
        "ra": ra[4],
        "dec": dec[4],
        "ra_corners": ra[:4],
        "dec_corners": dec[:4],
        "astromRelative": float(new["scatter"]),
    }


def _scale(new: Any) -> dict[str, Any]:
    mean, error = float(new["photoCalibMean"]), float(new["photoCalibErr"])
    return {
        "photoCalibMean": mean,
        "photoCalibErr": error,
        "photoCalibCoefficients": np.asarray(new["photoCalibCoefficients"]),
        "zeroPoint": AB_ZERO_POINT_NJY - 2.5 * float(np.log10(mean)),
        "zeroPointErr": MAG_ERR_FACTOR * error / mean,
        "photomRelative": float(new["scatter"]),
    }


def calibrate_sources(sources: Table, row: Any, *, schema: str = "sourceTable") -> Table:
    """Positions and fluxes of a CCD's sources by its row of ``finalVisitSummary``.

    Parameters
    ----------
    sources : Table
        ``src``: fluxes in electrons.
    row : Row
        Of the CCD.
    schema : str
        Schema of the result.

    Returns
    -------
    Table
        Sources in nJy.
    """
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    scale = flux_scale_of(row, shape=(int(row["ny"]), int(row["nx"])))
    out = scale_fluxes(sources, scale.scale(x=x, y=y))
    out["ra"], out["dec"] = wcs_of(row).pixel_to_sky(x=x, y=y)
    out.meta.pop("schema", None)
    return load_schema(schema).apply(out)


def join_tables(tables: Sequence[Table], *, schema: str) -> Table:
    """Join the tables of the CCDs of a visit, in the order of the detectors.

    Parameters
    ----------
    tables : sequence of Table
        Tables with equal columns; empty ones are skipped.
    schema : str
        Schema of the result.

    Returns
    -------
    Table
        The rows of all.
    """
    filled = sorted((t for t in tables if len(t)), key=lambda t: int(t["detector"][0]))
    if not filled:
        return load_schema(schema).empty()
    names = [n for n in filled[0].colnames if all(n in t.colnames for t in filled)]
    out = Table({n: np.concatenate([np.asarray(t[n]) for t in filled]) for n in names})
    return load_schema(schema).apply(out)


def choose_tract(tables: Sequence[Table] | None) -> Table | None:
    """One row for each CCD from the joint calibrations of several tracts.

    Parameters
    ----------
    tables : sequence of Table, optional
        Joint calibration of a visit in each tract.

    Returns
    -------
    Table or None
        For each CCD the row with the most stars; None without tables.
    """
    if not tables:
        return None
    if len(tables) == 1:
        return tables[0]
    best: dict[int, tuple[int, int, int]] = {}
    for k, table in enumerate(tables):
        for j, row in enumerate(table):
            detector, stars = int(row["detector"]), int(row["nStar"])
            if detector not in best or stars > best[detector][0]:
                best[detector] = (stars, k, j)
    width = max(
        (t[_HAS_FIELD].shape[1] for t in tables if _HAS_FIELD in t.colnames),
        default=0,
    )
    rows = []
    for _, (_, k, j) in sorted(best.items()):
        row = {n: tables[k][n][j] for n in tables[k].colnames}
        if width:
            row[_HAS_FIELD] = pad_coefficients(row[_HAS_FIELD], width)
        rows.append(row)
    out = Table(rows)
    return (
        load_schema(str(tables[0].meta["schema"])).apply(out) if "schema" in tables[0].meta else out
    )
