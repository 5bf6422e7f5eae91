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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.joint_geometry import common_geometry
from skymill.calibrate.joint_layout import (
    JointLayout,
    ccd_index,
    choose_rows,
    design_matrix,
    make_layout,
)
from skymill.calibrate.joint_solver import JointOutcome, JointProblem, iterate
from skymill.calibrate.joint_sources import (
    JointOptions,
    JointSources,
    StarReferences,
    geometries,
)
from skymill.calibrate.joint_tables import scale_table, wcs_table
from skymill.calibrate.tpv import to_tangent
from skymill.data.errors import NoDataError
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema
from skymill.data.units import MAG_ERR_FACTOR

__all__ = ["JointFit", "fit_joint_astrometry", "fit_joint_photometry"]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

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
    rows = choose_rows(sources, references, good, options.min_measurements)
    layout, notes = make_layout(
        sources,
        rows,
        geometry,
        "astrometry",
        (options.astrometry_chip_order, options.astrometry_visit_order),
        3.0,
    )
    groups = ccd_index(sources, rows)
    frame = _SkyFrame.make(sources, references, layout, groups, rows, summaries)
    reference = frame.project(references.catalogue.ra, references.catalogue.dec)
    problem = JointProblem(
        design_matrix(layout, sources, rows, groups),
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

    outcome = iterate(
        problem, measured, 2, max_iterations=options.max_iterations, clip=options.clip
    )
    tables = {
        visit: wcs_table(visit, layout, outcome, sources, rows, groups, summaries)
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
    rows = choose_rows(sources, references, good, options.min_measurements)
    layout, notes = make_layout(
        sources, rows, geometry, "photometry", (0, options.photometry_visit_order), 6.0
    )
    groups = ccd_index(sources, rows)
    base = _visit_scales(summaries)
    start = np.array([base[int(v)] for v in sources.visit[rows]])
    flux, flux_err = sources.flux[rows] * start, sources.flux_err[rows] * start
    relative = np.where(np.isfinite(catalogue.flux_err), catalogue.flux_err / catalogue.flux, 0.02)
    prior = np.full(layout.size, _PHOTOMETRY_PRIOR)
    prior[len(layout.detectors) :: layout.visit_terms] = _ZERO_POINT_PRIOR
    problem = JointProblem(
        design_matrix(layout, sources, rows, groups),
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

    outcome = iterate(
        problem, measured, 1, max_iterations=options.max_iterations, clip=options.clip
    )
    tables = {
        visit: scale_table(visit, layout, outcome, sources, rows, groups, base, summaries)
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
class _SkyFrame:
    """Positions of the measurements in one tangent plane [arcsec]."""

    ra0: float
    dec0: float
    layout: JointLayout
    groups: dict[tuple[int, int], Int64Array]
    plane: Float64Array
    motion: Float64Array
    pixel_scale: float

    @staticmethod
    def make(
        sources: JointSources,
        references: StarReferences,
        layout: JointLayout,
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


def _bright_scatter(outcome: JointOutcome, bright: BoolArray) -> float:
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
    outcome: JointOutcome,
    snr: Float64Array,
    options: JointOptions,
    layout: JointLayout,
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
