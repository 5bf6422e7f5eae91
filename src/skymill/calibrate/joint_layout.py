"""Which terms the joint calibration has: polynomials of CCDs and of visits, and their columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skymill.calibrate.joint_geometry import FocalGeometry
from skymill.calibrate.joint_sources import JointSources, StarReferences
from skymill.calibrate.tpv import monomials

__all__ = ["JointLayout", "ccd_index", "choose_rows", "design_matrix", "make_layout"]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class JointLayout:
    """Columns of the design matrix: CCD terms, then visit terms.

    Parameters
    ----------
    geometry : FocalGeometry
        Mean geometry of the CCDs.
    visits, detectors : list of int
        Those that the fit knows.
    chip_order, visit_order : int
        Orders of the polynomials.
    """

    geometry: FocalGeometry
    visits: list[int]
    detectors: list[int]
    chip_order: int
    visit_order: int

    @property
    def chip_terms(self) -> int:
        """Terms of a CCD."""
        return (self.chip_order + 1) * (self.chip_order + 2) // 2

    @property
    def visit_terms(self) -> int:
        """Terms of a visit."""
        return (self.visit_order + 1) * (self.visit_order + 2) // 2

    @property
    def size(self) -> int:
        """Columns of the design matrix."""
        return len(self.detectors) * self.chip_terms + len(self.visits) * self.visit_terms

    def rows(self, visit: int, detector: int, x: Float64Array, y: Float64Array) -> Float64Array:
        """Terms of one CCD of one visit.

        Parameters
        ----------
        visit, detector : int
            Which.
        x, y : (n,) float64 [pixel]
            Positions on the CCD.

        Returns
        -------
        (n, chip_terms + visit_terms) float64
            CCD terms first.
        """
        u, v = self.geometry.focal(detector, x, y)
        scale = self.geometry.radius
        chip = monomials(*self.geometry.unit_pixel(detector, x, y), self.chip_order)
        return np.hstack([chip, monomials(u / scale, v / scale, self.visit_order)])

    def columns(self, visit: int, detector: int) -> Int64Array:
        """Where the terms of one CCD of one visit stand in the design matrix.

        Parameters
        ----------
        visit, detector : int
            Which.

        Returns
        -------
        (chip_terms + visit_terms,) int64
            Columns.
        """
        chip = self.detectors.index(detector) * self.chip_terms
        first = len(self.detectors) * self.chip_terms
        start = first + self.visits.index(visit) * self.visit_terms
        return np.concatenate(
            [chip + np.arange(self.chip_terms), start + np.arange(self.visit_terms)]
        )


def ccd_index(sources: JointSources, rows: Int64Array) -> dict[tuple[int, int], Int64Array]:
    """Group measurements by visit and CCD.

    Parameters
    ----------
    sources : JointSources
        All measurements.
    rows : (n,) int64
        Those that are used.

    Returns
    -------
    dict of (int, int) to (k,) int64
        For each visit and detector the positions within ``rows``.
    """
    key = sources.visit[rows] * 1000 + sources.detector[rows]
    order = np.argsort(key, kind="stable")
    values, starts = np.unique(key[order], return_index=True)
    groups = np.split(order, starts[1:])
    return {(int(k) // 1000, int(k) % 1000): g for k, g in zip(values, groups, strict=True)}


def design_matrix(
    layout: JointLayout,
    sources: JointSources,
    rows: Int64Array,
    groups: dict[tuple[int, int], Int64Array],
) -> sparse.csr_array:
    """The terms of all measurements.

    Parameters
    ----------
    layout : JointLayout
        Columns.
    sources : JointSources
        All measurements.
    rows : (n,) int64
        Those that are used.
    groups : dict
        From `ccd_index`.

    Returns
    -------
    (n, size) scipy.sparse.csr_array
        Design matrix.
    """
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


def choose_rows(
    sources: JointSources, references: StarReferences, good: BoolArray, minimum: int
) -> Int64Array:
    """Measurements of stars that are seen often enough or have a reference.

    Parameters
    ----------
    sources : JointSources
        All measurements.
    references : StarReferences
        Stars with a reference.
    good : (n,) bool
        Measurements that may serve.
    minimum : int
        Measurements that a star without a reference needs.

    Returns
    -------
    (k,) int64
        Rows of ``sources``.
    """
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


def make_layout(
    sources: JointSources,
    rows: Int64Array,
    geometry: FocalGeometry,
    what: str,
    orders: tuple[int, int],
    terms_per_ccd: float,
) -> tuple[JointLayout, tuple[str, ...]]:
    """The highest orders that the data support.

    Parameters
    ----------
    sources : JointSources
        All measurements.
    rows : (n,) int64
        Those that are used.
    geometry : FocalGeometry
        Mean geometry of the CCDs.
    what : str
        Name of the fit, for the notes.
    orders : (int, int)
        Wanted orders of the CCD and of the visit.
    terms_per_ccd : float
        Terms of the visit that one CCD can hold.

    Returns
    -------
    layout : JointLayout
        Columns.
    notes : tuple of str
        What was reduced and why.
    """
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
    layout = JointLayout(
        geometry, [int(v) for v in visits], [int(d) for d in detectors], chip, order
    )
    return layout, notes
