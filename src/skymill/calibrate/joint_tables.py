"""The tables of the joint calibration: world coordinates and flux scales of each visit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from skymill.calibrate.joint_layout import JointLayout
from skymill.calibrate.joint_solver import JointOutcome
from skymill.calibrate.joint_sources import JointSources
from skymill.calibrate.tpv import tpv_from_mapping
from skymill.calibrate.visit_table import header_text, pad_coefficients
from skymill.data.units import MAG_ERR_FACTOR

__all__ = ["scale_table", "wcs_table"]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

_MAS = 1000.0


def _model_error(
    layout: JointLayout,
    outcome: JointOutcome,
    visit: int,
    detector: int,
    grid: tuple[Float64Array, ...],
) -> float:
    columns = layout.columns(visit, detector)
    rows = layout.rows(visit, detector, *grid)
    covariance = outcome.solution.covariance[np.ix_(columns, columns)]
    return float(np.sqrt(np.mean(np.einsum("ij,jk,ik->i", rows, covariance, rows))))


def _grid(shape: tuple[int, int], n: int = 9) -> tuple[Float64Array, Float64Array]:
    ny, nx = shape
    t = (np.arange(n) + 0.5) / n
    gx, gy = np.meshgrid(t * nx - 0.5, t * ny - 0.5)
    return gx.ravel(), gy.ravel()


def _counts(
    outcome: JointOutcome, sources: JointSources, rows: Int64Array, group: Int64Array
) -> tuple[int, int]:
    used = group[outcome.weights.used[group]]
    anchored = np.zeros(sources.star_ra.size, bool)
    anchored[outcome.problem.reference_star[outcome.weights.reference_used]] = True
    return int(used.size), int(anchored[sources.star[rows[used]]].sum())


def _rows_of_visit(visit: int, layout: JointLayout, summaries: Sequence[Table]) -> list[int]:
    """CCDs of a visit that the fit knows."""
    return [
        int(r["detector"])
        for t in summaries
        for r in t
        if int(r["visit"]) == visit and int(r["detector"]) in layout.detectors
    ]


def wcs_table(
    visit: int,
    layout: JointLayout,
    outcome: JointOutcome,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
    summaries: Sequence[Table],
) -> Table:
    """World coordinates of the CCDs of a visit.

    Parameters
    ----------
    visit : int
        The visit.
    layout : JointLayout
        Columns of the fit.
    outcome : JointOutcome
        Its result.
    sources : JointSources
        All measurements.
    rows : (n,) int64
        Those that were used.
    groups : dict
        From `skymill.calibrate.joint_layout.ccd_index`.
    summaries : sequence of Table
        ``visitSummary`` of each visit.

    Returns
    -------
    astropy.table.Table
        ``jointcalSkyWcsCatalog``, still without ``scatter``.
    """
    geometry, out = layout.geometry, []
    for detector in sorted(_rows_of_visit(visit, layout, summaries)):
        parameters = outcome.parameters[layout.columns(visit, detector)]

        def mapping(
            x: Float64Array, y: Float64Array, d: int = detector, p: Float64Array = parameters
        ) -> tuple[Float64Array, Float64Array]:
            plane = geometry.plane(visit, *geometry.focal(d, x, y))
            return geometry.sky(visit, plane + layout.rows(visit, d, x, y) @ p / 3600.0)

        shape = geometry.shapes[detector]
        n, anchored = _counts(
            outcome, sources, rows, groups.get((visit, detector), np.array([], int))
        )
        out.append(
            {
                "visit": visit,
                "detector": detector,
                "wcs": header_text(tpv_from_mapping(mapping, shape=shape)),
                "wcsErr": _MAS * _model_error(layout, outcome, visit, detector, _grid(shape)),
                "nStar": n,
                "nReference": anchored,
                "scatter": np.nan,
                "chipOrder": layout.chip_order,
                "visitOrder": layout.visit_order,
            }
        )
    table = Table(out)
    table.meta["schema"] = "jointcalSkyWcsCatalog"
    return table


def scale_table(
    visit: int,
    layout: JointLayout,
    outcome: JointOutcome,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
    base: dict[int, float],
    summaries: Sequence[Table],
) -> Table:
    """Flux scales of the CCDs of a visit.

    Parameters
    ----------
    visit : int
        The visit.
    layout : JointLayout
        Columns of the fit.
    outcome : JointOutcome
        Its result.
    sources : JointSources
        All measurements.
    rows : (n,) int64
        Those that were used.
    groups : dict
        From `skymill.calibrate.joint_layout.ccd_index`.
    base : dict of int to float [nJy/electron]
        Single-frame scale of each visit, the zero of its magnitudes.
    summaries : sequence of Table
        ``visitSummary`` of each visit.

    Returns
    -------
    astropy.table.Table
        ``jointcalPhotoCalibCatalog``, still without ``scatter``.
    """
    out = []
    terms = max(layout.visit_order + 1, 3)
    for detector in sorted(_rows_of_visit(visit, layout, summaries)):
        shape = layout.geometry.shapes[detector]
        x, y = _grid(shape, 2 * terms + 3)
        parameters = outcome.parameters[layout.columns(visit, detector), 0]
        scale = base[visit] * 10.0 ** (-0.4 * (layout.rows(visit, detector, x, y) @ parameters))
        mean = float(scale.mean())
        u, v = (2 * x + 1) / shape[1] - 1, (2 * y + 1) / shape[0] - 1
        design = chebyshev.chebvander2d(v, u, [terms - 1, terms - 1])
        coefficients = np.linalg.lstsq(design, scale / mean, rcond=None)[0].reshape(terms, terms)
        error = _model_error(layout, outcome, visit, detector, (x, y))
        n, anchored = _counts(
            outcome, sources, rows, groups.get((visit, detector), np.array([], int))
        )
        out.append(
            {
                "visit": visit,
                "detector": detector,
                "photoCalibMean": mean,
                "photoCalibErr": mean * error / MAG_ERR_FACTOR,
                "photoCalibCoefficients": pad_coefficients(coefficients),
                "nStar": n,
                "nReference": anchored,
                "scatter": np.nan,
                "visitOrder": layout.visit_order,
            }
        )
    table = Table(out)
    table.meta["schema"] = "jointcalPhotoCalibCatalog"
    return table
