"""The sky map: tracts with one tangent plane each, cut into a grid of patches.

Two tilings exist. A *discrete* map has one tract around each given position, as the published
cluster pipeline uses it; a *bricks* map has one tract with one patch for each brick of the Legacy
Surveys. North is up and East is left in every tract.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.coadd.bricks import Brick, bricks_in_box, bricks_near
from skymill.data.errors import ConfigError, DataError
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.images import Box

__all__ = ["Patch", "SkyMap", "Tract"]

Float64Array = NDArray[np.float64]


def _unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Float64Array:
    ra_, dec_ = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(dec_) * np.cos(ra_), np.cos(dec_) * np.sin(ra_), np.sin(dec_)], axis=-1)


def _sky_polygon(wcs: FitsWcs, box: Box) -> tuple[Float64Array, Float64Array]:
    x = np.array([box.x0, box.x1, box.x1, box.x0]) - 0.5
    y = np.array([box.y0, box.y0, box.y1, box.y1]) - 0.5
    return wcs.pixel_to_sky(x=x, y=y)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One rectangle of a tract.

    Parameters
    ----------
    tract, index : int
        Identity; ``index`` is the sequential number ``nx * iy + ix``.
    ix, iy : int
        Column and row in the tract's grid.
    inner_box, outer_box : Box
        Pixels of the tract that belong to this patch alone, and those that its images cover.
    wcs : FitsWcs
        Mapping of the tract's pixels.
    """

    tract: int
    index: int
    ix: int
    iy: int
    inner_box: Box
    outer_box: Box
    wcs: FitsWcs

    def sky_polygon(self, *, inner: bool = False) -> tuple[Float64Array, Float64Array]:
        """Corners on the sky, counter-clockwise in pixels.

        Parameters
        ----------
        inner : bool
            Corners of the inner box instead of the outer.

        Returns
        -------
        ra, dec : (4,) float64 [deg]
            Outer corners of the corner pixels; sides are great circles.
        """
        return _sky_polygon(self.wcs, self.inner_box if inner else self.outer_box)


