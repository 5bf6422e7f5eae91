"""The catalogue of one band of a coadd: deblended sources, measured freely or at given places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf
from skymill.measure._kron_kernels import blendedness
from skymill.measure._psf_flux_kernels import fit_stamps
from skymill.measure.aperture import ApertureOptions, aperture_fluxes
from skymill.measure.centroid import CentroidOptions, Centroids, centroids
from skymill.measure.deblend import Children, ChildStamps, cut_stamps, total_model
from skymill.measure.kron import KronOptions, kron_fluxes
from skymill.measure.moments import (
    Moments,
    MomentsOptions,
    adaptive_moments,
    adaptive_moments_stamps,
)
from skymill.measure.pixels import REPAIRED, SATURATED, UNUSABLE_BITS, clean_image
from skymill.measure.psf_flux import draw_at
from skymill.measure.saturation import fit_centres
from skymill.measure.shear_shape import regauss_shapes
from skymill.model.galaxy import (
    GalaxyOptions,
    PsfMixtures,
    Windows,
    composite_fluxes,
    fit_composite_galaxies,
    psf_mixtures,
)

__all__ = ["FlatObjectOptions", "ObjectOptions", "force_objects", "measure_objects"]

_SIZES = (61, 121, 241, 481)
_PIXELS_AT_ONCE = 4_000_000
#: Radius within which a masked core touches every flux [pixel].
_CORE = 6.0


@dataclass(frozen=True, kw_only=True)
class FlatObjectOptions:
    """What follows from the fluxes, and what may be left out."""

    star_flux_ratio: float = option(0.985, "PSF flux over model flux from which it is a star")
    do_shear_shape: bool = option(True, "measure PSF-corrected shapes (re-Gaussianization)")

    def __post_init__(self) -> None:
        check_range(self, "star_flux_ratio", low=0.0, high=1.5)


@dataclass(frozen=True, kw_only=True)
class ObjectOptions(FlatObjectOptions):
    """What is measured on a coadd, and how."""

    aperture: ApertureOptions = field(default_factory=ApertureOptions)
    moments: MomentsOptions = field(default_factory=MomentsOptions)
    centroid: CentroidOptions = field(default_factory=CentroidOptions)
    kron: KronOptions = field(default_factory=KronOptions)
    galaxy: GalaxyOptions = field(default_factory=GalaxyOptions)


@dataclass
class _Batch:
    """Sources whose stamps have one size, on one sheet."""

    index: NDArray[np.int64]
    stamps: ChildStamps
    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    good: NDArray[np.bool_]


@dataclass
class _Scene:
    """One band with its deblended sources."""

    planes: PixelPlanes
    psf: Psf
    origin: tuple[int, int]
    children: Children
    band: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    psf_sigma: float
    rng: np.random.Generator
    mixtures: PsfMixtures

    def batches(self) -> Iterator[_Batch]:
        """Sheets of all sources, small stamps first."""
        planes = self.planes
        known = np.isfinite(planes.variance) & (planes.variance > 0)
        image = np.ascontiguousarray(planes.image, np.float32)
        _, mask = clean_image(image, np.ascontiguousarray(planes.mask, np.int32))
        image = np.where(np.isfinite(image), image, np.float32(0.0))
        variance = np.where(known, planes.variance, np.float32(0.0)).astype(np.float32)
        total = total_model(self.children, band=self.band, shape=planes.shape)
        # Noise takes the place of sources: elsewhere it is not needed.
        noise, taken = np.zeros(planes.shape, np.float32), total > 0
        drawn = self.rng.standard_normal(np.count_nonzero(taken), np.float32)
        noise[taken] = drawn * np.sqrt(variance[taken])
        sizes = _stamp_sizes(self.children, self.x, self.y)
        for size in _SIZES:
            members = np.flatnonzero(sizes == size)
            step = max(1, _PIXELS_AT_ONCE // size**2)
            for first in range(0, members.size, step):
                index = members[first : first + step]
                stamps = cut_stamps(
                    self.children,
                    index,
                    image,
                    variance,
                    mask,
                    band=self.band,
                    x=self.x,
                    y=self.y,
                    size=size,
                    noise=noise,
                    total=total,
                )
                bad = ((stamps.mask & UNUSABLE_BITS) != 0) & ((stamps.mask & REPAIRED) == 0)
                bad |= (stamps.mask & SATURATED) != 0
                yield _Batch(index, stamps, stamps.image, stamps.mask, ~bad)


def measure_objects(
    planes: PixelPlanes,
    *,
    psf: Psf,
    psf_sigma: float,
    children: Children,
    band: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rng: np.random.Generator,
    origin: tuple[int, int] = (0, 0),
    options: ObjectOptions = ObjectOptions(),
) -> Table:
    """Measure each child in one band.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels.
    psf : Psf
        PSF as a function of the image's pixel plus ``origin``.
    psf_sigma : float [pixel]
        Gaussian width of the PSF.
    children : Children
        Deblended sources.
    band : str
        Band of the pixels, one of ``children.bands``.
    x, y : (n,) float64 [pixel]
        Peaks in the image.
    rng : numpy.random.Generator
        For the noise that takes the place of neighbours.
    origin : (int, int) [pixel]
        Position (x, y) of the image's first pixel in the tract.
    options : ObjectOptions
        Measurements.

    Returns
    -------
    astropy.table.Table
        One row for each child, in their order, with positions in tract pixels.
    """
    mixtures = psf_mixtures(psf, x=x + origin[0], y=y + origin[1], options=options.galaxy)
    scene = _Scene(planes, psf, origin, children, band, x, y, psf_sigma, rng, mixtures)
    out: dict[str, NDArray[np.generic]] = {}
    for batch in scene.batches():
        _store(out, batch.index, _measure_batch(scene, batch, options), len(children))
    return _table(out, scene, options)


def force_objects(
    planes: PixelPlanes,
    *,
    psf: Psf,
    psf_sigma: float,
    children: Children,
    band: str,
    reference: Table,
    rng: np.random.Generator,
    origin: tuple[int, int] = (0, 0),
    options: ObjectOptions = ObjectOptions(),
) -> Table:
    """Measure each child in one band at the place and with the shape of a reference.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels.
    psf : Psf
        PSF as a function of the image's pixel plus ``origin``.
    psf_sigma : float [pixel]
        Gaussian width of the PSF.
    children : Children
        Deblended sources.
    band : str
        Band of the pixels.
    reference : astropy.table.Table
        A table of `measure_objects`, a row for each child.
    rng : numpy.random.Generator
        For the noise that takes the place of neighbours.
    origin : (int, int) [pixel]
        Position (x, y) of the image's first pixel in the tract.
    options : ObjectOptions
        Measurements.

    Returns
    -------
    astropy.table.Table
        PSF, aperture, Kron and model fluxes; extendedness from their ratio.
    """
    x = np.asarray(reference["x"], np.float64) - origin[0]
    y = np.asarray(reference["y"], np.float64) - origin[1]
    mixtures = psf_mixtures(psf, x=x + origin[0], y=y + origin[1], options=options.galaxy)
    scene = _Scene(planes, psf, origin, children, band, x, y, psf_sigma, rng, mixtures)
    out: dict[str, NDArray[np.generic]] = {}
    for batch in scene.batches():
        values = _force_batch(scene, batch, reference[batch.index], options)
        _store(out, batch.index, values, len(children))
    return _table(out, scene, options, forced=True)


def _stamp_sizes(
    children: Children, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Smallest stamp that holds the template, or the largest that there is."""
    reach = np.maximum.reduce([x - children.x0, y - children.y0, children.x1 - x, children.y1 - y])
    # The brightest child of a blend has a floor all over its parent.
    reach = np.where(children.n_siblings > 1, np.minimum(reach, 120.0), reach)
    sizes = np.array(_SIZES)
    position = np.searchsorted(sizes // 2, reach)
    return sizes[np.minimum(position, sizes.size - 1)]


def _store(
    out: dict[str, NDArray[np.generic]],
    index: NDArray[np.int64],
    values: dict[str, NDArray[np.generic]],
    n: int,
) -> None:
    for name, value in values.items():
        if name not in out:
            out[name] = np.zeros(n, value.dtype)
        out[name][index] = value


def _measure_batch(
    scene: _Scene, batch: _Batch, options: ObjectOptions
) -> dict[str, NDArray[np.generic]]:
    """Every column of the free measurement for one sheet."""
    stamps, index = batch.stamps, batch.index
    planes = (batch.image, stamps.variance, batch.mask)
    centre = centroids(
        *planes,
        x=scene.x[index] + stamps.offset_x,
        y=scene.y[index] + stamps.offset_y,
        sigma=scene.psf_sigma,
        options=options.centroid,
    )
    _centre_saturated(scene, batch, centre)
    sx, sy = centre.x, centre.y
    half = np.full(index.size, stamps.size // 2, np.int64)
    x, y = sx - stamps.offset_x, sy - stamps.offset_y
    shape = adaptive_moments(*planes, x=sx, y=sy, sigma=scene.psf_sigma, options=options.moments)
    _flag_overflow(shape, stamps.size)
    psf_stamps = scene.psf.draw(x=x + scene.origin[0], y=y + scene.origin[1])
    star = adaptive_moments_stamps(psf_stamps, sigma=scene.psf_sigma)
    psf_at = scene.mixtures.at(index)
    out: dict[str, NDArray[np.generic]] = {
        "x": x + scene.origin[0],
        "y": y + scene.origin[1],
        "x_err": centre.x_err,
        "y_err": centre.y_err,
        "centroid_flags": centre.flags,
        "shape_flags": shape.flags,
    }
    for name in ("ixx", "iyy", "ixy"):
        out[name] = getattr(shape, name)
        out[f"{name}Err"] = getattr(shape, f"{name}_err")
        out[f"{name}PSF"] = getattr(star, name)
    _fluxes(out, scene, batch, sx, sy, options)
    moments = _safe_moments(shape, star)
    _kron(out, batch, sx, sy, moments, half, None, options)
    _galaxy(out, batch, sx, sy, moments, star, psf_at, scene.psf_sigma, options)
    blend = np.empty(index.size)
    blendedness(
        batch.image,
        np.ascontiguousarray(scene.planes.image, np.float32),
        sx,
        sy,
        stamps.offset_x,
        stamps.offset_y,
        moments,
        half.astype(np.float64),
        blend,
    )
    out["blendedness"] = blend
    if options.do_shear_shape:
        _shear_shape(out, batch, sx, sy, shape, half, psf_stamps, star)
    return out


def _centre_saturated(scene: _Scene, batch: _Batch, centre: Centroids) -> None:
    """Centres of stars with a saturated core from the light around it, written in place."""
    stamps = batch.stamps
    col = np.floor(centre.x + 0.5).astype(np.int64)
    row = np.floor(centre.y + 0.5).astype(np.int64)
    core = np.zeros(centre.x.size, bool)
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            v = np.clip(row + dv, 0, batch.mask.shape[0] - 1)
            u = np.clip(col + du, 0, batch.mask.shape[1] - 1)
            core |= (batch.mask[v, u] & SATURATED) != 0
    k = np.flatnonzero(core)
    if k.size == 0:
        return
    # From the peak: the centroid was drawn to the rim of the core.
    x, y = scene.x[batch.index[k]], scene.y[batch.index[k]]
    stamp_x, stamp_y = x + stamps.offset_x[k], y + stamps.offset_y[k]
    dx, dy, x_err, y_err, done = fit_centres(
        batch.image,
        stamps.variance,
        batch.good,
        x=x + scene.origin[0],
        y=y + scene.origin[1],
        stamp_x=stamp_x,
        stamp_y=stamp_y,
        psf=scene.psf,
    )
    centre.x[k], centre.y[k] = stamp_x + dx, stamp_y + dy
    centre.x_err[k], centre.y_err[k] = x_err, y_err
    shifted = np.uint32(int(MeasureFlag.CENTROID_SHIFTED))
    failed = np.uint32(int(MeasureFlag.NOT_CONVERGED))
    flags = centre.flags[k] & ~(shifted | failed) | np.uint32(int(MeasureFlag.SATURATED))
    centre.flags[k] = np.where(done, flags, flags | failed)


def _force_batch(
    scene: _Scene, batch: _Batch, reference: Table, options: ObjectOptions
) -> dict[str, NDArray[np.generic]]:
    """Every column of the forced measurement for one sheet."""
    stamps, index = batch.stamps, batch.index
    sx, sy = scene.x[index] + stamps.offset_x, scene.y[index] + stamps.offset_y
    half = np.full(index.size, stamps.size // 2, np.int64)
    out: dict[str, NDArray[np.generic]] = {}
    _fluxes(out, scene, batch, sx, sy, options)
    moments = _columns(reference, "ixx", "iyy", "ixy")
    star = _columns(reference, "ixxPSF", "iyyPSF", "ixyPSF")
    moments = np.where(np.isfinite(moments), moments, star)
    _kron(out, batch, sx, sy, moments, half, np.asarray(reference["kronRad"]), options)
    psf_at = scene.mixtures.at(index)
    composite = composite_fluxes(
        _windows(batch, sx, sy, _window(moments, half), psf_at),
        exp_shape=_columns(reference, "expIxx", "expIyy", "expIxy"),
        dev_shape=_columns(reference, "devIxx", "devIyy", "devIxy"),
        fraction=np.nan_to_num(np.asarray(reference["fracDev"], np.float64)),
    )
    out["cModelFlux"], out["cModelFluxErr"] = composite.flux, composite.flux_err
    out["cModelFlux_flags"] = composite.flags
    return out


def _columns(table: Table, *names: str) -> NDArray[np.float64]:
    return np.stack([np.asarray(table[name], np.float64) for name in names], axis=1)


def _flag_overflow(shape: Moments, size: int) -> None:
    """Moments whose weight leaves the stamp saw pixels of the next one."""
    reach = 5.0 * np.sqrt(np.fmax(shape.ixx, shape.iyy))
    shape.flags[reach > 0.5 * size] |= np.uint32(int(MeasureFlag.EDGE))


def _safe_moments(shape: Moments, star: Moments) -> NDArray[np.float64]:
    """Moments of the source, or of the PSF where they failed."""
    own = np.stack([shape.ixx, shape.iyy, shape.ixy], axis=1)
    point = np.stack([star.ixx, star.iyy, star.ixy], axis=1)
    return np.ascontiguousarray(np.where(np.isfinite(own), own, point))


def _fluxes(
    out: dict[str, NDArray[np.generic]],
    scene: _Scene,
    batch: _Batch,
    sx: NDArray[np.float64],
    sy: NDArray[np.float64],
    options: ObjectOptions,
) -> None:
    """Columns of PSF and aperture fluxes."""
    stamps = batch.stamps
    n = sx.size
    size = min(scene.psf.stamp_size, stamps.size)
    psf_stamps, ix, iy = draw_at(
        scene.psf,
        x=sx - stamps.offset_x,
        y=sy - stamps.offset_y,
        size=size,
        origin=scene.origin,
    )
    flux, flux_err, chi2 = np.empty(n), np.empty(n), np.empty(n)
    n_pixel, flags = np.empty(n, np.int64), np.zeros(n, np.uint32)
    fit_stamps(
        batch.image,
        stamps.variance,
        batch.mask,
        UNUSABLE_BITS,
        REPAIRED,
        SATURATED,
        ix + stamps.offset_x,
        iy + stamps.offset_y,
        psf_stamps,
        flux,
        flux_err,
        chi2,
        n_pixel,
        flags,
    )
    out["psfFlux"], out["psfFluxErr"], out["psfFlux_flags"] = flux, flux_err, flags
    circles = aperture_fluxes(
        batch.image, stamps.variance, batch.mask, x=sx, y=sy, options=options.aperture
    )
    for j, radius in enumerate(circles.radii):
        name = f"ap{round(radius):02d}Flux"
        out[name], out[f"{name}Err"] = circles.flux[:, j], circles.flux_err[:, j]
        out[f"{name}_flags"] = circles.flags[:, j]
    out["core_flags"] = circles.flags[:, int(np.argmax(circles.radii >= _CORE))] & np.uint32(
        int(MeasureFlag.SATURATED | MeasureFlag.INTERPOLATED | MeasureFlag.UNUSABLE_CENTRE)
    )


def _kron(
    out: dict[str, NDArray[np.generic]],
    batch: _Batch,
    sx: NDArray[np.float64],
    sy: NDArray[np.float64],
    moments: NDArray[np.float64],
    half: NDArray[np.int64],
    radius: NDArray[np.float64] | None,
    options: ObjectOptions,
) -> None:
    """Columns of the Kron flux."""
    kron = kron_fluxes(
        batch.image,
        batch.stamps.variance,
        batch.mask,
        x=sx,
        y=sy,
        moments=moments,
        half=half,
        radius=radius,
        options=options.kron,
    )
    out["kronRad"], out["kronFlux"], out["kronFluxErr"] = kron.radius, kron.flux, kron.flux_err
    out["kronFlux_flags"] = kron.flags


def _window(moments: NDArray[np.float64], half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Half width of the window in which models are fitted: five sigma, at least 12 pixel."""
    reach = np.ceil(5.0 * np.sqrt(np.fmax(moments[:, 0], moments[:, 1])))
    reach = np.clip(np.nan_to_num(reach, nan=12.0), 12.0, 120.0).astype(np.int64)
    return np.minimum(reach, half - 2)


def _windows(
    batch: _Batch,
    sx: NDArray[np.float64],
    sy: NDArray[np.float64],
    half: NDArray[np.int64],
    psf_at: PsfMixtures,
) -> Windows:
    """Pixels of the sheet about its galaxies."""
    return Windows(batch.image, batch.stamps.variance, batch.good, sx, sy, half, psf_at)


def _galaxy(
    out: dict[str, NDArray[np.generic]],
    batch: _Batch,
    sx: NDArray[np.float64],
    sy: NDArray[np.float64],
    moments: NDArray[np.float64],
    star: Moments,
    psf_at: PsfMixtures,
    psf_sigma: float,
    options: ObjectOptions,
) -> None:
    """Columns of the galaxy models."""
    widest = np.full(sx.size, batch.stamps.size // 2 - 2, np.int64)
    point = np.stack([star.ixx, star.iyy, star.ixy], axis=1)
    excess = moments - np.where(np.isfinite(point), point, psf_sigma**2)
    floor = 0.05 * psf_sigma**2
    excess[:, :2] = np.maximum(excess[:, :2], floor)
    galaxies = fit_composite_galaxies(
        _windows(batch, sx, sy, _window(moments, widest + 2), psf_at),
        widest=widest,
        start=1.7 * excess,
        options=options.galaxy,
    )
    fits, composite = {"exp": galaxies.exp, "dev": galaxies.dev}, galaxies.total
    for profile, fit in fits.items():
        out[f"{profile}Flux"], out[f"{profile}FluxErr"] = fit.flux, fit.flux_err
        for j, name in enumerate(("Ixx", "Iyy", "Ixy")):
            out[f"{profile}{name}"] = fit.shape[:, j]
        out[f"{profile}Radius"] = fit.radius
        out[f"{profile}_flags"] = fit.flags
    # The shapes are those of the two fits: their uncertainty widens the error as it does there.
    with np.errstate(divide="ignore", invalid="ignore"):
        inflation = [
            np.where(fit.fixed_err > 0, (fit.flux_err / fit.fixed_err) ** 2, 1.0)
            for fit in fits.values()
        ]
    share = composite.fraction
    widening = np.sqrt((1.0 - share) * inflation[0] + share * inflation[1])
    out["cModelFlux"], out["cModelFluxErr"] = composite.flux, composite.flux_err * widening
    out["fracDev"] = composite.fraction
    # A profile without a share of the flux has no say.
    none = np.uint32(0)
    out["cModelFlux_flags"] = (
        composite.flags
        | np.where(share < 1.0, fits["exp"].flags, none)
        | np.where(share > 0.0, fits["dev"].flags, none)
    )


def _shear_shape(
    out: dict[str, NDArray[np.generic]],
    batch: _Batch,
    sx: NDArray[np.float64],
    sy: NDArray[np.float64],
    shape: Moments,
    half: NDArray[np.int64],
    psf_stamps: NDArray[np.float32],
    star: Moments,
) -> None:
    """Columns of the PSF-corrected shape."""
    # Each row of the sheet belongs to one stamp: a window within ``half - 3`` never leaves it.
    result = regauss_shapes(
        batch.image,
        batch.stamps.variance,
        batch.good,
        x=sx,
        y=sy,
        half=half - 3,
        moments=np.stack([shape.ixx, shape.iyy, shape.ixy], axis=1),
        psf_stamps=psf_stamps,
        psf_moments=np.stack([star.ixx, star.iyy, star.ixy], axis=1),
    )
    out["hsmE1"], out["hsmE2"] = result.e1, result.e2
    out["hsmSigmaE"], out["hsmResolution"] = result.sigma_e, result.resolution
    out["hsm_flags"] = result.flags


def _table(
    out: dict[str, NDArray[np.generic]],
    scene: _Scene,
    options: ObjectOptions,
    *,
    forced: bool = False,
) -> Table:
    """Columns common to both tables, and what follows from the fluxes."""
    n = len(scene.children)
    table = Table()
    table["id"] = np.arange(n, dtype=np.int64)
    if not out:
        return table
    blended = np.where(scene.children.n_siblings > 1, int(MeasureFlag.BLENDED), 0)
    core_flags = out.pop("core_flags")
    for name, value in out.items():
        table[name] = value
    # Models and ellipses leave unusable pixels out in silence: a masked core is told here.
    for name in ("cModelFlux_flags", "kronFlux_flags"):
        table[name] = table[name] | core_flags
    for name in ("psfFlux_flags", "cModelFlux_flags", "kronFlux_flags"):
        table[name] = table[name] | blended.astype(np.uint32)
    psf_flux, model_flux = np.asarray(table["psfFlux"]), np.asarray(table["cModelFlux"])
    good = np.isfinite(psf_flux) & (model_flux > 0)
    ratio = psf_flux / np.where(good, model_flux, 1.0)
    table["extendedness"] = np.where(
        good, np.where(ratio >= options.star_flux_ratio, 0.0, 1.0), np.nan
    )
    table["extendedness_flags"] = np.where(good, 0, int(MeasureFlag.NEGATIVE_FLUX)).astype(
        np.uint32
    )
    return table
