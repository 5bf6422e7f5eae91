"""Bayesian photometric redshifts from templates (the method of Benitez 2000)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.flags import PhotozFlag
from skymill.data.tables import load_schema
from skymill.data.units import magnitude_from_njy
from skymill.photoz._kernels import posterior, summarise
from skymill.photoz.options import PhotozOptions, parse_filters
from skymill.photoz.priors import prior_of_classes
from skymill.photoz.spectra import FilterCurve, ModelFluxes, load_filters, make_model_fluxes
from skymill.photoz.storage import encode_pz

__all__ = ["PhotozOptions", "checked_fluxes", "estimate_photoz", "models_of"]

_BLOCK_Z = 256
_BLOCK_GALAXIES = 16
_MAGNITUDE_STEP = 0.05


@functools.lru_cache(maxsize=4)
def _camera_models(
    camera: str,
    filters: tuple[str, ...],
    bands: tuple[str, ...],
    z: tuple[float, float, float],
    n: int,
) -> ModelFluxes:
    curves = load_filters(camera, bands, other=parse_filters(filters))
    z_min, z_max, dz = z
    return make_model_fluxes(curves, z=np.arange(z_min, z_max + 0.5 * dz, dz), n_interpolate=n)


def models_of(bands: Sequence[str], *, options: PhotozOptions = PhotozOptions()) -> ModelFluxes:
    """Model fluxes of the camera's bands on the grid of the options; kept for the next call.

    Parameters
    ----------
    bands : sequence of str
        Names of the bands.
    options : PhotozOptions
        Camera, filters, templates, grid.

    Returns
    -------
    ModelFluxes
        The fluxes.
    """
    grid = (options.z_min, options.z_max, options.dz)
    return _camera_models(
        options.camera, options.filters, tuple(bands), grid, options.n_interpolate
    )


def _prior_magnitudes(
    flux: NDArray[np.float64], bands: Sequence[str], options: PhotozOptions
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint32]]:
    """Magnitude for the prior: of its band, else of the nearest other band, else NaN; the band."""
    names = list(bands)
    first = names.index(options.prior_band) if options.prior_band in names else len(names) - 1
    magnitude = magnitude_from_njy(flux)
    out = np.full(len(flux), np.nan)
    band = np.full(len(flux), -1, np.int64)
    for b in sorted(range(len(bands)), key=lambda b: abs(b - first)):
        use = (band < 0) & np.isfinite(magnitude[:, b])
        out[use], band[use] = magnitude[use, b], b
    flags = np.zeros(len(flux), dtype=np.uint32)
    wanted = first if bands[first] == options.prior_band else -2
    flags[band != wanted] |= np.uint32(PhotozFlag.PRIOR_OTHER_BAND)
    flags[band < 0] |= np.uint32(PhotozFlag.NO_PRIOR)
    return out, band, flags


def _smoothing_kernel(options: PhotozOptions) -> NDArray[np.float32]:
    half = int(np.ceil(3.0 * options.smoothing / options.dz))
    if half == 0:
        return np.ones(1, np.float32)
    x = np.arange(-half, half + 1) * options.dz / options.smoothing
    kernel = np.exp(-0.5 * x * x)
    return (kernel / kernel.sum()).astype(np.float32)


def checked_fluxes(
    flux: ArrayLike, flux_err: ArrayLike, bands: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fluxes and errors as arrays of one shape.

    Parameters
    ----------
    flux, flux_err : (n, n_band) float64 [nJy]
        Fluxes and errors.
    bands : sequence of str
        Names of the bands.

    Returns
    -------
    flux, flux_err : (n, n_band) float64 [nJy]
        The same.

    Raises
    ------
    DataError
        If the shapes do not agree.
    """
    f = np.atleast_2d(np.asarray(flux, np.float64))
    e = np.atleast_2d(np.asarray(flux_err, np.float64))
    if f.shape != e.shape or f.shape[1] != len(bands):
        raise DataError(
            f"flux and flux_err must be (n, {len(bands)}) for bands {', '.join(bands)}; got "
            f"{f.shape} and {e.shape}"
        )
    return f, e


