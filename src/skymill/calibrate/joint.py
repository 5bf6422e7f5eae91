"""Joint astrometric and photometric calibration of all visits of a tract in one filter.

Astrometry: a star at pixel (x, y) of CCD d in visit v lies in the visit's tangent plane at

    A_v T_d(x, y) + c_d(x, y) + V_v(u, v),

where T_d is the mean geometry of the CCD (`joint_geometry`), A_v an affine map, c_d a polynomial
of the CCD that all visits share and V_v a polynomial of the visit in focal-plane coordinates.
Photometry: its magnitude is that of the electrons plus c_d plus V_v(u, v). The stars' positions
and magnitudes are free; the reference catalogue measures some of them once more and so fixes what
the visits cannot tell (`joint_solver`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import sparse

from skymill.calibrate.joint_geometry import FocalGeometry, common_geometry
from skymill.calibrate.joint_solver import (
    JointProblem,
    JointSolution,
    Weights,
    solve_step,
    update_weights,
)
from skymill.calibrate.joint_sources import (
    JointOptions,
    JointSources,
    StarReferences,
    geometries,
)
from skymill.calibrate.robust import robust_sigma
from skymill.calibrate.tpv import monomials, to_tangent, tpv_from_mapping
from skymill.calibrate.visit_table import header_text, pad_coefficients
from skymill.data.errors import NoDataError
from skymill.data.tables import load_schema
from skymill.data.units import MAG_ERR_FACTOR

__all__ = ["JointFit", "fit_joint_astrometry", "fit_joint_photometry"]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Values and errors of the measurements by the parameters and the stars' values.
Measured = Callable[[Float64Array, Float64Array | None], tuple[Float64Array, Float64Array]]

#: Standard deviations of the parameters before the data: wide, they only tame degeneracies.
_ASTROMETRY_PRIOR = 1.0  # arcsec
_PHOTOMETRY_PRIOR = 0.5  # mag
_ZERO_POINT_PRIOR = 5.0  # mag
_MAS = 1000.0


@dataclass(frozen=True)
class JointFit:
    """Result for all visits.

    Parameters
    ----------
    table : dict of int to Table
        For each visit its ``jointcalSkyWcsCatalog`` or ``jointcalPhotoCalibCatalog``.
    scatter : float
        Robust scatter of bright measurements about their stars (per axis) [mas or mmag].
    reference_scatter : float
        Robust scatter of the references about the stars (per axis) [mas or mmag].
    pedestal : float
        Scatter beyond the given errors [mas or mmag].
    chip_order, visit_order : int
        Orders that the data supported.
    n_star, n_measurement, n_reference : int
        Sizes of the fit after clipping.
    notes : tuple of str
        What was reduced and why.
    """

    table: dict[int, Table]
    scatter: float
    reference_scatter: float
    pedestal: float
    chip_order: int
    visit_order: int
    n_star: int
    n_measurement: int
    n_reference: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """Columns of the design matrix: CCD terms, then visit terms."""

    geometry: FocalGeometry
    visits: list[int]
    detectors: list[int]
    chip_order: int
    visit_order: int

    @property
    def chip_terms(self) -> int:
        return (self.chip_order + 1) * (self.chip_order + 2) // 2

    @property
    def visit_terms(self) -> int:
        return (self.visit_order + 1) * (self.visit_order + 2) // 2

    @property
    def size(self) -> int:
        return len(self.detectors) * self.chip_terms + len(self.visits) * self.visit_terms

    def rows(self, visit: int, detector: int, x: Float64Array, y: Float64Array) -> Float64Array:
        """Terms of one CCD of one visit, CCD terms first (n, chip_terms + visit_terms)."""
        u, v = self.geometry.focal(detector, x, y)
        scale = self.geometry.radius
        chip = monomials(*self.geometry.unit_pixel(detector, x, y), self.chip_order)
        return np.hstack([chip, monomials(u / scale, v / scale, self.visit_order)])

    def columns(self, visit: int, detector: int) -> Int64Array:
        """Where those terms stand in the design matrix."""
        chip = self.detectors.index(detector) * self.chip_terms
        first = len(self.detectors) * self.chip_terms
        start = first + self.visits.index(visit) * self.visit_terms
        return np.concatenate(
            [chip + np.arange(self.chip_terms), start + np.arange(self.visit_terms)]
        )


def _ccd_index(sources: JointSources, rows: Int64Array) -> dict[tuple[int, int], Int64Array]:
    """Positions within ``rows`` of the sources of each CCD of each visit."""
    key = sources.visit[rows] * 1000 + sources.detector[rows]
    order = np.argsort(key, kind="stable")
    values, starts = np.unique(key[order], return_index=True)
    groups = np.split(order, starts[1:])
    return {(int(k) // 1000, int(k) % 1000): g for k, g in zip(values, groups, strict=True)}


def _design(
    layout: _Layout,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
) -> sparse.csr_array:
    width = layout.chip_terms + layout.visit_terms
    data, indices = np.empty((rows.size, width)), np.empty((rows.size, width), np.int64)
    for (visit, detector), group in groups.items():
        data[group] = layout.rows(visit, detector, sources.x[rows[group]], sources.y[rows[group]])
        indices[group] = layout.columns(visit, detector)
    pointer = np.arange(0, (rows.size + 1) * width, width)
    return sparse.csr_array(
        (data.ravel(), indices.ravel(), pointer), shape=(rows.size, layout.size)
    )


def _supported_order(wanted: int, per_visit: float, per_term: float, ccds: float) -> int:
    """Highest order with enough measurements in a visit and enough CCDs to hold its terms."""
    order = wanted
    while order > 0:
        terms = (order + 1) * (order + 2) // 2
        if per_visit >= per_term * terms and terms <= ccds:
            break
        order -= 1
    return order


def _choose_rows(
    sources: JointSources, references: StarReferences, good: BoolArray, minimum: int
) -> Int64Array:
    """Measurements of stars that are seen often enough or have a reference."""
    n_star = sources.star_ra.size
    seen = np.bincount(sources.star[good], minlength=n_star)
    anchored = np.zeros(n_star, bool)
    anchored[references.star] = True
    keep = (seen >= minimum) | (anchored & (seen >= 1))
    return np.flatnonzero(good & keep[sources.star])


def _reduced(
    what: str, wanted: int, order: int, measurements: float, ccds: float
) -> tuple[str, ...]:
    if order == wanted:
        return ()
    return (
        f"the visit polynomial of the {what} was reduced from order {wanted} to {order}: "
        f"{measurements:.0f} measurements in the poorest visit, {ccds:.0f} CCDs",
    )


def _layout(
    sources: JointSources,
    rows: Int64Array,
    geometry: FocalGeometry,
    what: str,
    orders: tuple[int, int],
    terms_per_ccd: float,
) -> tuple[_Layout, tuple[str, ...]]:
    visits, counts = np.unique(sources.visit[rows], return_counts=True)
    detectors = np.unique(sources.detector[rows])
    chip, wanted = orders
    per_ccd = np.bincount(np.searchsorted(detectors, sources.detector[rows]))
    # A CCD with few stars cannot hold more than its shift.
    while chip > 0 and per_ccd.min() < 5 * (chip + 1) * (chip + 2) / 2:
        chip -= 1
    poorest, ccds = int(counts.min()), int(detectors.size)
    order = _supported_order(wanted, poorest, 8.0, terms_per_ccd * ccds)
    notes = _reduced(what, wanted, order, poorest, ccds)
    layout = _Layout(geometry, [int(v) for v in visits], [int(d) for d in detectors], chip, order)
    return layout, notes


def fit_joint_astrometry(
    sources: JointSources,
    references: StarReferences,
    summaries: Sequence[Table],
    *,
    options: JointOptions = JointOptions(),
) -> JointFit:
    """Fit the world coordinates of all CCDs of all visits together.

    Parameters
    ----------
    sources : JointSources
        From `gather_sources`.
    references : StarReferences
        Reference stars at the mean epoch of the visits.
    summaries : sequence of Table
        ``visitSummary`` of each visit.
    options : JointOptions
        Settings.

    Returns
    -------
    JointFit
        ``jointcalSkyWcsCatalog`` of each visit, and the quality.

    Raises
    ------
    NoDataError
        If there is no star with a reference.
    FitError
        If the stars do not constrain the calibration.
    """
    _need_references(references, "position")
    geometry = common_geometry(geometries(summaries))
    good = (sources.snr >= options.astrometry_min_snr) & (sources.error > 0)
    rows = _choose_rows(sources, references, good, options.min_measurements)
    layout, notes = _layout(
        sources,
        rows,
        geometry,
        "astrometry",
        (options.astrometry_chip_order, options.astrometry_visit_order),
        3.0,
    )
    groups = _ccd_index(sources, rows)
    frame = _SkyFrame.make(sources, references, layout, groups, rows, summaries)
    reference = frame.project(references.catalogue.ra, references.catalogue.dec)
    problem = JointProblem(
        _design(layout, sources, rows, groups),
        sources.star[rows],
        np.full(layout.size, _ASTROMETRY_PRIOR),
        references.star,
        reference,
        np.hypot(references.catalogue.error, options.astrometry_reference_floor) / _MAS,
        sources.star_ra.size,
    )
    error = np.maximum(sources.error[rows], 1e-3) * frame.pixel_scale

    def measured(
        parameters: Float64Array, _: Float64Array | None
    ) -> tuple[Float64Array, Float64Array]:
        return frame.positions(problem.design @ parameters), error

    outcome = _iterate(problem, measured, 2, options)
    tables = {
        visit: _wcs_table(visit, layout, outcome, sources, rows, groups, summaries)
        for visit in layout.visits
    }
    return _quality(tables, outcome, sources.snr[rows], options, layout, notes)


def fit_joint_photometry(
    sources: JointSources,
    references: StarReferences,
    summaries: Sequence[Table],
    *,
    options: JointOptions = JointOptions(),
) -> JointFit:
    """Fit the flux scales of all CCDs of all visits together.

    Parameters
    ----------
    sources : JointSources
        From `gather_sources`.
    references : StarReferences
        Reference stars with fluxes.
    summaries : sequence of Table
        ``visitSummary`` of each visit.
    options : JointOptions
        Settings.

    Returns
    -------
    JointFit
        ``jointcalPhotoCalibCatalog`` of each visit, and the quality.

    Raises
    ------
    NoDataError
        If there is no star with a reference.
    FitError
        If the stars do not constrain the calibration.
    """
    catalogue = references.catalogue
    good_reference = (catalogue.flux > 0) & (np.nan_to_num(catalogue.flux_err) >= 0)
    references = StarReferences(references.star[good_reference], catalogue.select(good_reference))
    catalogue = references.catalogue
    _need_references(references, "flux")
    geometry = common_geometry(geometries(summaries))
    good = sources.point & (sources.snr >= options.photometry_min_snr)
    rows = _choose_rows(sources, references, good, options.min_measurements)
    layout, notes = _layout(
        sources, rows, geometry, "photometry", (0, options.photometry_visit_order), 6.0
    )
    groups = _ccd_index(sources, rows)
    base = _visit_scales(summaries)
    start = np.array([base[int(v)] for v in sources.visit[rows]])
    flux, flux_err = sources.flux[rows] * start, sources.flux_err[rows] * start
    relative = np.where(np.isfinite(catalogue.flux_err), catalogue.flux_err / catalogue.flux, 0.02)
    prior = np.full(layout.size, _PHOTOMETRY_PRIOR)
    prior[len(layout.detectors) :: layout.visit_terms] = _ZERO_POINT_PRIOR
    problem = JointProblem(
        _design(layout, sources, rows, groups),
        sources.star[rows],
        prior,
        references.star,
        -2.5 * np.log10(catalogue.flux)[:, None],
        np.hypot(MAG_ERR_FACTOR * relative, options.photometry_reference_floor),
        sources.star_ra.size,
    )

    def measured(
        parameters: Float64Array, value: Float64Array | None
    ) -> tuple[Float64Array, Float64Array]:
        return _magnitudes(flux, flux_err, problem, parameters, value)

    outcome = _iterate(problem, measured, 1, options)
    tables = {
        visit: _scale_table(visit, layout, outcome, sources, rows, groups, base, summaries)
        for visit in layout.visits
    }
    return _quality(tables, outcome, sources.snr[rows], options, layout, notes)


def _need_references(references: StarReferences, what: str) -> None:
    if references.star.size == 0:
        raise NoDataError(
            f"no star of the visits has a reference {what}; the joint calibration cannot be tied "
            "to the sky: ingest a reference catalogue that covers the tract"
        )


@dataclass(frozen=True)
class _Outcome:
    problem: JointProblem
    parameters: Float64Array
    solution: JointSolution
    weights: Weights
    error: Float64Array


def _iterate(
    problem: JointProblem, measured: Measured, components: int, options: JointOptions
) -> _Outcome:
    """Linearise, solve and clip until nothing changes."""
    parameters = np.zeros((problem.design.shape[1], components))
    n = problem.star.size
    weights = Weights(np.ones(n, bool), np.ones(problem.reference_star.size, bool), 0.0)
    values, error = measured(parameters, None)
    # Start with a pedestal so wide that the brightest stars do not decide alone.
    weights = Weights(weights.used, weights.reference_used, float(np.median(error)))
    solution = solve_step(problem, values, error, parameters, weights)
    for _ in range(options.max_iterations):
        parameters = parameters + solution.step
        new = update_weights(problem, solution, error, weights, clip=options.clip)
        still = (
            np.array_equal(new.used, weights.used)
            and np.array_equal(new.reference_used, weights.reference_used)
            and abs(new.pedestal - weights.pedestal) <= 1e-3 * new.pedestal + 1e-12
            and abs(new.reference_pedestal - weights.reference_pedestal)
            <= 1e-3 * new.reference_pedestal + 1e-12
            and float(np.abs(solution.step).max()) < 1e-6
        )
        weights = new
        values, error = measured(parameters, solution.value)
        if still:
            break
        solution = solve_step(problem, values, error, parameters, weights)
    return _Outcome(problem, parameters, solution, weights, error)


@dataclass(frozen=True)
class _SkyFrame:
    """Positions of the measurements in one tangent plane [arcsec]."""

    ra0: float
    dec0: float
    layout: _Layout
    groups: dict[tuple[int, int], Int64Array]
    plane: Float64Array
    motion: Float64Array
    pixel_scale: float

    @staticmethod
    def make(
        sources: JointSources,
        references: StarReferences,
        layout: _Layout,
        groups: dict[tuple[int, int], Int64Array],
        rows: Int64Array,
        summaries: Sequence[Table],
    ) -> _SkyFrame:
        geometry = layout.geometry
        plane = np.empty((rows.size, 2))
        for (visit, detector), group in groups.items():
            x, y = sources.x[rows[group]], sources.y[rows[group]]
            plane[group] = geometry.plane(visit, *geometry.focal(detector, x, y))
        a, d = np.radians(sources.star_ra), np.radians(sources.star_dec)
        mean = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]).mean(axis=1)
        ra0 = float(np.degrees(np.arctan2(mean[1], mean[0])) % 360)
        dec0 = float(np.degrees(np.arctan2(mean[2], np.hypot(mean[0], mean[1]))))
        epoch = {int(t["visit"][0]): float(np.mean(t["mjd"])) for t in summaries if len(t)}
        years = np.array([epoch[int(v)] for v in sources.visit[rows]]) / 365.25
        pm = np.zeros((sources.star_ra.size, 2))
        pm[references.star, 0] = references.catalogue.pm_ra
        pm[references.star, 1] = references.catalogue.pm_dec
        middle = float(np.mean(list(epoch.values()))) / 365.25
        motion = pm[sources.star[rows]] * (years - middle)[:, None] / _MAS
        scale = np.median(
            [
                np.sqrt(abs(np.linalg.det(geometry.coefficients[k][[1, 2]])))
                / (0.5 * max(geometry.shapes[k]))
                for k in layout.detectors
            ]
        )
        return _SkyFrame(ra0, dec0, layout, groups, plane, motion, float(scale) * 3600.0)

    def project(self, ra: Float64Array, dec: Float64Array) -> Float64Array:
        return 3600.0 * np.stack(to_tangent(ra, dec, ra0=self.ra0, dec0=self.dec0), axis=1)

    def positions(self, correction: Float64Array) -> Float64Array:
        """Positions with a correction [arcsec], less the known proper motion."""
        out = np.empty_like(self.plane)
        moved = self.plane + correction / 3600.0
        for (visit, _), group in self.groups.items():
            out[group] = self.project(*self.layout.geometry.sky(visit, moved[group]))
        return out - self.motion


def _model_error(
    layout: _Layout, outcome: _Outcome, visit: int, detector: int, grid: tuple[Float64Array, ...]
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
    outcome: _Outcome, sources: JointSources, rows: Int64Array, group: Int64Array
) -> tuple[int, int]:
    used = group[outcome.weights.used[group]]
    anchored = np.zeros(sources.star_ra.size, bool)
    anchored[outcome.problem.reference_star[outcome.weights.reference_used]] = True
    return int(used.size), int(anchored[sources.star[rows[used]]].sum())


def _bright_scatter(outcome: _Outcome, bright: BoolArray) -> float:
    """Scatter of stars that were measured more than once; NaN without any."""
    solution, used, star = outcome.solution, outcome.weights.used, outcome.problem.star
    repeated = np.bincount(star[used], minlength=outcome.problem.n_star)[star] > 1
    pick = used & bright & repeated
    if pick.sum() < 10:
        pick = used & repeated
    free = np.sqrt(np.maximum(1.0 - solution.leverage[pick], 0.02))[:, None]
    return robust_sigma((solution.residual[pick] / free).ravel())


def _quality(
    tables: dict[int, Table],
    outcome: _Outcome,
    snr: Float64Array,
    options: JointOptions,
    layout: _Layout,
    notes: tuple[str, ...],
) -> JointFit:
    scatter = _MAS * _bright_scatter(outcome, snr >= options.bright_snr)
    for table in tables.values():
        table["scatter"] = np.full(len(table), scatter)
        load_schema(table.meta["schema"]).apply(table)
    used, ref_used = outcome.weights.used, outcome.weights.reference_used
    return JointFit(
        tables,
        scatter,
        _MAS * robust_sigma(outcome.solution.reference_residual[ref_used].ravel()),
        _MAS * outcome.weights.pedestal,
        layout.chip_order,
        layout.visit_order,
        int(np.unique(outcome.problem.star[used]).size),
        int(used.sum()),
        int(ref_used.sum()),
        notes,
    )


def _rows_of_visit(visit: int, layout: _Layout, summaries: Sequence[Table]) -> list[int]:
    """CCDs of a visit that the fit knows."""
    return [
        int(r["detector"])
        for t in summaries
        for r in t
        if int(r["visit"]) == visit and int(r["detector"]) in layout.detectors
    ]


def _wcs_table(
    visit: int,
    layout: _Layout,
    outcome: _Outcome,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
    summaries: Sequence[Table],
) -> Table:
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


def _visit_scales(summaries: Sequence[Table]) -> dict[int, float]:
    """Median single-frame scale of each visit [nJy/electron]: the zero of its magnitudes."""
    return {int(t["visit"][0]): float(np.median(t["photoCalibMean"])) for t in summaries if len(t)}


def _magnitudes(
    flux: Float64Array,
    flux_err: Float64Array,
    problem: JointProblem,
    parameters: Float64Array,
    value: Float64Array | None,
) -> tuple[Float64Array, Float64Array]:
    """Magnitudes linear in the flux about their star's, so that noise does not bias them."""
    correction = (problem.design @ parameters)[:, 0]
    expected = flux
    if value is not None:
        star = value[problem.star, 0]
        known = np.isfinite(star)
        expected = np.where(known, 10.0 ** (-0.4 * (np.where(known, star, 0.0) - correction)), flux)
        # An outlier keeps its own logarithm: the straight line would lead astray.
        expected = np.where(np.abs(flux / expected - 1.0) < 0.5, expected, flux)
    magnitude = -2.5 * np.log10(expected) - MAG_ERR_FACTOR * (flux / expected - 1.0)
    return (magnitude + correction)[:, None], MAG_ERR_FACTOR * flux_err / expected


def _scale_table(
    visit: int,
    layout: _Layout,
    outcome: _Outcome,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
    base: dict[int, float],
    summaries: Sequence[Table],
) -> Table:
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
