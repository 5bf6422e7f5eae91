"""Rows of the catalogue, with their errors, from the sources of a blob."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skymill.model.blob_source import BlobSource
from skymill.model.multi_fit import (
    EAST,
    INDEX,
    LOG_SIZE,
    NORTH,
    SOFT1,
    SOFT2,
    SourceFit,
    evaluate_source,
)
from skymill.model.sources import FitBit, Sources

if TYPE_CHECKING:
    from skymill.model.blob_fitter import BlobFitter

__all__ = ["write_source"]

Float64Array = NDArray[np.float64]

#: Sources that moved farther from where they were found [arcsec].
_WALKER, _RUNNER = 1.0, 2.5


def write_source(fitter: BlobFitter, source: BlobSource, table: Sources, i: int) -> None:
    """Put a source with its errors into a row of a table.

    Parameters
    ----------
    fitter : BlobFitter
        The blob.
    source : BlobSource
        A source of it.
    table : Sources
        Columns.
    i : int
        Row.
    """
    shape = source.shape_fit()
    table.kind[i] = source.kind
    table.radius[i], table.e1[i], table.e2[i] = shape.shape
    table.sersic[i] = shape.sersic
    table.dchisq[i] = source.dchisq
    if source.origin >= 0:
        first = fitter.blob.sources
        table.pm_ra[i], table.pm_dec[i] = (
            first.pm_ra[source.origin],
            first.pm_dec[source.origin],
        )
        table.epoch[i] = first.epoch[source.origin]
    table.fitbits[i] |= _bits(source)
    if not (source.forced_keep or source.frozen):
        _write_errors(fitter, source, table, i)


def _bits(source: BlobSource) -> int:
    moved = float(np.hypot(source.parameters[EAST], source.parameters[NORTH]))
    bits = FitBit(0)
    for flag, bit in (
        (source.force_point, FitBit.FORCED_POINTSOURCE),
        (source.fit_background, FitBit.FIT_BACKGROUND),
        (source.at_radius_limit, FitBit.HIT_RADIUS_LIMIT),
        (source.at_index_limit, FitBit.HIT_SERSIC_LIMIT),
        (source.frozen, FitBit.FROZEN),
        (moved > _WALKER, FitBit.WALKER),
        (moved > _RUNNER, FitBit.RUNNER),
    ):
        if flag:
            bits |= bit
    return int(bits)


def _write_errors(fitter: BlobFitter, source: BlobSource, table: Sources, i: int) -> None:
    """Inverse variances from the normal equations on all pixels of the blob."""
    stamps = fitter.stamps_alone(source)
    if stamps.image.size == 0:
        return
    fit = evaluate_source(stamps, source.kind, source.parameters, fitter.n_band)
    # The errors of the shape belong to the fluxes of the catalogue.
    fit.at_radius_limit, fit.at_index_limit = source.at_radius_limit, source.at_index_limit
    covariance, index = fit.covariance(fixed_position=source.fixed_position)
    variance = np.zeros(6 + fitter.n_band)
    variance[index] = np.diag(covariance)
    variance[6:] += np.where(variance[6:] > 0, source.choice_variance, 0.0)
    inverse = np.where(variance > 0, 1.0 / np.where(variance > 0, variance, 1.0), 0.0)
    table.ra_ivar[i], table.dec_ivar[i] = inverse[EAST] * 3600.0**2, inverse[NORTH] * 3600.0**2
    table.flux_ivar[i] = inverse[6:]
    table.sersic_ivar[i] = inverse[INDEX]
    _write_shape_errors(fit, covariance, index, table, i)


def _write_shape_errors(
    fit: SourceFit,
    covariance: Float64Array,
    index: NDArray[np.int64],
    table: Sources,
    i: int,
) -> None:
    """Errors of radius and ellipticity from those of the internal parameters."""
    if LOG_SIZE not in index:
        return
    place_of = {int(p): k for k, p in enumerate(index)}
    columns = [p for p in (LOG_SIZE, SOFT1, SOFT2) if p in place_of]
    slope = np.zeros((3, len(columns)))
    for k, p in enumerate(columns):
        moved = []
        for step in (-1e-4, 1e-4):
            shifted = fit.parameters.copy()
            shifted[p] += step
            moved.append(np.array(replace(fit, parameters=shifted).shape))
        slope[:, k] = (moved[1] - moved[0]) / 2e-4
    chosen = [place_of[p] for p in columns]
    part = slope @ covariance[np.ix_(chosen, chosen)] @ slope.T
    variance = np.diag(part)
    inverse = np.where(variance > 0, 1.0 / np.where(variance > 0, variance, 1.0), 0.0)
    table.radius_ivar[i], table.e1_ivar[i], table.e2_ivar[i] = inverse