def estimate_photoz(
    flux: ArrayLike,
    flux_err: ArrayLike,
    *,
    bands: Sequence[str],
    options: PhotozOptions = PhotozOptions(),
    filters: Sequence[FilterCurve] | None = None,
    models: ModelFluxes | None = None,
) -> Table:
    """Photometric redshifts with their p(z).

    Parameters
    ----------
    flux, flux_err : (n, n_band) float64 [nJy]
        Fluxes (negative ones too: an upper limit is a flux near zero with its error). A band that
        was not observed is NaN or has an error that is not positive.
    bands : sequence of str
        Names of the bands.
    options : PhotozOptions
        Templates, prior, grid.
    filters : sequence of FilterCurve, optional
        Curves of the bands; those of the camera if omitted.
    models : ModelFluxes, optional
        Model fluxes computed before, for many calls with the same bands.

    Returns
    -------
    astropy.table.Table
        Schema ``photoz`` without ``ID``; NaN with a flag where there is no estimate.

    Raises
    ------
    DataError
        If the shapes do not agree, or fewer than two bands are measured anywhere. A single band
        that is measured nowhere has no weight, and stands in the metadata as ``bands_absent``.

    References
    ----------
    Benitez 2000, ApJ 536, 571.
    """
    bands = list(bands)
    f, e = checked_fluxes(flux, flux_err, bands)
    measured = np.any(np.isfinite(f) & np.isfinite(e) & (e > 0), axis=0)
    if len(f) and measured.sum() < 2:
        raise DataError(
            f"photo-z need at least 2 bands that are measured somewhere; of {', '.join(bands)} "
            f"there is {', '.join(np.asarray(bands)[measured]) or 'none'}"
        )
    factor = np.array([10.0 ** (-0.4 * options.zero_point(band)) for band in bands])
    f, e = f * factor, e * factor
    if models is None:
        if filters is not None:
            models = make_model_fluxes(filters, z=options.z, n_interpolate=options.n_interpolate)
        else:
            models = models_of(bands, options=options)
    return _estimate(f, e, bands=bands, options=options, models=models)


