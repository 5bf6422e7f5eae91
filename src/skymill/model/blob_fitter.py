"""The state of a blob while it is fitted: residuals, sources, and the steps that change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.model._blob_kernels import claim_neighbourhoods, flood, symmetrize
from skymill.model._forward_kernels import add_stamp, cut_stamp
from skymill.model.blob_images import BlobImage, MovedPsf, cut_images, detection_snr
from skymill.model.blob_source import FIRST_RADIUS, BlobSource, internal_shape, round_shape
from skymill.model.fit_image import FitImage
from skymill.model.forward import (
    place,
    profile_reach,
    psf_reach,
    psf_spectrum,
    stamp_size,
)
from skymill.model.model_selection import choice_variance, select_model, try_galaxies
from skymill.model.multi_fit import (
    INDEX,
    LOG_SIZE,
    Limits,
    SourceFit,
    Stamps,
    evaluate_source,
    fit_source,
)
from skymill.model.sources import DCHISQ_PLACE, Sources, SourceType

if TYPE_CHECKING:
    from skymill.model.blob import Blob, FindMore, FitOptions

__all__ = ["BlobFitter"]

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: Wings of the PSF fainter than this part of the noise of a pixel are left out.
_PRECISION = 0.01
#: Farthest that a source forced to be a point owns pixels; radius that each source owns [pixel].
_POINT_REACH, _OWN_RADIUS = 25, 5
#: Part of the light that must fall on used pixels for a flux to be kept.
_SEEN = 1e-6
#: A star with less of its light on used pixels has wings only.
_WINGS = 0.3


def _drop_unseen(fit: SourceFit, stamps: Stamps) -> None:
    """Zero the flux of bands in which almost nothing of the model falls on used pixels."""
    seen = (fit.planes * (stamps.weight > 0)).sum(axis=(1, 2))
    for b in range(fit.flux.size):
        own = stamps.band == b
        if own.any() and seen[own].mean() < _SEEN:
            fit.flux[b] = 0.0


class BlobFitter:
    """A blob, its residuals and its sources.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures.
    blob : Blob
        Pixels and sources.
    options : FitOptions
        How.
    """

    def __init__(self, images: Sequence[FitImage], blob: Blob, options: FitOptions) -> None:
        self.blob, self.options = blob, options
        self.n_band = len(options.bands)
        self.mask = np.ascontiguousarray(blob.mask, dtype=bool)
        self.parts = cut_images(
            images, bands=options.bands, wcs=blob.brick_wcs, x0=blob.x0, y0=blob.y0, mask=self.mask
        )
        self.part_band = np.array([p.band for p in self.parts], np.int64)
        self.part_noise = np.array([p.source.sigma1 for p in self.parts], np.float64)
        scale = place(blob.brick_wcs, *blob.brick_wcs.pixel_to_sky(x=[blob.x0], y=[blob.y0]))
        self.pixel_scale = 1.0 / np.sqrt(abs(np.linalg.det(scale.to_pixel[0])))
        self.sources = self._create(blob.sources, list(range(len(blob.sources))))
        for name in ("fixed_position", "fixed_type", "is_reference", "force_point", "frozen",
                     "is_large_galaxy", "fit_background"):  # fmt: skip
            for source in self.sources:
                setattr(source, name, bool(getattr(blob, name)[source.origin]))
        for source in self.sources:
            if source.is_large_galaxy:
                source.fit_background = source.force_point = False
        self.owner = np.full(self.mask.shape, -1, np.int32)

    def _create(self, table: Sources, origins: list[int]) -> list[BlobSource]:
        """Sources of a table, placed on the brick and on all exposures."""
        if len(table) == 0:
            return []
        on_brick = place(self.blob.brick_wcs, table.ra, table.dec)
        places = [place(p.source.wcs, *table.position_at(p.source.mjd)) for p in self.parts]
        stamps = []
        for part, where in zip(self.parts, places, strict=True):
            ny, nx = part.source.shape
            x = np.clip(np.nan_to_num(where.x), 0.0, nx - 1.0)
            y = np.clip(np.nan_to_num(where.y), 0.0, ny - 1.0)
            stamps.append(part.source.psf.draw(x=x, y=y))
        out = []
        for i, origin in enumerate(origins):
            psf: list[NDArray[np.float32] | None] = []
            for drawn, where in zip(stamps, places, strict=True):
                good = np.isfinite(drawn[i]).all() and np.isfinite(where.to_pixel[i]).all()
                psf.append(drawn[i] if good and np.isfinite(where.x[i]) else None)
            source = BlobSource(
                origin=origin,
                ra=float(table.ra[i]),
                dec=float(table.dec[i]),
                kind=int(table.kind[i]),
                parameters=internal_shape(
                    float(table.radius[i]) if table.kind[i] else FIRST_RADIUS,
                    float(table.e1[i]),
                    float(table.e2[i]),
                    float(table.sersic[i]),
                ),
                flux=np.nan_to_num(table.flux[i].copy()),
                x=float(on_brick.x[i]) - self.blob.x0,
                y=float(on_brick.y[i]) - self.blob.y0,
                to_brick=on_brick.to_pixel[i],
                places=places,
                row=i,
                psf=psf,
            )
            self._measure_reach(source)
            source.first_flux = source.flux.copy()
            source.choice_variance = np.zeros_like(source.flux)
            source.first_radius = float(table.radius[i])
            out.append(source)
        return out

    def _measure_reach(self, source: BlobSource) -> None:
        """What the widths of stamps depend on, for each exposure."""
        n, i = len(self.parts), source.row
        rings = [psf_reach(s) if s is not None else np.zeros(1) for s in source.psf]
        source.reach = np.zeros((n, max((r.size for r in rings), default=1)))
        source.magnification, source.far = np.ones(n), np.zeros(n)
        source.seen = np.array([s is not None for s in source.psf], bool)
        for m, (part, where) in enumerate(zip(self.parts, source.places, strict=True)):
            source.reach[m, : rings[m].size] = rings[m]
            if source.seen[m]:
                source.magnification[m] = np.linalg.norm(where.to_pixel[i], 2)
                x, y = where.x[i] - part.x0, where.y[i] - part.y0
                ny, nx = part.residual.shape
                source.far[m] = max(x, y, nx - 1 - x, ny - 1 - y, 0.0)

    # --- Pixels -----------------------------------------------------------------------------

    def chi2(self) -> float:
        """Chi-squared of the residuals."""
        return float(sum((p.weight * p.residual**2).sum() for p in self.parts))

    def background(self) -> Float64Array:
        """Weighted mean of the residuals of each exposure [nanomaggy]."""
        return np.array([float((p.weight * p.residual).sum() / p.weight.sum()) for p in self.parts])

    def _width(self, source: BlobSource, kind: int, parameters: Float64Array) -> int:
        """Width of stamps that hold a model on every exposure."""
        shape = replace(source.shape_fit(), kind=kind, parameters=parameters)
        radius, e1, e2 = shape.shape
        if not source.seen.any() or not self.parts:
            return stamp_size(0.0)
        flux = 1.5 * np.abs(source.flux)[self.part_band] + 10.0 * self.part_noise
        wings = (source.reach * (flux / self.part_noise)[:, None] > _PRECISION).sum(axis=1)
        reach = 4.0 + np.maximum(wings - 1.0, 1.0)
        reach += profile_reach(
            kind,
            float(parameters[INDEX]),
            radius * source.magnification,
            float(np.hypot(e1, e2)),
            faintest=2.0 * _PRECISION * self.part_noise / flux,
        )
        width = np.minimum(2.0 * reach, source.far + 4.0 + reach)
        return stamp_size(float(width[source.seen].max()))

    def _stamps(self, source: BlobSource, size: int, mask: BoolArray | None) -> Stamps:
        """Residual pixels about a source on the exposures that see it."""
        images, data, weight, window, psf, x0s, y0s, shift = [], [], [], [], [], [], [], []
        flat = (self.mask if mask is None else mask).ravel()
        cached = source.spectra.setdefault(size, {})
        for m, part in enumerate(self.parts):
            stamp = source.psf[m]
            if stamp is None:
                continue
            where = source.places[m]
            x, y = where.x[source.row] - part.x0, where.y[source.row] - part.y0
            x0, y0 = round(x) - size // 2, round(y) - size // 2
            ny, nx = part.residual.shape
            if x0 >= nx or y0 >= ny or x0 + size <= 0 or y0 + size <= 0:
                continue
            d, w, box = np.empty((size, size)), np.empty((size, size)), np.empty(4, np.int64)
            if not cut_stamp(part.residual, part.weight, part.brick_pixel, flat, x0, y0, d, w, box):
                continue
            if m not in cached:
                cached[m] = psf_spectrum(stamp, size)
            images.append(m)
            data.append(d)
            weight.append(w)
            window.append(box)
            psf.append(cached[m])
            x0s.append(x0)
            y0s.append(y0)
            shift.append((x - x0, y - y0))
        n = len(images)
        half = size // 2 + 1
        maps = [source.places[m].to_pixel[source.row] for m in images]
        return Stamps(
            image=np.array(images, np.int64),
            band=np.array([self.parts[m].band for m in images], np.int64),
            x0=np.array(x0s, np.int64),
            y0=np.array(y0s, np.int64),
            data=np.array(data).reshape(n, size, size),
            weight=np.array(weight).reshape(n, size, size),
            window=np.array(window, np.int64).reshape(n, 4),
            psf=np.array(psf, np.complex128).reshape(n, size, half),
            shift=np.array(shift, np.float64).reshape(n, 2),
            to_pixel=np.array(maps, np.float64).reshape(n, 2, 2),
            background=source.fit_background,
        )

    def _add(self, source: BlobSource, sign: float) -> None:
        """Add (or subtract) the model of a source to the residuals."""
        if source.drawn is None:
            return
        stamps, planes, flux = source.drawn
        for k, m in enumerate(stamps.image):
            scale = sign * float(flux[stamps.band[k]])
            if scale != 0.0:
                part = self.parts[m]
                add_stamp(part.residual, planes[k], int(stamps.x0[k]), int(stamps.y0[k]), scale)

    def _draw(self, source: BlobSource, *, keep_flux: bool = True) -> SourceFit | None:
        """Model of a source on all pixels of the blob; it is subtracted."""
        size = self._width(source, source.kind, source.parameters)
        stamps = self._stamps(source, size, None)
        if stamps.image.size == 0:
            source.drawn = None
            return None
        fit = evaluate_source(
            stamps, source.kind, source.parameters, self.n_band, derivatives=False
        )
        if not keep_flux:
            source.flux = fit.flux
        # What is drawn stays until the blob is done: without the pixels that it was fitted to.
        none = np.zeros((0, 0, 0))
        light = replace(stamps, data=none, weight=none, psf=none.astype(np.complex128))
        source.spectra.clear()
        source.drawn = (light, fit.planes, source.flux.copy())
        self._add(source, -1.0)
        return fit

    def stamps_alone(self, source: BlobSource) -> Stamps:
        """Pixels of the whole blob about a source, with all others subtracted."""
        self._add(source, +1.0)
        stamps = self._stamps(source, self._width(source, source.kind, source.parameters), None)
        self._add(source, -1.0)
        return stamps

    # --- One source -------------------------------------------------------------------------

    def _inside(
        self, source: BlobSource, mask: BoolArray | None
    ) -> Callable[[float, float], bool] | None:
        """Whether a source may move there: not out of its pixels."""
        if source.is_large_galaxy or source.fixed_position:
            return None
        allowed = self.mask if mask is None else mask
        ny, nx = allowed.shape

        def inside(east: float, north: float) -> bool:
            x, y = source.pixel(east, north)
            return 0 <= x < nx and 0 <= y < ny and bool(allowed[y, x])

        return inside

    def _fit(
        self,
        source: BlobSource,
        kind: int,
        start: Float64Array,
        mask: BoolArray | None,
        max_radius: float,
    ) -> tuple[SourceFit, Stamps] | None:
        """Fit one type; the stamps grow with the model."""
        limits = Limits(
            max_radius=max_radius,
            fixed_position=source.fixed_position,
            inside=self._inside(source, mask),
        )
        parameters, size = start, 0
        for _ in range(4):
            needed = self._width(source, kind, parameters)
            if needed <= size:
                break
            size = needed
            stamps = self._stamps(source, size, mask)
            if stamps.image.size == 0:
                return None
            fit = fit_source(stamps, kind, parameters, self.n_band, limits)
            parameters = fit.parameters
        return fit, stamps

    def _accept(self, source: BlobSource, fit: SourceFit) -> None:
        source.kind = fit.kind
        source.parameters = fit.parameters.copy()
        source.flux = fit.flux.copy()
        source.at_radius_limit, source.at_index_limit = fit.at_radius_limit, fit.at_index_limit

    def _order(self, sources: list[BlobSource]) -> list[BlobSource]:
        """Reference stars first, then by flux."""
        return sorted(sources, key=lambda s: -(1e6 * s.is_reference + float(s.first_flux.sum())))

    def _refine(self, source: BlobSource) -> None:
        """Fit a source as it is, on all pixels of the blob."""
        self._add(source, +1.0)
        radius = self._max_radius(source, source.kind, None)
        found = self._fit(source, source.kind, source.parameters, None, radius)
        if found is not None:
            self._accept(source, found[0])
        self._draw(source)

    def _max_radius(self, source: BlobSource, kind: int, mask: BoolArray | None) -> float:
        if source.is_large_galaxy and source.first_radius > 0:
            return 2.0 * source.first_radius
        used = self.mask if mask is None else mask
        rows, columns = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
        extent = max(np.ptp(rows), np.ptp(columns)) + 1.0 if rows.size else 1.0
        cap = self.options.max_radius_round if kind == SourceType.REX else self.options.max_radius
        return float(min(cap, 0.8 * extent * self.pixel_scale))

    # --- The steps of a blob ------------------------------------------------------------------

    def fit_first(self, sources: list[BlobSource] | None = None) -> None:
        """Fit each source as it came, the brightest first.

        Parameters
        ----------
        sources : list of BlobSource, optional
            Which; all of them if omitted.
        """
        chosen = self.sources if sources is None else sources
        for source in chosen:
            self._draw(source)
        order = self._order(chosen)
        for source in order:
            if source.is_large_galaxy or source.is_reference:
                self._add(source, +1.0)
                self._draw(source, keep_flux=False)
        for source in order:
            if not source.frozen:
                self._refine(source)

    def _segment(self, sources: list[BlobSource]) -> None:
        """Give each pixel of the blob to a source."""
        ny, nx = self.mask.shape
        originals = [p.residual for p in self.parts]
        for source in sources:
            self._add(source, +1.0)
        snr = detection_snr(self.parts, originals, self.n_band, (0, nx, 0, ny)).max(axis=0)
        for source in sources:
            self._add(source, -1.0)
        here = np.array([s.here() for s in sources], np.int64).reshape(-1, 2)
        x, y = np.clip(here[:, 0], 0, nx - 1), np.clip(here[:, 1], 0, ny - 1)
        capped = [s.force_point or (s.fixed_type and s.kind == SourceType.PSF) for s in sources]
        reach2 = np.where(capped, _POINT_REACH**2, 0).astype(np.int64)
        flood(snr, self.mask, x, y, reach2, self.owner)
        rank = np.argsort([-float(s.flux.sum()) for s in sources], kind="stable")
        claim_neighbourhoods(self.mask, x, y, rank, _OWN_RADIUS, self.owner)

    def _own_pixels(self, source: BlobSource) -> BoolArray | None:
        """Significant symmetric pixels about a source; None if it is not significant any more."""
        ny, nx = self.mask.shape
        x, y = source.here()
        x, y = min(max(x, 0), nx - 1), min(max(y, 0), ny - 1)
        half = 64
        while True:
            left, right = max(0, x - half), min(nx, x + half + 1)
            low, high = max(0, y - half), min(ny, y + half + 1)
            whole = left == 0 and low == 0 and right == nx and high == ny
            snr = detection_snr(
                self.parts, [p.residual for p in self.parts], self.n_band, (left, right, low, high)
            )
            hot = np.zeros((high - low, right - left), bool)
            for plane in snr:
                hot |= symmetrize(plane, x - left, y - low) > self.options.symmetric_snr
            hot = ndimage.binary_fill_holes(hot)
            labels, _ = ndimage.label(hot)
            own = int(labels[y - low, x - left])
            if own == 0 and not (source.is_reference or source.is_large_galaxy):
                return None
            if own:
                hot = labels == own
            edge = hot[0].any() or hot[-1].any() or hot[:, 0].any() or hot[:, -1].any()
            if whole or not edge:
                break
            half *= 2
        if self.options.grow:
            hot = ndimage.binary_dilation(hot, iterations=self.options.grow)
        out = np.zeros(self.mask.shape, bool)
        out[low:high, left:right] = hot
        owner = self.owner[y, x]
        if owner >= 0:
            out &= self.owner == owner
        out &= self.mask
        return out if out.any() else None

    def choose_models(self, sources: list[BlobSource] | None = None) -> None:
        """Choose the model of each source, the brightest first.

        Parameters
        ----------
        sources : list of BlobSource, optional
            Which; all of them if omitted.
        """
        chosen = self.sources if sources is None else sources
        self._segment(chosen)
        order = self._order(chosen)
        for source in order:
            if source.frozen:
                continue
            self._add(source, +1.0)
            source.drawn = None
            best = self._choose(source)
            if best is not None:
                self._accept(source, best)
            elif source.is_reference:
                source.forced_keep = True
                source.flux = source.first_flux.copy()
            else:
                source.kept = False
                continue
            self._draw(source)

    def _core_is_masked(self, source: BlobSource) -> bool:
        """Whether most of the light of a star falls on pixels that are not used."""
        stamps = self._stamps(source, self._width(source, source.kind, source.parameters), None)
        if stamps.image.size == 0:
            return False
        fit = evaluate_source(
            stamps, source.kind, source.parameters, self.n_band, derivatives=False
        )
        return float((fit.planes * (stamps.weight > 0)).sum(axis=(1, 2)).mean()) < _WINGS

    def _choose(self, source: BlobSource) -> SourceFit | None:
        """The best model of a source on its own pixels."""
        mask = self._own_pixels(source)
        if mask is None:
            return None
        if source.is_reference and source.fixed_type and self._core_is_masked(source):
            # Nothing but its wings is left, which a constant takes away: they are the light.
            mask, source.fit_background = self.mask, False
        fits: dict[SourceType, tuple[SourceFit, Stamps]] = {}
        won: dict[SourceType, float] = {}

        def attempt(kind: SourceType, start: Float64Array) -> None:
            found = self._fit(source, kind, start, mask, self._max_radius(source, kind, mask))
            if found is not None:
                fits[kind], won[kind] = found, found[0].signed_gain

        here = source.parameters.copy()
        if not source.is_large_galaxy:
            here = round_shape(here)
            here[LOG_SIZE] = np.log(FIRST_RADIUS)
        point_only = source.force_point or (source.fixed_type and not source.is_large_galaxy)
        attempt(SourceType.PSF, here)
        if not point_only or source.is_large_galaxy:
            attempt(SourceType.REX, round_shape(here))
            if source.is_large_galaxy or try_galaxies(won):
                attempt(SourceType.DEV, here)
                attempt(SourceType.EXP, here)
                galaxy = self._galaxy_of_data(won)
                if galaxy is not None:
                    start = fits[galaxy][0].parameters.copy()
                    start[INDEX] = fits[galaxy][0].sersic
                    attempt(SourceType.SER, start)
        for kind, value in won.items():
            source.dchisq[DCHISQ_PLACE[kind]] = value
        best = select_model(won, fraction=self.options.psf_error)
        if best is None or won[best] == 0.0:
            return None
        if best != SourceType.PSF:
            source.choice_variance = choice_variance(
                best,
                won,
                {kind: fit.flux for kind, (fit, _) in fits.items()},
                {
                    kind: fit.flux_variance(fixed_position=source.fixed_position)
                    for kind, (fit, _) in fits.items()
                },
            )
        _drop_unseen(*fits[best])
        return fits[best][0]

    def _galaxy_of_data(self, won: dict[SourceType, float]) -> SourceType | None:
        """The galaxy with ellipticity that the pixels ask for, if they do.

        Where the errors of PSFs keep a round one in its place, the error of the flux needs it.
        """
        if select_model(won, fraction=self.options.psf_error) == SourceType.PSF:
            return None
        asked = select_model(won, fraction=0.0)
        return asked if asked in (SourceType.DEV, SourceType.EXP) else None

    def fit_again(self) -> None:
        """Fit all sources once more with their types, on all pixels of the blob."""
        for source in self._order([s for s in self.sources if s.kept]):
            if not source.frozen and not source.forced_keep:
                self._refine(source)

    def iterate(self, find_more: FindMore) -> None:
        """Search the residuals for more sources and fit them.

        Parameters
        ----------
        find_more : callable
            See `skymill.model.blob.FindMore`.
        """
        residuals = [self._image_of(p, p.residual) for p in self.parts]
        drawn = [np.zeros_like(p.residual) for p in self.parts]
        for source in self.sources:
            if source.drawn is not None:
                stamps, planes, flux = source.drawn
                for k, m in enumerate(stamps.image):
                    scale = float(flux[stamps.band[k]])
                    add_stamp(drawn[m], planes[k], int(stamps.x0[k]), int(stamps.y0[k]), scale)
        models = [self._image_of(p, d) for p, d in zip(self.parts, drawn, strict=True)]
        found = find_more(residuals, models, self.blob)
        if len(found) == 0:
            return
        new = self._create(found, [-1] * len(found))
        fresh = [s for s in new if self._is_new(s)]
        if not fresh:
            return
        for source in fresh:
            x, y = source.here()
            source.force_point = self._near_flag(x, y, "force_point")
            source.fit_background = self._near_flag(x, y, "fit_background")
        self.fit_first(fresh)
        self.choose_models(fresh)
        self.sources.extend(fresh)

    def _near_flag(self, x: int, y: int, name: str) -> bool:
        """A property that the nearest of the first sources has; all of them share it mostly."""
        flags = getattr(self.blob, name)
        if flags is None or not flags.any():
            return False
        nearest = min(
            (s for s in self.sources if s.origin >= 0),
            key=lambda s: (s.x - x) ** 2 + (s.y - y) ** 2,
        )
        return bool(flags[nearest.origin])

    def _is_new(self, source: BlobSource) -> bool:
        x, y = source.here()
        ny, nx = self.mask.shape
        if not (0 <= x < nx and 0 <= y < ny and self.mask[y, x]):
            return False
        if self.blob.avoid is not None and self.blob.avoid[y, x]:
            return False
        near = [np.hypot(s.x - source.x, s.y - source.y) for s in self.sources]
        return not near or min(near) > self.options.avoid

    def _image_of(self, part: BlobImage, pixels: Float64Array) -> FitImage:
        ny, nx = part.residual.shape
        box = (slice(part.y0, part.y0 + ny), slice(part.x0, part.x0 + nx))
        return replace(
            part.source,
            image=pixels.astype(np.float32),
            inverse_error=np.sqrt(part.weight).astype(np.float32),
            quality=np.ascontiguousarray(part.source.quality[box]),
            wcs=part.source.wcs.shifted(dx=part.x0, dy=part.y0),
            psf=MovedPsf(part.source.psf, part.x0, part.y0),
            x0=part.source.x0 + part.x0,
            y0=part.source.y0 + part.y0,
        )
