"""Metadetection: shear from catalogues that were detected and measured on sheared images.

Each cell of sky is sheared by +-0.01 in both directions (`skymill.shear.metacal`); sources are
detected and measured anew on every version. The response of the mean shape to shear,

    R_ij = (<e_i>_{j+} - <e_i>_{j-}) / (2 step),

then contains the response of shapes, of detection and of every cut, since the cuts are made in
each version of the catalogue by the same code (Sheldon et al. 2020). The shear is R^-1 <e>.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.shear._metadetect_kernels import (
    find_peaks,
    prune_peaks,
    weigh_fluxes,
    weigh_moments,
)
from skymill.shear.metacal import (
    SHEAR_TYPES,
    MetacalOptions,
    Spectrum,
    metacal,
    shear_matrix,
    target_sigma,
)

__all__ = [
    "MetadetectOptions",
    "ShearEstimate",
    "Spectrum",
    "estimate_shear",
    "metadetect_cell",
    "select_for_shear",
]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# Distance to a brighter peak [widths of the target PSF] within which a saddle is asked for.
_NEIGHBOUR = 10.0


@dataclass(frozen=True, kw_only=True)
class MetadetectOptions:
    """How sheared images are searched, measured and cut."""

    metacal: MetacalOptions = field(default_factory=MetacalOptions)
    threshold: float = option(5.0, "height of a peak", unit="sigma")
    saddle: float = option(5.0, "height of a peak over its saddle to a brighter one", unit="sigma")
    weight_scale: float = option(1.0, "width of the weight over that of the target PSF")
    iterations: int = option(4, "steps of the centre")
    max_shift: float = option(3.0, "how far a centre may move from its peak", unit="pixel")
    min_snr: float = option(12.5, "smallest signal to noise under the weight")
    min_size_ratio: float = option(1.2, "smallest size T over that of the PSF")

    def __post_init__(self) -> None:
        check_range(self, "threshold", low=0.0, low_open=True)
        check_range(self, "saddle", low=0.0)
        check_range(self, "weight_scale", low=0.5, high=4.0)
        check_range(self, "iterations", low=0, high=50)
        check_range(self, "max_shift", low=0.5)
        check_range(self, "min_snr", low=0.0)
        check_range(self, "min_size_ratio", low=0.0)


@dataclass(frozen=True)
class ShearEstimate:
    """A mean shear.

    Parameters
    ----------
    g1, g2, g1_err, g2_err : float
        Shear and its jackknife error.
    response, response_err : (2, 2) float64
        Response R_ij and its jackknife error.
    n : int
        Galaxies of the unsheared catalogue that passed the cuts.
    """

    g1: float
    g2: float
    g1_err: float
    g2_err: float
    response: Float64Array
    response_err: Float64Array
    n: int


def metadetect_cell(
    images: Float32Array,
    variances: Float32Array,
    noises: Float32Array,
    psfs: Float32Array,
    *,
    bands: tuple[str, ...],
    shear_bands: tuple[str, ...] | None = None,
    margin: int,
    types: tuple[str, ...] = tuple(SHEAR_TYPES),
    spectra: tuple[Spectrum | None, ...] | None = None,
    options: MetadetectOptions | None = None,
) -> dict[str, Table]:
    """Catalogues of one cell for each applied shear.

    Parameters
    ----------
    images : (b, n, n) float32 [nJy]
        The cell with its margin, one image a band, on one grid; masked pixels filled.
    variances : (b,) float32 [nJy2]
        Typical variance of a pixel of each band.
    noises : (b, n, n) float32 [nJy]
        A realisation of the noise of each image, independent of it.
    psfs : (b, s, s) float32
        PSF of the cell in each band.
    bands : tuple of str
        Names of the bands.
    shear_bands : tuple of str, optional
        Bands whose sum is searched and gives shapes; all if omitted.
    margin : int [pixel]
        Width of the rim whose sources belong to the neighbour's cell.
    types : tuple of str
        Which of `SHEAR_TYPES`. A catalogue does not depend on which others are made with it.
    spectra : tuple of callable, optional
        For each band the power of its noise at wave vectors (kx, ky) [radian / pixel] over that of
        white noise of its variance, or None for white noise.
    options : MetadetectOptions, optional
        Search, measurement and cuts.

    Returns
    -------
    dict of str to Table
        For each of the types: ``x``, ``y`` [pixel of the cell, with the shear undone],
        ``e1``, ``e2``, ``size_ratio``, ``snr``, ``flags`` and ``{band}_flux``,
        ``{band}_flux_err`` [nJy]: of a point source; the light of a larger one beyond the weight
        is missing, in all bands alike.

    Raises
    ------
    DataError
        If the shapes do not fit, a band is not there, or a variance is not positive.
    """
    options = options or MetadetectOptions()
    used = np.array([b in (shear_bands or bands) for b in bands])
    if shear_bands is not None and not set(shear_bands) <= set(bands):
        raise DataError(f"shear_bands {shear_bands} are not all among the bands {bands}")
    if not (np.asarray(variances) > 0).all():
        raise DataError("metadetection needs a positive variance in every band of the cell")
    sigma = target_sigma(psfs, options.metacal)
    spectra = spectra or (None,) * len(bands)
    versions: dict[str, list[Float32Array]] = {name: [] for name in types}
    for k, spectrum in enumerate(spectra):
        sheared = metacal(
            images[k], noises[k], psfs[k], sigma=sigma, spectrum=spectrum, types=types,
            options=options.metacal,
        )  # fmt: skip
        for name, image in sheared.items():
            versions[name].append(image)
    weight = np.where(used, 1.0 / np.asarray(variances, np.float64), 0.0)
    weight = (weight / weight.sum()).astype(np.float32)
    width = options.weight_scale * sigma
    size = images.shape[1]
    if size < 2 * np.ceil(4 * width) + 5:
        raise DataError(f"a cell of {size} pixels is too small for a weight of {width:.1f} pixels")
    power = [
        variances[k] * _noise_power(psfs[k], sigma, spectra[k], size) for k in range(len(bands))
    ]
    total = np.tensordot(weight.astype(np.float64) ** 2, np.array(power), 1)
    pixel_noise = float(np.sqrt(total.mean()))
    flux_noise = np.array([_flux_noise(p, width) for p in (total, *power)])
    out: dict[str, Table] = {}
    for name in types:
        out[name] = _measure(
            name, np.array(versions[name]), weight, pixel_noise, flux_noise, sigma,
            bands=bands, margin=margin, options=options,
        )  # fmt: skip
    return out


def _noise_power(
    psf: Float32Array, sigma: float, spectrum: Spectrum | None, size: int
) -> Float64Array:
    """Power (size, size) of noise of unit variance in the unsheared image, turned noise added."""
    k = 2 * np.pi * np.fft.fftfreq(size)
    transform = np.abs(np.fft.fft2(psf, (size, size))) ** 2
    target = np.exp(-(sigma**2) * (k[:, None] ** 2 + k[None, :] ** 2))
    power = target / np.maximum(transform, 1e-12 * transform[0, 0])
    if spectrum is not None:
        power = power * spectrum(*np.meshgrid(k, k))
    # A quarter turn takes [ky, kx] to [kx, -ky].
    turned = np.roll(power.T[::-1, :], 1, axis=0)
    return np.asarray(power + turned, np.float64)


def _flux_noise(power: Float64Array, width: float) -> float:
    """Scatter of the weighted flux of noise."""
    k = 2 * np.pi * np.fft.fftfreq(len(power))
    weight = np.exp(-(width**2) * (k[:, None] ** 2 + k[None, :] ** 2))
    # Of sum(w noise) / sum(w^2), with the transform 2 pi width^2 exp(-width^2 k^2 / 2) of w.
    return float(np.sqrt(4.0 * (power * weight).mean()))


def _measure(
    name: str,
    planes: Float32Array,
    weight: Float32Array,
    pixel_noise: float,
    flux_noise: Float64Array,
    sigma: float,
    *,
    bands: tuple[str, ...],
    margin: int,
    options: MetadetectOptions,
) -> Table:
    total = np.tensordot(weight, planes, 1).astype(np.float32)
    width = options.weight_scale * sigma
    capacity = total.size // 9 + 1
    px, py = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    n = find_peaks(total, np.float32(options.threshold * pixel_noise), 2, px, py)
    px, py = px[:n], py[:n]
    order = np.argsort(-total[py, px], kind="stable")
    keep = np.zeros(n, bool)
    depth = np.float32(options.saddle * pixel_noise)
    prune_peaks(total, px, py, order, depth, _NEIGHBOUR * sigma, keep)
    x, y = px[keep].astype(np.float64), py[keep].astype(np.float64)
    n = x.size
    moments = np.empty((n, 7))
    weigh_moments(total, x, y, width, options.iterations, options.max_shift, moments)
    flux, mxx, myy, mxy = (moments[:, c] for c in (0, 3, 4, 5))
    size = mxx + myy
    # A round Gaussian of the target's width under this weight: 1/T = 1/T_w + 1/T_psf.
    psf_size = 2.0 / (1.0 / sigma**2 + 1.0 / width**2)
    good = (moments[:, 6] > 0) & (size > 0)
    safe = np.where(good, size, 1.0)
    half = total.shape[0] // 2
    step = options.metacal.step
    back = np.linalg.inv(shear_matrix(*(step * d for d in SHEAR_TYPES[name])))
    place = back @ np.array([moments[:, 1] - half, moments[:, 2] - half]) + half
    inside = ((place >= margin - 0.5) & (place < total.shape[0] - margin - 0.5)).all(axis=0)
    table = Table(
        {
            "x": place[0],
            "y": place[1],
            "e1": np.where(good, (mxx - myy) / safe, 0.0),
            "e2": np.where(good, 2 * mxy / safe, 0.0),
            "size_ratio": np.where(good, size / psf_size, 0.0),
            "snr": flux / flux_noise[0],
            "flags": np.where(good, 0, 1).astype(np.int32),
        }
    )
    # From the amplitude of the weight to the flux of a point source with it.
    scale = np.pi * (width**2 + sigma**2)
    for k, band in enumerate(bands):
        value = np.empty(n)
        weigh_fluxes(planes[k], moments[:, 1], moments[:, 2], width, value)
        table[f"{band}_flux"] = scale * value
        table[f"{band}_flux_err"] = np.full(n, scale * flux_noise[1 + k])
    table.meta.update(sigma=sigma, width=width)
    return table[inside]


def select_for_shear(table: Table, options: MetadetectOptions | None = None) -> NDArray[np.bool_]:
    """Which sources count; the same cut for every version of the catalogue.

    Parameters
    ----------
    table : Table
        One of the catalogues of `metadetect_cell`.
    options : MetadetectOptions, optional
        The cuts.

    Returns
    -------
    (n,) bool
        True for sources that enter the mean shape.
    """
    options = options or MetadetectOptions()
    return np.asarray(
        (table["flags"] == 0)
        & (table["snr"] > options.min_snr)
        & (table["size_ratio"] > options.min_size_ratio)
    )


def _sums(
    catalogues: dict[str, Table], cell: str, options: MetadetectOptions, cells: NDArray[np.int64]
) -> Float64Array:
    """Sums of 1, e1, e2 per cell and version, (n_cell, 5, 3)."""
    out = np.zeros((cells.size, len(SHEAR_TYPES), 3))
    for k, name in enumerate(SHEAR_TYPES):
        table = catalogues[name]
        chosen = table[select_for_shear(table, options)]
        index = np.searchsorted(cells, chosen[cell])
        for c, value in enumerate((np.ones(len(chosen)), chosen["e1"], chosen["e2"])):
            out[:, k, c] = np.bincount(index, value, minlength=cells.size)
    return out


def _solve(sums: Float64Array, step: float) -> tuple[Float64Array, Float64Array]:
    """Shears (..., 2) and responses (..., 2, 2) from sums (..., 5, 3)."""
    mean = sums[..., 1:] / sums[..., :1]
    response = np.stack(
        [
            (mean[..., 1, :] - mean[..., 2, :]) / (2 * step),
            (mean[..., 3, :] - mean[..., 4, :]) / (2 * step),
        ],
        axis=-1,
    )
    return np.linalg.solve(response, mean[..., 0, :, None])[..., 0], response


def estimate_shear(
    catalogues: dict[str, Table] | list[dict[str, Table]],
    *,
    cell: str | None = None,
    options: MetadetectOptions | None = None,
    max_groups: int = 200,
) -> ShearEstimate:
    """Mean shear of catalogues, with jackknife errors over cells.

    Parameters
    ----------
    catalogues : dict of str to Table, or a list of them
        For each of `SHEAR_TYPES` the sources; a list is one entry a cell.
    cell : str, optional
        Column that numbers the cells, where one dict is given.
    options : MetadetectOptions, optional
        Cuts and applied shear.
    max_groups : int
        Cells are joined to at most so many groups for the jackknife.

    Returns
    -------
    ShearEstimate
        Shear, response, errors.

    Raises
    ------
    DataError
        If fewer than two cells have galaxies in every version.
    """
    options = options or MetadetectOptions()
    if isinstance(catalogues, list):
        cell = "cell"
        joined: dict[str, Table] = {}
        for name in SHEAR_TYPES:
            parts = []
            for k, one in enumerate(catalogues):
                part = one[name][["e1", "e2", "size_ratio", "snr", "flags"]]
                part["cell"] = k
                parts.append(part)
            joined[name] = vstack(parts, metadata_conflicts="silent")
        catalogues = joined
    if cell is None:
        raise DataError("estimate_shear needs the name of the column that numbers the cells")
    numbers = np.unique(np.concatenate([np.asarray(t[cell]) for t in catalogues.values()]))
    sums = _sums(catalogues, cell, options, numbers)
    groups = np.arange(numbers.size) * min(max_groups, numbers.size) // max(numbers.size, 1)
    if numbers.size < 2:
        raise DataError(f"a jackknife needs at least two cells; found {numbers.size}")
    grouped = np.zeros((groups[-1] + 1, *sums.shape[1:]))
    np.add.at(grouped, groups, sums)
    total = grouped.sum(axis=0)
    left_out = total - grouped
    if not (left_out[..., 0] > 0).all():
        raise DataError("too few galaxies passed the cuts to find the shear's response")
    shear, response = _solve(total, options.metacal.step)
    shears, responses = _solve(left_out, options.metacal.step)
    scale = (len(grouped) - 1) / len(grouped)
    error = np.sqrt(scale * ((shears - shears.mean(axis=0)) ** 2).sum(axis=0))
    response_error = np.sqrt(scale * ((responses - responses.mean(axis=0)) ** 2).sum(axis=0))
    return ShearEstimate(
        float(shear[0]),
        float(shear[1]),
        float(error[0]),
        float(error[1]),
        response,
        response_error,
        int(total[0, 0]),
    )