@dataclass(frozen=True, kw_only=True)
class Tract:
    """One tangent plane of the sky map.

    Parameters
    ----------
    index : int
        Number of the tract; the brick's number in a map of bricks.
    name : str
        Name, as of a brick; empty where tracts have no names.
    ra, dec : float [deg]
        Tangent point.
    x, y : float [pixel]
        The tangent point in the tract.
    pixel_scale : float [arcsec/pixel]
        Width of a pixel.
    n_x, n_y : int
        Patches along x and y.
    patch_inner, patch_border : int [pixel]
        Inner width of a patch and what its images show around it.
    edges : (ra_low, ra_high, dec_low, dec_high) [deg], optional
        The part of the sky that belongs to this tract alone; the whole plane if omitted.
    """

    index: int
    ra: float
    dec: float
    x: float
    y: float
    pixel_scale: float
    n_x: int
    n_y: int
    patch_inner: int
    patch_border: int
    name: str = ""
    edges: tuple[float, float, float, float] | None = None

    @functools.cached_property
    def wcs(self) -> FitsWcs:
        """Mapping of the tract's pixels, TAN with North up and East left."""
        return make_tan_wcs(ra=self.ra, dec=self.dec, scale=self.pixel_scale, x=self.x, y=self.y)

    @property
    def box(self) -> Box:
        """All pixels."""
        return Box(x0=0, y0=0, x1=self.n_x * self.patch_inner, y1=self.n_y * self.patch_inner)

    @functools.cached_property
    def patches(self) -> tuple[Patch, ...]:
        """The patches in the order of their numbers."""
        return tuple(self.patch(k) for k in range(self.n_x * self.n_y))

    def patch(self, index: int) -> Patch:
        """The patch of a sequential number.

        Parameters
        ----------
        index : int
            Number ``n_x * iy + ix``.

        Returns
        -------
        Patch
            The patch.

        Raises
        ------
        DataError
            If there is no such patch.
        """
        if not 0 <= index < self.n_x * self.n_y:
            raise DataError(
                f"tract {self.index} has the patches 0 to {self.n_x * self.n_y - 1}; got {index}"
            )
        iy, ix = divmod(index, self.n_x)
        width, border = self.patch_inner, self.patch_border
        inner = Box(x0=ix * width, y0=iy * width, x1=(ix + 1) * width, y1=(iy + 1) * width)
        grown = Box(
            x0=inner.x0 - border,
            y0=inner.y0 - border,
            x1=inner.x1 + border,
            y1=inner.y1 + border,
        )
        return Patch(
            tract=self.index,
            index=index,
            ix=ix,
            iy=iy,
            inner_box=inner,
            outer_box=grown.intersection(self.box),
            wcs=self.wcs,
        )

    def sky_to_pixel(self, *, ra: ArrayLike, dec: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Tract pixels of sky positions, safe for the other half of the sky.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            ICRS positions.

        Returns
        -------
        x, y : (n,) float64 [pixel]
            NaN more than 80 degrees from the tangent point.
        """
        ra_, dec_ = np.broadcast_arrays(
            np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        )
        near = _unit_vectors(ra_, dec_) @ _unit_vectors(self.ra, self.dec) > np.cos(np.radians(80))
        x, y = np.full(ra_.shape, np.nan), np.full(ra_.shape, np.nan)
        if near.any():
            x[near], y[near] = self.wcs.sky_to_pixel(ra=ra_[near], dec=dec_[near])
        return x, y

    def is_primary(self, *, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Whether positions belong to this tract and to no other.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            ICRS positions.

        Returns
        -------
        (n,) bool
            Inside of the tract's edges (half open).
        """
        ra_, dec_ = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        if self.edges is not None:
            low, high, south, north = self.edges
            inside = ((ra_ - low) % 360.0 < high - low) & (dec_ >= south)
            return np.asarray(inside & ((dec_ < north) | (north == 90.0)))
        x, y = self.sky_to_pixel(ra=ra_, dec=dec_)
        return np.asarray((self.find_patch(x=x, y=y)) >= 0)

    def find_patch(self, *, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """The patch whose inner box holds each pixel position.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Positions in the tract.

        Returns
        -------
        (n,) int64
            Sequential numbers; -1 outside of the tract.
        """
        x_, y_ = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        good = np.isfinite(x_) & np.isfinite(y_)
        ix = np.floor((np.where(good, x_, -1e9) + 0.5) / self.patch_inner).astype(np.int64)
        iy = np.floor((np.where(good, y_, -1e9) + 0.5) / self.patch_inner).astype(np.int64)
        inside = (ix >= 0) & (ix < self.n_x) & (iy >= 0) & (iy < self.n_y)
        return np.where(inside, iy * self.n_x + ix, -1)

    def overlapping(self, box: Box) -> list[Patch]:
        """Patches whose outer boxes share pixels with a box.

        Parameters
        ----------
        box : Box
            Pixels of the tract.

        Returns
        -------
        list of Patch
            In the order of their numbers.
        """
        if box.is_empty:
            return []
        width, border = self.patch_inner, self.patch_border
        rows = range(
            max(0, (box.y0 - border) // width), min(self.n_y, (box.y1 - 1 + border) // width + 1)
        )
        columns = range(
            max(0, (box.x0 - border) // width), min(self.n_x, (box.x1 - 1 + border) // width + 1)
        )
        found = (self.patch(iy * self.n_x + ix) for iy in rows for ix in columns)
        return [p for p in found if not p.outer_box.intersection(box).is_empty]

    def sky_polygon(self) -> tuple[Float64Array, Float64Array]:
        """Corners of the whole tract on the sky.

        Returns
        -------
        ra, dec : (4,) float64 [deg]
            Sides are great circles.
        """
        return _sky_polygon(self.wcs, self.box)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers that `from_dict` reads."""
        names = ("index", "name", "ra", "dec", "x", "y", "pixel_scale", "n_x", "n_y")
        out = {name: getattr(self, name) for name in (*names, "patch_inner", "patch_border")}
        return {**out, "edges": None if self.edges is None else list(self.edges)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tract:
        """The tract that `to_dict` wrote.

        Parameters
        ----------
        values : dict
            As returned by `to_dict`.

        Returns
        -------
        Tract
            The tract.
        """
        edges = values.get("edges")
        return cls(**{**values, "edges": None if edges is None else tuple(edges)})


@dataclass(frozen=True)
class SkyMap:
    """A named set of tracts.

    Parameters
    ----------
    name : str
        Name of the map in the repository.
    tracts : tuple of Tract
        In the order of their numbers, which need not be consecutive.
    kind : str
        ``"discrete"`` or ``"bricks"``.
    """

    name: str
    tracts: tuple[Tract, ...]
    kind: str = "discrete"

    def __post_init__(self) -> None:
        if not self.tracts:
            raise ConfigError(f"the sky map {self.name!r} has no tract; give at least one position")

    @classmethod
    def discrete(
        cls,
        name: str,
        ra: float | Sequence[float],
        dec: float | Sequence[float],
        radius_deg: float | Sequence[float],
        *,
        tract_overlap: float = 1.0,
        pixel_scale: float = 0.263,
        patch_inner: int = 4000,
        patch_border: int = 100,
    ) -> SkyMap:
        """One tract around each position.

        Parameters
        ----------
        name : str
            Name of the map.
        ra, dec : float or sequence of float [deg]
            Centres, ICRS.
        radius_deg : float or sequence of float [deg]
            Radius that each tract has to cover.
        tract_overlap : float [deg]
            Added to the radius on each side.
        pixel_scale : float [arcsec/pixel]
            Width of a pixel.
        patch_inner, patch_border : int [pixel]
            Inner width of a patch, and the border that its images add.

        Returns
        -------
        SkyMap
            Tracts 0, 1, ...: the fewest square patches that hold the radius and the overlap, with
            the centre at pixel (width / 2, width / 2). A radius of 0.7 degrees and the defaults
            give 12 x 12 patches of 4000 pixels and the centre at (24000, 24000).

        Raises
        ------
        ConfigError
            If a size is not positive or the tract is wider than a tangent plane can be.
        """
        ras, decs = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        radii = np.broadcast_to(np.asarray(radius_deg, float), ras.shape)
        if ras.shape != decs.shape:
            raise ConfigError(f"ra and dec must be equally many; got {ras.size} and {decs.size}")
        _check_geometry(pixel_scale, patch_inner, patch_border, tract_overlap)
        tracts = []
        for k, (ra_k, dec_k, radius) in enumerate(zip(ras, decs, radii, strict=True)):
            if not (np.isfinite(ra_k) and -90 <= dec_k <= 90):
                raise ConfigError(
                    f"the centre of a tract must have dec in [-90, 90]; got {ra_k}, {dec_k} degree"
                )
            if not 0 < radius + tract_overlap <= 20:
                raise ConfigError(
                    "radius_deg plus tract_overlap must be > 0 and <= 20 degree; "
                    f"got {radius} + {tract_overlap}"
                )
            half = np.tan(np.radians(radius + tract_overlap)) * np.degrees(1) * 3600 / pixel_scale
            # A hundredth of a pixel more must not add a row of patches.
            n = max(1, int(np.ceil((2 * half - 0.01) / patch_inner)))
            centre = n * patch_inner / 2
            tracts.append(
                Tract(
                    index=k,
                    ra=float(ra_k) % 360.0,
                    dec=float(dec_k),
                    x=centre,
                    y=centre,
                    pixel_scale=float(pixel_scale),
                    n_x=n,
                    n_y=n,
                    patch_inner=int(patch_inner),
                    patch_border=int(patch_border),
                )
            )
        return cls(name, tuple(tracts), "discrete")

    @classmethod
    def bricks(
        cls,
        name: str,
        *,
        ra: float | None = None,
        dec: float | None = None,
        radius_deg: float | None = None,
        ra_range: tuple[float, float] | None = None,
        dec_range: tuple[float, float] | None = None,
        pixel_scale: float = 0.262,
        width: int = 3600,
    ) -> SkyMap:
        """The Legacy Surveys' tiling of 0.25 degree bricks, around a position or in a box.

        Parameters
        ----------
        name : str
            Name of the map.
        ra, dec, radius_deg : float [deg], optional
            Bricks that come within ``radius_deg`` of the position.
        ra_range, dec_range : (float, float) [deg], optional
            Bricks whose centres lie in the box; ``ra_range`` may wrap: (359, 1).
        pixel_scale : float [arcsec/pixel]
            Width of a pixel.
        width : int [pixel]
            Width of a brick's image.

        Returns
        -------
        SkyMap
            One tract of one patch for each brick; its number is the brick's identifier.

        Raises
        ------
        ConfigError
            If neither a position nor a box is given, or no brick lies in it.
        """
        _check_geometry(pixel_scale, width, 0, 0.0)
        found: list[Brick]
        if ra is not None and dec is not None and radius_deg is not None:
            found = bricks_near(ra=ra, dec=dec, radius_deg=radius_deg)
        elif ra_range is not None and dec_range is not None:
            found = bricks_in_box(ra_range=ra_range, dec_range=dec_range)
        else:
            raise ConfigError(
                "a map of bricks needs ra, dec and radius_deg, or ra_range and dec_range"
            )
        if not found:
            raise ConfigError(f"no brick lies in {ra_range}, {dec_range}; use degrees, low first")
        tracts = tuple(
            Tract(
                index=b.index,
                name=b.name,
                ra=b.ra,
                dec=b.dec,
                x=(width - 1) / 2,
                y=(width - 1) / 2,
                pixel_scale=float(pixel_scale),
                n_x=1,
                n_y=1,
                patch_inner=int(width),
                patch_border=0,
                edges=(b.ra_low, b.ra_high, b.dec_low, b.dec_high),
            )
            for b in found
        )
        return cls(name, tracts, "bricks")

    @functools.cached_property
    def _by_index(self) -> dict[int, Tract]:
        return {t.index: t for t in self.tracts}

    def tract(self, index: int) -> Tract:
        """The tract of a number.

        Parameters
        ----------
        index : int
            Number of the tract.

        Returns
        -------
        Tract
            The tract.

        Raises
        ------
        DataError
            If there is no such tract.
        """
        try:
            return self._by_index[int(index)]
        except KeyError:
            raise DataError(f"the sky map {self.name!r} has no tract {index}") from None

    @property
    def tract_max(self) -> int:
        """One more than the highest number of a tract."""
        return max(t.index for t in self.tracts) + 1

    @property
    def patch_nx_max(self) -> int:
        """Most patches along x of any tract."""
        return max(t.n_x for t in self.tracts)

    @property
    def patch_ny_max(self) -> int:
        """Most patches along y of any tract."""
        return max(t.n_y for t in self.tracts)

    @property
    def hash(self) -> bytes:
        """SHA-1 of the geometry: equal for equal maps, whatever their name."""
        content = self.to_dict()
        del content["name"]
        return hashlib.sha1(json.dumps(content, sort_keys=True).encode()).digest()

    def find_tract_patches(
        self, *, ra: ArrayLike, dec: ArrayLike
    ) -> list[tuple[Tract, list[Patch]]]:
        """Tracts and patches that a region on the sky may touch.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            A position, or the corners of a region smaller than a few degrees.

        Returns
        -------
        list of (Tract, list of Patch)
            Patches whose outer boxes meet the rectangle around the corners in tract pixels; tracts
            without such a patch are left out.
        """
        ra_, dec_ = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        centre = _unit_vectors(ra_, dec_).mean(axis=0)
        spread = np.linalg.norm(_unit_vectors(ra_, dec_) - centre, axis=-1).max()
        directions = _unit_vectors([t.ra for t in self.tracts], [t.dec for t in self.tracts])
        reach = np.array([np.hypot(t.box.x1, t.box.y1) * t.pixel_scale for t in self.tracts])
        near = np.linalg.norm(directions - centre, axis=-1) < np.radians(reach / 3600) + spread
        out = []
        for k in np.flatnonzero(near):
            tract = self.tracts[k]
            x, y = tract.sky_to_pixel(ra=ra_, dec=dec_)
            if not np.isfinite(x).all():
                continue
            box = Box(
                x0=int(np.floor(x.min() + 0.5)),
                y0=int(np.floor(y.min() + 0.5)),
                x1=int(np.floor(x.max() + 0.5)) + 1,
                y1=int(np.floor(y.max() + 0.5)) + 1,
            )
            patches = tract.overlapping(box)
            if patches:
                out.append((tract, patches))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings that `from_dict` reads; they fit in JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "version": 1,
            "tracts": [t.to_dict() for t in self.tracts],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SkyMap:
        """The map that `to_dict` wrote.

        Parameters
        ----------
        values : dict
            As returned by `to_dict`.

        Returns
        -------
        SkyMap
            The map.

        Raises
        ------
        DataError
            If the content is of another kind.
        """
        if values.get("version") != 1:
            raise DataError(f"a sky map of version 1 was expected; got {values.get('version')!r}")
        tracts = tuple(Tract.from_dict(t) for t in values["tracts"])
        return cls(values["name"], tracts, values["kind"])


def _check_geometry(
    pixel_scale: float, patch_inner: int, patch_border: int, overlap: float
) -> None:
    if not (np.isfinite(pixel_scale) and pixel_scale > 0):
        raise ConfigError(f"pixel_scale must be > 0 arcsec/pixel; got {pixel_scale}")
    if int(patch_inner) != patch_inner or patch_inner < 1:
        raise ConfigError(f"patch_inner must be an integer >= 1 pixel; got {patch_inner}")
    if int(patch_border) != patch_border or not 0 <= patch_border <= patch_inner:
        raise ConfigError(
            "patch_border must be an integer between 0 and patch_inner pixel; "
            f"got {patch_border} with patch_inner {patch_inner}"
        )
    if not (np.isfinite(overlap) and overlap >= 0):
        raise ConfigError(f"tract_overlap must be >= 0 degree; got {overlap}")
