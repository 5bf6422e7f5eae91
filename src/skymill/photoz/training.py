"""Zero points of the templates, trained on galaxies with spectroscopic redshifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema
from skymill.photoz.estimate import checked_fluxes, models_of
from skymill.photoz.options import PhotozOptions
from skymill.photoz.spectra import ModelFluxes

__all__ = ["TrainingOptions", "train_zero_points", "zero_point_entries"]

Float64Array = NDArray[np.float64]
_MAG = 2.5 / np.log(10.0)
_LARGE = "no zero point is so wrong: the templates are other than these"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Which galaxies train the zero points, and how."""

    reference_band: str = option("", "Band that stays; empty for that of the prior")
    min_snr: float = option(
        5.0, "Smallest signal to noise in the reference band; other bands count at any, by weight"
    )
    clip: float = option(3.0, "Residuals beyond this many robust deviations get less weight")
    min_galaxies: int = option(20, "Galaxies that a zero point needs")
    n_iterations: int = option(20, "Most rounds of template choice and zero points")
    tolerance: float = option(5e-4, "Smallest change of a zero point that goes on", unit="mag")
    prior_error: float = option(
        0.2, "Zero points are expected to be zero within this", unit="mag"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_range(self, "min_snr", low=0.0)
        check_range(self, "clip", low=1.0, high=20.0)
        check_range(self, "min_galaxies", low=3)
        check_range(self, "n_iterations", low=1, high=1000)
        check_range(self, "tolerance", low=0.0, low_open=True)
        check_range(self, "prior_error", low=0.0, low_open=True)


@dataclass(frozen=True)
class _Sample:
    """Galaxies of the training: fluxes, variances (inf where missing), models at the redshift."""

    flux: Float64Array
    error: Float64Array
    model: Float64Array  # (n, template, band)


def _sample(
    f: Float64Array, e: Float64Array, reference: int, z_spec: Float64Array, models: ModelFluxes,
    options: TrainingOptions, min_mag_err: float,
) -> _Sample:  # fmt: skip
    good = np.isfinite(f) & np.isfinite(e) & (e > 0)
    bright = good[:, reference] & (f[:, reference] > options.min_snr * e[:, reference])
    step = models.z[1] - models.z[0]
    inside = (z_spec >= models.z[0] - step) & (z_spec <= models.z[-1] + step)
    use = inside & bright & (good.sum(axis=1) >= 3)
    if use.sum() < options.min_galaxies:
        raise NoDataError(
            f"training zero points needs {options.min_galaxies} galaxies with a spectroscopic "
            f"redshift from {models.z[0]:.3f} to {models.z[-1]:.3f}, 3 bands and a signal to noise "
            f"> {options.min_snr} in the reference band; got {int(use.sum())}"
        )
    place = np.clip((z_spec[use] - models.z[0]) / step, 0, len(models.z) - 1.000001)
    low = place.astype(np.int64)
    part = (place - low)[None, None, :]
    model = models.flux[:, :, low] * (1 - part) + models.flux[:, :, low + 1] * part
    error = np.where(good, e, np.inf)[use]
    flux = np.where(good, f, 0.0)[use]
    floor = min_mag_err / _MAG * np.abs(flux)
    return _Sample(flux, np.hypot(error, floor), np.ascontiguousarray(model.transpose(2, 1, 0)))


def _residuals(s: _Sample, offset: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Magnitudes less those of the best template, and their errors; inf where missing."""
    factor = 10.0 ** (-0.4 * offset)
    flux, w = s.flux * factor, 1.0 / (s.error * factor) ** 2
    fot = np.einsum("gb,gtb->gt", w * flux, s.model)
    ftt = np.maximum(np.einsum("gb,gtb->gt", w, s.model**2), 1e-300)
    best = np.argmax(fot**2 / ftt, axis=1)
    rows = np.arange(len(flux))
    fitted = (fot / ftt)[rows, best, None] * s.model[rows, best]
    missing = ~np.isfinite(s.error) | (fitted <= 0)
    safe = np.where(missing, 1.0, fitted)
    # Linear in the flux: a logarithm, or a cut in each band, would favour what noise made bright.
    residual = np.where(missing, 0.0, _MAG * (1.0 - flux / safe))
    error = np.where(missing, np.inf, _MAG * s.error * factor / safe)
    return residual, error


def _solve(
    residual: Float64Array, error: Float64Array, free: NDArray[np.bool_], prior: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Common magnitudes of the bands with a brightness of its own for each galaxy.

    Returns the correction of the free bands and its covariance from the scatter of the galaxies.
    """
    w = 1.0 / error**2
    total = np.maximum(w.sum(axis=1, keepdims=True), 1e-300)
    centred = w * (residual - (w * residual).sum(axis=1, keepdims=True) / total)
    normal = np.diag(w.sum(axis=0)) - np.einsum("ga,gb->ab", w / total, w)
    normal = normal[np.ix_(free, free)] + np.diag(prior[free])
    inverse = np.linalg.inv(normal)
    scores = centred[:, free]
    return inverse @ scores.sum(axis=0), inverse @ (scores.T @ scores) @ inverse


def _scatter(residual: Float64Array, error: Float64Array) -> Float64Array:
    """Robust deviation of the residuals of each band from zero; NaN for a band without any."""
    pairs = zip(residual.T, np.isfinite(error).T, strict=True)
    return np.array([robust_sigma(r[seen], centre=0.0) for r, seen in pairs])


def train_zero_points(
    flux: ArrayLike,
    flux_err: ArrayLike,
    z_spec: ArrayLike,
    *,
    bands: Sequence[str],
    photoz: PhotozOptions = PhotozOptions(),
    options: TrainingOptions = TrainingOptions(),
    models: ModelFluxes | None = None,
) -> Table:
    """Offsets of the bands with which the templates fit best at known redshifts.

    Each round takes the best template of each galaxy at its spectroscopic redshift, then solves
    for one offset a band with the brightness of each galaxy free (so that no offset hides in the
    brightness) and Huber's weights against outliers.

    Parameters
    ----------
    flux, flux_err : (n, n_band) float64 [nJy]
        Fluxes; NaN where not measured.
    z_spec : (n,) float64
        Spectroscopic redshifts; NaN where there is none.
    bands : sequence of str
        Names of the bands.
    photoz : PhotozOptions
        Camera, templates, grid; its zero points are the start.
    options : TrainingOptions
        Galaxies and convergence.
    models : ModelFluxes, optional
        Model fluxes computed before.

    Returns
    -------
    astropy.table.Table
        Schema ``photozZeroPoints``: ``offset`` [mag] is to be added to the magnitudes of a band
        (`zero_point_entries` turns the table into ``PhotozOptions.zero_points``), with its
        standard error, the robust scatter of a galaxy, and how many counted. A band of too few
        galaxies keeps its start and says so in ``message``; so does an offset beyond
        ``prior_error``, which tells of the templates, not of the photometry.

    Raises
    ------
    DataError
        If the shapes do not agree.
    ConfigError
        If the reference band is not among the bands.
    NoDataError
        If too few galaxies have a redshift.
    """
    bands = list(bands)
    f, e = checked_fluxes(flux, flux_err, bands)
    z = np.atleast_1d(np.asarray(z_spec, np.float64))
    if z.shape != (len(f),):
        raise DataError(f"z_spec must be ({len(f)},), one for each galaxy; got {z.shape}")
    reference = options.reference_band or photoz.prior_band
    if reference not in bands:
        raise ConfigError(
            f"the reference band of the training must be one of {', '.join(bands)}; got "
            f"{reference!r}: set reference_band"
        )
    models = models_of(bands, options=photoz) if models is None else models
    sample = _sample(f, e, bands.index(reference), z, models, options, photoz.min_mag_err)
    count = np.isfinite(sample.error).sum(axis=0)
    free = (count >= options.min_galaxies) & (np.array(bands) != reference)
    start = np.array([photoz.zero_point(b) for b in bands])
    offset = start.copy()
    covariance = np.zeros((int(free.sum()),) * 2)
    prior = np.full(len(bands), options.prior_error**-2.0)
    for _ in range(options.n_iterations):
        residual, error = _residuals(sample, offset)
        scale = np.nan_to_num(_scatter(residual, error))
        pull = np.abs(residual) / np.maximum(options.clip * scale, 1e-6)
        error = error * np.sqrt(np.maximum(pull, 1.0))
        step, covariance = _solve(residual, error, free, prior)
        offset[free] -= step
        if not free.any() or np.abs(step).max() < options.tolerance:
            break
    residual, error = _residuals(sample, offset)
    return _as_table(
        bands, offset, covariance, free, reference, residual, error, options.prior_error
    )


def _as_table(
    bands: list[str],
    offset: Float64Array,
    covariance: Float64Array,
    free: NDArray[np.bool_],
    reference: str,
    residual: Float64Array,
    error: Float64Array,
    largest: float,
) -> Table:
    sigma = np.zeros(len(bands))
    sigma[free] = np.sqrt(np.diag(covariance))
    seen = np.isfinite(error)
    messages = []
    for band, is_free, value in zip(bands, free, offset, strict=True):
        if not is_free:
            why = "the reference band" if band == reference else "too few galaxies"
            messages.append(f"stays: {why}")
        else:
            messages.append(_LARGE if abs(value) > largest else "")
    table = Table(
        {
            "band": np.array(bands, "U8"),
            "offset": offset,
            "offset_err": np.where(free, sigma, np.nan),
            "scatter": _scatter(residual, error),
            "n_galaxy": seen.sum(axis=0),
            "message": np.array(messages, "U64"),
        }
    )
    return load_schema("photozZeroPoints").apply(table)


def zero_point_entries(table: Table) -> tuple[str, ...]:
    """A table of trained zero points as ``PhotozOptions.zero_points``.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``photozZeroPoints``.

    Returns
    -------
    tuple of str
        Entries such as ``"u=-0.0400"``.
    """
    return tuple(f"{row['band']}={row['offset']:.4f}" for row in table)
