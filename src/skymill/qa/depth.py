"""How deep a catalogue is: magnitudes at given S/N, and where its number counts break down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.statistics import robust_sigma
from skymill.data.tables import float_column
from skymill.data.units import MAG_ERR_FACTOR

__all__ = ["SNR_LEVELS", "Counts", "count_magnitudes", "magnitudes_at_snr"]

Float64Array = NDArray[np.float64]

#: Signal-to-noise ratios whose magnitudes are stated, each with the objects within one of it.
SNR_LEVELS = (10, 20)
#: Fewest objects whose counts are fitted.
_MIN_OBJECTS = 200


@dataclass(frozen=True)
class Counts:
    """Number counts with the power law fitted to them.

    Parameters
    ----------
    magnitude : (n,) float64 [mag]
        Middles of the bins.
    counts : (n,) float64
        Objects for each bin.
    law : (n,) float64
        The power law; NaN if it could not be fitted.
    limit : float [mag]
        Where the counts fall to half of it; NaN if they do not.
    n_used : int
        Objects counted.
    """

    magnitude: Float64Array
    counts: Float64Array
    law: Float64Array
    limit: float
    n_used: int


def magnitudes_at_snr(catalogue: Table, band: str, level: float) -> Float64Array:
    """Model magnitudes of the objects within one of a signal-to-noise ratio.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    band : str
        Band.
    level : float
        Signal-to-noise ratio.

    Returns
    -------
    (n,) float64 [mag]
        Magnitudes; empty if the band is missing.
    """
    mag = float_column(catalogue, f"{band}_cmodel_mag")
    err = float_column(catalogue, f"{band}_cmodel_magerr")
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.abs(MAG_ERR_FACTOR / err - level) < 1
    return mag[near & np.isfinite(mag)]


def median_with_error(values: Float64Array) -> tuple[float, float]:
    """Median and its error from the robust scatter; NaN where there are too few.

    Parameters
    ----------
    values : (n,) float64
        Finite values.

    Returns
    -------
    median, error : float
        NaN without a value, and with one.
    """
    n = len(values)
    value = float(np.median(values)) if n else np.nan
    return value, float(1.2533 * robust_sigma(values) / np.sqrt(n)) if n > 1 else np.nan


def count_magnitudes(magnitude: Float64Array, *, step: float = 0.1) -> Counts:
    """Count objects by magnitude and find where the counts fall to half of their extrapolation.

    Parameters
    ----------
    magnitude : (n,) float64 [mag]
        Magnitudes; NaN is left out.
    step : float [mag]
        Width of the bins.

    Returns
    -------
    Counts
        The power law is fitted from 2 to 0.5 mag before the peak; its limit is NaN with less than
        200 objects, or if the counts do not fall.
    """
    good = magnitude[np.isfinite(magnitude) & (magnitude > 10) & (magnitude < 35)]
    if len(good) == 0:
        return Counts(*(np.zeros(0),) * 3, np.nan, 0)
    edges = np.arange(np.floor(good.min()), np.ceil(good.max()) + step, step)
    counts = np.histogram(good, edges)[0].astype(np.float64)
    centre = 0.5 * (edges[:-1] + edges[1:])
    none = np.full(len(centre), np.nan)
    if len(good) < _MIN_OBJECTS:
        return Counts(centre, counts, none, np.nan, 0)
    smooth = np.convolve(counts, np.ones(5) / 5.0, mode="same")
    peak = int(smooth.argmax())
    fitted = (centre > centre[peak] - 2.0) & (centre < centre[peak] - 0.5) & (counts > 0)
    if fitted.sum() < 5:
        return Counts(centre, counts, none, np.nan, 0)
    line = np.polyfit(centre[fitted], np.log10(counts[fitted]), 1, w=np.sqrt(counts[fitted]))
    law = 10.0 ** np.polyval(line, centre)
    return Counts(
        centre, counts, np.asarray(law, np.float64), _half(centre, smooth / law, peak), len(good)
    )


def _half(centre: Float64Array, ratio: Float64Array, peak: int) -> float:
    """First magnitude about and beyond the peak where a ratio falls below one half."""
    below = np.flatnonzero((ratio < 0.5) & (np.arange(len(ratio)) >= peak - 5))
    if len(below) == 0:
        return np.nan
    i = int(below[0])
    if i == 0:
        return float(centre[0])
    return float(np.interp(0.5, [ratio[i], ratio[i - 1]], [centre[i], centre[i - 1]]))