def _scaled(
    f: NDArray[np.float64], e: NDArray[np.float64], options: PhotozOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Fluxes in units of each galaxy's largest, inverse variances, counts of bands, the units."""
    good = np.isfinite(f) & np.isfinite(e) & (e > 0)
    value = np.where(good, f, 0.0)
    extra = options.min_mag_err * np.log(10.0) / 2.5 * np.abs(value)
    variance = np.where(good, e**2 + extra**2, 1.0)
    scale = np.maximum(np.abs(value).max(axis=1), 1e-30)
    weight = np.where(good, scale[:, None] ** 2 / variance, 0.0)
    return (
        (value / scale[:, None]).astype(np.float32),
        weight.astype(np.float32),
        good.sum(axis=1),
        scale,
    )


class _Posteriors(NamedTuple):
    """Numbers, binned p(z), and the most likely template and redshift of each galaxy."""

    numbers: NDArray[np.float64]
    bins: NDArray[np.float32]
    likely: NDArray[np.int64]
    likely_chi2: NDArray[np.float32]
    per_bin: int


def _cells(magnitude: NDArray[np.float64]) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Galaxies whose prior is the same: magnitude of the prior (NaN if unknown) and rows."""
    cells = np.where(np.isfinite(magnitude), np.rint(magnitude / _MAGNITUDE_STEP), 10_000).astype(
        np.int64
    )
    order = np.argsort(cells, kind="stable")
    if not len(order):
        return
    for rows in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        cell = cells[rows[0]]
        yield (np.nan if cell == 10_000 else float(cell * _MAGNITUDE_STEP)), rows


def _posteriors(
    flux: NDArray[np.float32],
    weight: NDArray[np.float32],
    magnitude: NDArray[np.float64],
    anchor: NDArray[np.int64],
    *,
    options: PhotozOptions,
    models: ModelFluxes,
) -> _Posteriors:
    n, z = len(flux), models.z
    share = models.class_weight.sum(axis=0)
    mix = models.class_weight / np.where(share > 0, share, 1.0)
    per_bin = max(round(options.bin_width / options.dz), 1)
    n_bin = -(-len(z) // per_bin)
    out = _Posteriors(
        numbers=np.empty((n, 7)),
        bins=np.empty((n, n_bin), np.float32),
        likely=np.empty((n, 2), np.int64),
        likely_chi2=np.empty(n, np.float32),
        per_bin=per_bin,
    )
    model = np.ascontiguousarray(models.flux, np.float32)
    kernel = _smoothing_kernel(options)
    smooth = np.empty(len(z) + len(kernel) - 1, np.float32)
    p = np.empty((_BLOCK_GALAXIES, len(z)), np.float32)
    ref = np.empty((_BLOCK_GALAXIES, -(-len(z) // _BLOCK_Z)), np.float32)
    for at, members in _cells(magnitude):
        classes = prior_of_classes(options.prior, magnitude=at, z=z, cut=options.prior_cut)
        prior = (mix @ classes * len(z)).astype(np.float32)
        for i in range(0, len(members), _BLOCK_GALAXIES):
            rows = members[i : i + _BLOCK_GALAXIES]
            k = len(rows)
            found, least = np.empty((k, 2), np.int64), np.empty(k, np.float32)
            posterior(flux[rows], weight[rows], model, prior, anchor[rows], _BLOCK_Z, p[:k],
                      ref[:k], found, least)  # fmt: skip
            some, part = np.empty((k, 7)), np.empty((k, n_bin), np.float32)
            summarise(p[:k], z, kernel, options.odds_width, per_bin, smooth, some, part)
            out.numbers[rows], out.bins[rows] = some, part
            out.likely[rows], out.likely_chi2[rows] = found, least
    return out


def _estimate(
    f: NDArray[np.float64],
    e: NDArray[np.float64],
    *,
    bands: Sequence[str],
    options: PhotozOptions,
    models: ModelFluxes,
) -> Table:
    z = models.z
    flux, weight, n_band, _ = _scaled(f, e, options)
    magnitude, anchor, flags = _prior_magnitudes(np.where(weight > 0, f, np.nan), bands, options)
    if options.likelihood == "profile":
        anchor = np.full_like(anchor, -1)
    found = _posteriors(flux, weight, magnitude, anchor, options=options, models=models)
    numbers = found.numbers
    good = (numbers[:, 6] > 0) & (n_band >= 2)
    mode = numbers[:, 0].astype(np.int64)
    template, modified = _template_at(flux, weight, models, mode, n_band)
    flags[n_band < 3] |= np.uint32(PhotozFlag.FEW_BANDS)
    flags[~good] |= np.uint32(PhotozFlag.NO_ESTIMATE)
    flags[good & ((mode <= 1) | (mode >= len(z) - 2))] |= np.uint32(PhotozFlag.AT_LIMIT)
    found.bins[~good] = 0.0
    middle = z[0] + options.dz * (found.per_bin - 1) / 2.0

    def masked(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(good, values, np.nan)

    table = Table(
        {
            "z_phot": masked(z[mode]),
            "z_median": masked(numbers[:, 1]),
            "z_mean": masked(numbers[:, 2]),
            "z_ml": masked(z[found.likely[:, 1]]),
            "z_low": masked(numbers[:, 3]),
            "z_high": masked(numbers[:, 4]),
            "odds": masked(numbers[:, 5]),
            "template": np.where(good, template, -1),
            "template_ml": np.where(good, found.likely[:, 0], -1),
            "chi2": masked(found.likely_chi2.astype(np.float64)),
            "mod_chi2": masked(modified),
            "n_band": n_band,
            "prior_mag": magnitude,
            "photoz_flags": flags,
            "pz": encode_pz(found.bins),
            "pz_z0": np.full(len(f), middle),
            "pz_dz": np.full(len(f), found.per_bin * options.dz),
        }
    )
    table = load_schema("photoz").apply(table)
    table.meta["bands"] = ",".join(bands)
    table.meta["bands_absent"] = ",".join(np.asarray(bands)[~(weight > 0).any(axis=0)])
    return table


def _template_at(
    flux: NDArray[np.float32],
    weight: NDArray[np.float32],
    models: ModelFluxes,
    index: NDArray[np.int64],
    n_band: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Best template at one redshift for each galaxy, and the modified chi2 there."""
    n = len(flux)
    template, modified = np.zeros(n, np.int64), np.full(n, np.nan)
    for start in range(0, n, 4096):
        s = slice(start, start + 4096)
        model = models.flux[:, :, index[s]].transpose(2, 1, 0).astype(np.float64)  # (k, T, band)
        w, f = weight[s, None, :].astype(np.float64), flux[s, None, :].astype(np.float64)
        amplitude = (w * f * model).sum(-1) / np.maximum((w * model**2).sum(-1), 1e-300)
        fitted = np.maximum(amplitude, 0.0)[..., None] * model
        chi2 = (w * (f - fitted) ** 2).sum(-1)
        template[s] = chi2.argmin(axis=1)
        best = np.take_along_axis(fitted, template[s][:, None, None], axis=1)[:, 0]
        used = w[:, 0] > 0
        softening = (np.where(used, best, 0).max(axis=1, keepdims=True) / 15.0) ** 2
        variance = 1.0 / np.where(used, w[:, 0], 1.0) + softening
        total = np.where(used, (f[:, 0] - best) ** 2 / variance, 0.0).sum(axis=1)
        modified[s] = total / np.maximum(n_band[s] - 3, 1)
    return template, modified
