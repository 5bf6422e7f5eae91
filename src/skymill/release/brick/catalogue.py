"""The catalogue of a brick from the fits of its blobs, its coadds and the reference sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.extinction import DustMap
from skymill.model.fit_image import FitImage
from skymill.model.sources import Sources, SourceType
from skymill.release.brick.bits import FitBit
from skymill.release.brick.blobs import BlobRun, StartSources
from skymill.release.brick.coadds import BandCoadd
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.mapping import PixelMap
from skymill.release.brick.measures import SourceMeasures
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.photometry import aperture_fluxes, fibre_fluxes
from skymill.release.brick.reference_sources import GAIA_COLUMNS
from skymill.release.columns import ReleaseColumn, columns_of, zero_columns

__all__ = ["EXTINCTION", "BrickSources", "assemble", "catalogue", "columns"]

Columns = dict[str, NDArray[Any]]

#: A_band / E(B-V) of the releases (Schlafly and Finkbeiner 2011 for the DECam system).
EXTINCTION = {
    "u": 3.995, "g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211, "Y": 1.064,
    "w1": 0.184, "w2": 0.113, "w3": 0.0241, "w4": 0.00910,
}  # fmt: skip

#: Sources with less of their flux on the images have no flux in a band.
_LEAST_INSIDE = 1e-3


@dataclass
class BrickSources:
    """Fitted sources of a brick with where they come from.

    Parameters
    ----------
    sources : Sources
        The fits.
    blob : (n,) int64
        Blob; -1 for stars that are large galaxies and were not fitted.
    reference : (n,) int64
        Row of the reference sources; -1 for detected ones.
    start_x, start_y : (n,) float64 [pixel]
        Where they were found.
    duplicate : (n,) bool
        Stars that are large galaxies.
    """

    sources: Sources
    blob: NDArray[np.int64]
    reference: NDArray[np.int64]
    start_x: NDArray[np.float64]
    start_y: NDArray[np.float64]
    duplicate: NDArray[np.bool_]

    def at(self, index: Any) -> BrickSources:
        """Some of them."""
        return BrickSources(
            self.sources.at(index), self.blob[index], self.reference[index], self.start_x[index],
            self.start_y[index], self.duplicate[index],
        )  # fmt: skip


def columns(options: BrickOptions, *, intermediate: bool = False) -> list[ReleaseColumn]:
    """The columns of the catalogue.

    Parameters
    ----------
    options : BrickOptions
        Bands, and whether the columns of WISE stand in it.
    intermediate : bool
        Those of tractor-i.

    Returns
    -------
    list of ReleaseColumn
        In their order.
    """
    out = columns_of("tractor", options.bands)
    if options.wise_columns:
        out += columns_of("wise", options.bands)
    return out + columns_of("tractor-i") if intermediate else out


def assemble(
    run: BlobRun, start: StartSources, references: Table, n_band: int, grid: BrickGrid
) -> BrickSources:
    """Put the sources of all blobs into one list, in the order of their blobs.

    Parameters
    ----------
    run : BlobRun
        The fits.
    start : StartSources
        Sources before the fit.
    references : Table
        Reference sources.
    n_band : int
        Number of bands.
    grid : BrickGrid
        The brick.

    Returns
    -------
    BrickSources
        Fitted sources; reference sources of blobs that were skipped, without flux; and stars that
        are large galaxies.
    """
    empty = Sources.create(ra=np.empty(0), dec=np.empty(0), flux=np.empty((0, n_band)))
    parts, blob, reference, x, y = [empty], [], [], [], []
    for number in sorted(run.fits):
        fit, index = run.fits[number], run.origins[number]
        known = fit.origin >= 0
        rows = np.where(known, index[np.maximum(fit.origin, 0)] if index.size else 0, 0)
        at_x, at_y = grid.wcs.sky_to_pixel(ra=fit.sources.ra, dec=fit.sources.dec)
        parts.append(fit.sources)
        blob.append(np.full(len(fit.sources), number))
        reference.append(np.where(known, start.reference[rows], -1))
        x.append(np.where(known, start.x[rows], at_x))
        y.append(np.where(known, start.y[rows], at_y))
    for number in sorted(run.skipped):
        index = run.origins[number]
        index = index[start.reference[index] >= 0]
        unfitted = start.sources.at(index)
        unfitted.fitbits |= np.int32(FitBit.FROZEN)
        parts.append(unfitted)
        blob.append(np.full(index.size, number))
        reference.append(start.reference[index])
        x.append(start.x[index])
        y.append(start.y[index])
    fitted = Sources.concatenate(parts)
    aside = np.flatnonzero(
        np.asarray(references["do_not_fit"], bool) & np.asarray(references["in_bounds"], bool)
    )
    stars = Sources.create(
        ra=np.asarray(references["ra"])[aside],
        dec=np.asarray(references["dec"])[aside],
        flux=np.zeros((aside.size, n_band)),
    )
    n = len(fitted)
    return BrickSources(
        sources=Sources.concatenate([fitted, stars]),
        blob=np.concatenate([*blob, np.full(aside.size, -1)]).astype(np.int64),
        reference=np.concatenate([*reference, aside]).astype(np.int64),
        start_x=np.concatenate([*x, np.asarray(references["x"])[aside]]).astype(float),
        start_y=np.concatenate([*y, np.asarray(references["y"])[aside]]).astype(float),
        duplicate=np.arange(n + aside.size) >= n,
    )


def _type_words(found: BrickSources) -> NDArray[Any]:
    words = np.array([SourceType(int(k)).name for k in found.sources.kind], "S3")
    words[found.duplicate] = b"DUP"
    return words


def _identity(
    out: Columns,
    found: BrickSources,
    grid: BrickGrid,
    options: BrickOptions,
    maskbits: NDArray[Any],
) -> None:
    n = len(found.sources)
    sources = found.sources
    x, y = grid.wcs.sky_to_pixel(ra=sources.ra, dec=sources.dec)
    out["release"][:] = options.release_number
    out["brickid"][:] = grid.index
    out["brickname"] = np.full(n, grid.name, f"S{max(8, len(grid.name))}")
    out["brick_primary"] = grid.is_primary(sources.ra, sources.dec)
    out["bx"], out["by"] = x, y
    inside = grid.contains(x, y)
    column = np.clip(np.floor(np.where(inside, x, 0) + 0.5).astype(int), 0, grid.width - 1)
    row = np.clip(np.floor(np.where(inside, y, 0) + 0.5).astype(int), 0, grid.height - 1)
    out["maskbits"] = np.where(inside, maskbits[row, column], 0)
    out["type"] = _type_words(found)
    for name in ("ra", "dec", "ra_ivar", "dec_ivar", "dchisq"):
        out[name] = getattr(sources, name).copy()
    out["dchisq"][found.duplicate] = 0.0
    shaped = sources.kind != int(SourceType.PSF)
    out["sersic"] = np.where(shaped, sources.sersic, 0.0)
    out["sersic_ivar"] = np.where(shaped, sources.sersic_ivar, 0.0)
    for ours, theirs in (("radius", "shape_r"), ("e1", "shape_e1"), ("e2", "shape_e2")):
        out[theirs] = np.where(shaped, getattr(sources, ours), 0.0)
        out[f"{theirs}_ivar"] = np.where(shaped, getattr(sources, f"{ours}_ivar"), 0.0)


def _reference_columns(out: Columns, found: BrickSources, references: Table) -> None:
    known = found.reference >= 0
    rows = found.reference[known]
    bits = found.sources.fitbits.astype(np.int64)
    bits[found.duplicate] = 0
    for name in GAIA_COLUMNS:
        out[f"gaia_{name}"][known] = np.asarray(references[f"gaia_{name}"])[rows]
    for name in ("pmra", "pmdec", "parallax"):
        out[name][known] = np.asarray(references[name])[rows]
        out[f"{name}_ivar"][known] = np.asarray(references[f"{name}_ivar"])[rows]
    out["ref_id"][known] = np.asarray(references["ref_id"])[rows]
    out["ref_epoch"][known] = np.asarray(references["ref_epoch"])[rows]
    words = np.full(known.size, b"", "S2")
    words[known] = np.asarray(references["ref_cat"]).astype("S2")[rows]
    out["ref_cat"] = words
    for flag, bit in (
        ("is_bright", FitBit.BRIGHT), ("is_medium", FitBit.MEDIUM), ("is_gaia", FitBit.GAIA),
        ("is_tycho", FitBit.TYCHO2), ("is_galaxy", FitBit.LARGEGALAXY),
    ):  # fmt: skip
        set_ = np.zeros(known.size, bool)
        set_[known] = np.asarray(references[flag], bool)[rows]
        bits[set_] |= int(bit)
    point = np.zeros(known.size, bool)
    point[known] = (
        np.asarray(references["is_gaia"], bool) & np.asarray(references["is_point"], bool)
    )[rows]
    bits[point & ~found.duplicate] |= int(FitBit.GAIA_POINTSOURCE)
    out["fitbits"] = bits.astype(np.int16)
    fixed = known.copy()
    fixed[known] = ~np.asarray(references["is_galaxy"], bool)[rows]
    for name in ("ra_ivar", "dec_ivar"):
        values = np.asarray(out[name], np.float64)
        values[fixed] = np.asarray(references[name])[found.reference[fixed]]
        out[name] = values


def _band_columns(
    out: Columns,
    found: BrickSources,
    grid: BrickGrid,
    options: BrickOptions,
    coadds: Mapping[str, BandCoadd],
    measures: SourceMeasures,
) -> None:
    x, y = np.asarray(out["bx"], float), np.asarray(out["by"], float)
    column = np.clip(np.floor(x + 0.5).astype(int), 0, grid.width - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, grid.height - 1)
    own, total = fibre_fluxes(grid, found.sources, x, y, options.bands, x, y)
    for k, band in enumerate(options.bands):
        # With hardly any light on the images, a flux is only an extrapolation.
        seen = (measures.fracin[:, k] >= _LEAST_INSIDE) & ~found.duplicate
        out[f"flux_{band}"] = np.where(seen, found.sources.flux[:, k], 0.0)
        out[f"flux_ivar_{band}"] = np.where(seen, found.sources.flux_ivar[:, k], 0.0)
        out[f"fiberflux_{band}"] = np.where(seen, own[:, k], 0.0)
        out[f"fibertotflux_{band}"] = total[:, k]
        for name in ("rchisq", "fracflux", "fracmasked", "fracin", "nea", "blob_nea"):
            out[f"{name}_{band}"] = getattr(measures, name)[:, k]
        coadd = coadds.get(band)
        if coadd is None:
            continue
        for name, plane in (
            ("nobs", coadd.n_covering), ("ngood", coadd.n_exposures), ("anymask", coadd.any_mask),
            ("allmask", coadd.all_mask), ("psfsize", coadd.psf_size), ("psfdepth", coadd.depth),
            ("galdepth", coadd.galaxy_depth),
        ):  # fmt: skip
            out[f"{name}_{band}"] = plane[row, column]
        apertures = aperture_fluxes(coadd, x, y, grid.pixel_scale)
        out[f"apflux_{band}"] = apertures.flux
        out[f"apflux_resid_{band}"] = apertures.residual
        out[f"apflux_blobresid_{band}"] = apertures.blob_residual
        out[f"apflux_ivar_{band}"] = apertures.weight
        out[f"apflux_masked_{band}"] = apertures.masked


def _dust(out: Columns, options: BrickOptions) -> None:
    n = out["ra"].size
    if options.ebv is not None:
        ebv = np.full(n, options.ebv)
    elif options.dust_map:
        ebv = DustMap(options.dust_map).ebv(out["ra"], out["dec"])
    else:
        ebv = np.zeros(n)
    out["ebv"] = np.where(np.isfinite(ebv), ebv, 0.0)
    for name in list(out):
        if name.startswith("mw_transmission_"):
            factor = EXTINCTION.get(name.removeprefix("mw_transmission_"), 0.0)
            out[name] = 10.0 ** (-0.4 * factor * out["ebv"])


def _times(
    out: Columns, images: Sequence[FitImage], maps: Sequence[PixelMap], grid: BrickGrid
) -> None:
    x, y = np.asarray(out["bx"], float), np.asarray(out["by"], float)
    ra, dec = grid.wcs.pixel_to_sky(x=x, y=y)
    first, last = np.full(x.size, math.inf), np.full(x.size, -math.inf)
    for image, mapping in zip(images, maps, strict=True):
        if not mapping or not x.size:
            continue
        px, py = image.wcs.sky_to_pixel(ra=ra, dec=dec)
        ny, nx = image.image.shape
        with np.errstate(invalid="ignore"):
            on = (px >= -0.5) & (px < nx - 0.5) & (py >= -0.5) & (py < ny - 0.5)
        first[on] = np.minimum(first[on], image.mjd)
        last[on] = np.maximum(last[on], image.mjd)
    out["mjd_min"] = np.where(np.isfinite(first), first, 0.0)
    out["mjd_max"] = np.where(np.isfinite(last), last, 0.0)


def catalogue(
    found: BrickSources,
    run: BlobRun,
    blobs: NDArray[np.int32],
    grid: BrickGrid,
    options: BrickOptions,
    images: Sequence[FitImage],
    maps: Sequence[PixelMap],
    references: Table,
    coadds: Mapping[str, BandCoadd],
    measures: SourceMeasures,
    maskbits: NDArray[np.int32],
) -> Columns:
    """All columns of tractor and tractor-i, sorted: on the image first, then by right ascension.

    Parameters
    ----------
    found : BrickSources
        The sources.
    run : BlobRun
        Fits of the blobs.
    blobs : (ny, nx) int32
        Number of the blob of each pixel.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        Options.
    images : sequence of FitImage
        Exposures.
    maps : sequence of PixelMap
        Of each exposure.
    references : Table
        Reference sources.
    coadds : mapping of str to BandCoadd
        By band.
    measures : SourceMeasures
        Of the sources.
    maskbits : (ny, nx) int32
        Of the pixels.

    Returns
    -------
    dict of str to array
        By name; ``in_bounds`` says which rows the catalogue proper holds.
    """
    n = len(found.sources)
    out = zero_columns(columns(options, intermediate=True), n)
    _identity(out, found, grid, options, maskbits)
    _reference_columns(out, found, references)
    _band_columns(out, found, grid, options, coadds, measures)
    _dust(out, options)
    _times(out, images, maps, grid)
    out["in_bounds"] = grid.contains(out["bx"], out["by"])
    size = np.bincount(blobs[blobs >= 0].ravel(), minlength=int(blobs.max()) + 1)
    number = np.bincount(found.blob[found.blob >= 0], minlength=size.size)
    inside = found.blob >= 0
    out["blob"] = found.blob
    out["blob_pixels"][inside] = size[found.blob[inside]]
    out["ninblob"][inside] = number[found.blob[inside]]
    out["x0"], out["y0"] = found.start_x, found.start_y
    for k, fit in run.fits.items():
        rows = found.blob == k
        out["blob_chisq"][rows], out["cpu_blob"][rows] = fit.chi2_last, fit.cpu_seconds
    order = np.lexsort((out["dec"], out["ra"], ~out["in_bounds"]))
    out = {name: values[order] for name, values in out.items()}
    out["objid"] = np.arange(n)
    return out
