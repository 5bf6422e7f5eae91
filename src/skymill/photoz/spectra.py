"""Template spectra, and their fluxes through filters over redshift."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skymill.calibrate.filters import FilterCurve, load_filters
from skymill.data.errors import ConfigError

__all__ = ["CWWSB", "FilterCurve", "ModelFluxes", "load_filters", "load_template",
           "make_model_fluxes"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: Names of the CWWSB4 templates, early to late.
CWWSB = ("El_B2004a", "Sbc_B2004a", "Scd_B2004a", "Im_B2004a", "SB2_B2004a", "SB3_B2004a",
         "ssp_25Myr_z008", "ssp_5Myr_z008")  # fmt: skip
#: Spectral class of each: 0 elliptical, 1 spiral, 2 irregular or starburst.
_CLASS = dict(zip(CWWSB, (0, 1, 1, 2, 2, 2, 2, 2), strict=True))


@dataclass(frozen=True)
class ModelFluxes:
    """Fluxes of templates over redshift.

    Parameters
    ----------
    flux : (n_band, n_template, n_z) float32
        Flux density per unit frequency, each cell scaled to a mean of one over the bands.
    z : (n_z,) float64
        Redshifts, equally spaced.
    class_weight : (n_template, 3) float64
        How much of each template is elliptical, spiral, irregular.
    bands, templates : tuple of str
        Names.
    """

    flux: NDArray[np.float32]
    z: Float64Array
    class_weight: Float64Array
    bands: tuple[str, ...]
    templates: tuple[str, ...]


@functools.cache
def _template_table() -> dict[str, tuple[Float64Array, Float64Array]]:
    path = resources.files("skymill.photoz.templates") / "cwwsb.parquet"
    with resources.as_file(path) as file:
        table = pq.read_table(file)
    name = np.asarray(table["template"].to_pylist())
    wave = table["wavelength"].to_numpy().astype(np.float64)
    flux = table["flux"].to_numpy().astype(np.float64)
    return {n: (wave[name == n], flux[name == n]) for n in CWWSB}


def load_template(name: str) -> tuple[Float64Array, Float64Array]:
    """A spectrum of the CWWSB set.

    Parameters
    ----------
    name : str
        One of `CWWSB`.

    Returns
    -------
    wavelength, flux : (n,) float64
        Angstrom; flux per unit wavelength, arbitrary scale.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in CWWSB:
        raise ConfigError(f"template must be one of {', '.join(CWWSB)}; got {name!r}")
    return _template_table()[name]


def _band_fluxes(
    wave: Float64Array, flux: Float64Array, curve: FilterCurve, z: Float64Array
) -> Float64Array:
    """Mean F_nu through a band at each redshift, without the common factor of the amplitude."""
    # Quadrature on the finer of the filter's and the spectrum's sampling.
    step = min(np.median(np.diff(curve.wavelength)), 10.0)
    grid = np.arange(curve.wavelength[0], curve.wavelength[-1] + step, step)
    through = np.interp(grid, curve.wavelength, curve.throughput, left=0.0, right=0.0)
    weight = through * grid * step
    norm = float(np.sum(through / grid) * step)
    out = np.empty(len(z))
    for i, redshift in enumerate(z):
        out[i] = np.dot(np.interp(grid / (1.0 + redshift), wave, flux, left=0, right=0), weight)
    return out / norm


def make_model_fluxes(
    filters: Sequence[FilterCurve],
    *,
    z: Float64Array,
    templates: Sequence[str] = CWWSB,
    n_interpolate: int = 2,
) -> ModelFluxes:
    """Fluxes of the templates, and of mixtures of neighbours, over redshift.

    Parameters
    ----------
    filters : sequence of FilterCurve
        Bands.
    z : (n_z,) float64
        Redshifts, equally spaced.
    templates : sequence of str
        Names of the templates, neighbours similar.
    n_interpolate : int
        Mixtures put between each pair of neighbours, linear in flux.

    Returns
    -------
    ModelFluxes
        ``len(templates) + (len(templates) - 1) * n_interpolate`` templates.
    """
    if not 0 <= n_interpolate <= 20:
        raise ConfigError(f"n_interpolate must be from 0 to 20; got {n_interpolate}")
    base = np.empty((len(filters), len(templates), len(z)))
    for t, name in enumerate(templates):
        wave, flux = load_template(name)
        # Neighbours mix at equal flux near 4500 Angstrom at rest, as the files are normalised.
        for b, curve in enumerate(filters):
            base[b, t] = _band_fluxes(wave, flux, curve, z)
    classes = np.eye(3)[[_CLASS[name] for name in templates]]
    position = np.linspace(
        0, len(templates) - 1, len(templates) + (len(templates) - 1) * n_interpolate
    )
    low = np.minimum(position.astype(int), max(len(templates) - 2, 0))
    high = np.minimum(low + 1, len(templates) - 1)
    f = position - low
    mixed = base[:, low] * (1 - f)[None, :, None] + base[:, high] * f[None, :, None]
    mean = mixed.mean(axis=0)
    mixed /= np.where(mean > 0, mean, 1.0)
    return ModelFluxes(
        flux=np.ascontiguousarray(mixed, dtype=np.float32),
        z=np.asarray(z, np.float64),
        class_weight=classes[low] * (1 - f)[:, None] + classes[high] * f[:, None],
        bands=tuple(c.band for c in filters),
        templates=tuple(templates),
    )
