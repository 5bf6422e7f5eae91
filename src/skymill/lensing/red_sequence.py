"""The red sequence of a cluster at any redshift: found, freed of its background, mapped.

The colour whose bands bracket the 4000 Angstrom break at the cluster's redshift is used. The
sequence is the straight line with the most significant excess of galaxies over the field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.geometry import make_tan_wcs
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import sky_to_plane
from skymill.lensing.cosmology import FIDUCIAL, Cosmology
from skymill.photoz.spectra import load_filters, make_model_fluxes

__all__ = ["RedSequence", "RedSequenceOptions", "choose_colour", "expected_colour",
           "find_red_sequence"]  # fmt: skip

Float64Array = NDArray[np.float64]
_ARCMIN = np.pi / 10800.0


@dataclass(frozen=True, kw_only=True)
class RedSequenceOptions:
    """Colour, regions and widths of the search."""

    camera: str = option("decam", "Camera whose filters predict the colour")
    blue: str = option("", "Blue band; chosen by the redshift if empty")
    red: str = option("", "Red band; chosen by the redshift if empty")
    radius_mpc: float = option(1.0, "Radius of the cluster's region", unit="Mpc")
    field_min_mpc: float = option(2.0, "Inner radius of the field", unit="Mpc")
    tolerance: float = option(
        0.09, "Half width of the sequence, widened by each galaxy's error", unit="mag"
    )
    search: float = option(0.25, "Largest difference of the expected colour", unit="mag")
    bright_mag: float = option(13.5, "Brightest galaxy in the red band", unit="mag")
    faint_mag: float = option(
        20.0, "Faintest galaxy at z = 0.08; scaled to the redshift by the distance", unit="mag"
    )
    max_mag: float = option(23.0, "Faintest galaxy at any redshift", unit="mag")
    max_mag_err: float = option(0.1086, "Largest error in either band", unit="mag")
    kernel_kpc: float = option(200.0, "Standard deviation of the density map's kernel", unit="kpc")
    step_arcsec: float = option(26.3, "Pixel of the density map", unit="arcsec")

    def __post_init__(self) -> None:
        for name in ("radius_mpc", "tolerance", "search", "max_mag_err", "kernel_kpc",
                     "step_arcsec"):  # fmt: skip
            check_range(self, name, low=0.0, low_open=True)
        if self.field_min_mpc < self.radius_mpc:
            raise ConfigError(
                f"field_min_mpc must be >= radius_mpc = {self.radius_mpc} Mpc; "
                f"got {self.field_min_mpc}"
            )
        if bool(self.blue) != bool(self.red):
            raise ConfigError("blue and red must be given together")


@dataclass(frozen=True, kw_only=True)
class RedSequence:
    """A sequence with its candidates.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``redSequence``: the galaxies on the line; the line and the richness are metadata.
    density : astropy.io.fits.HDUList
        Map of members for a square arcminute, background subtracted, edges corrected.
    """

    table: Table
    density: fits.HDUList


def choose_colour(z: float, bands: list[str]) -> tuple[str, str]:
    """The two bands that bracket the 4000 Angstrom break.

    Parameters
    ----------
    z : float
        Redshift.
    bands : list of str
        Bands at hand.

    Returns
    -------
    blue, red : str
        Names of the bands.

    Raises
    ------
    DataError
        If no pair of neighbours is at hand.
    """
    for limit, pair in ((0.36, ("g", "r")), (0.75, ("r", "i")), (9.0, ("i", "z"))):
        if z < limit and set(pair) <= set(bands):
            return pair
    known = [b for b in "griz" if b in bands]
    if len(known) < 2:
        raise DataError(
            f"a red sequence needs two of the bands g, r, i, z; the catalogue has "
            f"{', '.join(bands) or 'none'}"
        )
    return (known[0], known[1]) if z < 0.36 else (known[-2], known[-1])


def expected_colour(z: float, blue: str, red: str, *, camera: str = "decam") -> float:
    """Colour of the elliptical template.

    Parameters
    ----------
    z : float
        Redshift.
    blue, red : str
        Bands.
    camera : str
        Whose filters.

    Returns
    -------
    float [mag]
        blue - red.
    """
    model = make_model_fluxes(
        load_filters(camera, (blue, red)), z=np.array([z]), templates=("El_B2004a",),
        n_interpolate=0,
    )  # fmt: skip
    return float(-2.5 * np.log10(model.flux[0, 0, 0] / model.flux[1, 0, 0]))


def find_red_sequence(
    catalogue: Table,
    *,
    z: float,
    centre: tuple[float, float],
    options: RedSequenceOptions = RedSequenceOptions(),
    cosmology: Cosmology = FIDUCIAL,
) -> RedSequence:
    """Find the red sequence around a position.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Galaxies with ``ID``, ``ra``, ``dec`` and dereddened ``{band}_cmodel_mag`` and ``magerr``.
    z : float
        Redshift of the cluster.
    centre : (ra, dec) [deg]
        Its centre.
    options : RedSequenceOptions
        Search.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    RedSequence
        Candidates with probabilities of membership, density map.

    Raises
    ------
    NoDataError
        If there are too few galaxies, or none in the field for the background.
    """
    if not 0.005 < z < 1.5:
        raise ConfigError(f"the redshift of the cluster must be in (0.005, 1.5); got {z}")
    blue, red = _colour_bands(catalogue, z, options)
    scale = float(cosmology.angular_distance(z)) * _ARCMIN
    distance = cosmology.comoving_distance([z, 0.08]) * np.array([1 + z, 1.08])
    faint = min(options.faint_mag + 5.0 * np.log10(distance[0] / distance[1]), options.max_mag)
    mag = np.asarray(catalogue[f"{red}_cmodel_mag"], np.float64)
    colour = np.asarray(catalogue[f"{blue}_cmodel_mag"], np.float64) - mag
    error = [np.asarray(catalogue[f"{b}_cmodel_magerr"], np.float64) for b in (blue, red)]
    with np.errstate(invalid="ignore"):
        good = np.isfinite(colour) & (mag > options.bright_mag) & (mag < faint)
        good &= (error[0] < options.max_mag_err) & (error[1] < options.max_mag_err)
    east, north = sky_to_plane(
        ra=np.asarray(catalogue["ra"]), dec=np.asarray(catalogue["dec"]), centre=centre
    )
    radius = np.hypot(east, north) * scale
    near, far = _near_and_far(good, radius, options)
    footprint = _footprint(east, north, options.step_arcsec / 60.0)
    area = _areas(footprint, scale, options)
    middle = 0.5 * (faint + options.bright_mag)
    line = _fit_line(
        mag - middle, colour, near, far, ratio=area[0] / area[1],
        expected=expected_colour(z, blue, red, camera=options.camera), options=options,
    )  # fmt: skip
    offset = colour - (line[0] + line[1] * (mag - middle))
    with np.errstate(invalid="ignore"):
        on = good & (np.abs(offset) < np.hypot(options.tolerance, np.hypot(*error)))
    background = (on & far).sum() / area[1]
    richness = (on & near).sum() - background * area[0]
    table = Table(
        {
            "ID": np.asarray(catalogue["ID"]).astype(str)[on],
            "ra": np.asarray(catalogue["ra"], np.float64)[on],
            "dec": np.asarray(catalogue["dec"], np.float64)[on],
            "mag": mag[on],
            "colour": colour[on],
            "colour_err": np.hypot(*error)[on],
            "offset": offset[on],
            "radius": radius[on],
            "p_member": _membership(radius[on], background / scale**2),
        }
    )
    table.meta.update(
        blue=blue, red=red, slope=line[1], colour_at_middle=line[0], middle_mag=middle,
        faint_mag=faint, richness=float(richness),
        richness_err=float(np.sqrt((on & near).sum() + background * area[0] * area[0] / area[1])),
        background_per_arcmin2=float(background), significance=line[2],
    )  # fmt: skip
    return RedSequence(
        table=load_schema("redSequence").apply(table),
        density=_density(east[on], north[on], footprint, background, scale, centre, options),
    )


def _colour_bands(catalogue: Table, z: float, options: RedSequenceOptions) -> tuple[str, str]:
    bands = [n.removesuffix("_cmodel_mag") for n in catalogue.colnames if n.endswith("_cmodel_mag")]
    chosen = (options.blue, options.red) if options.blue else choose_colour(z, bands)
    for band in chosen:
        if band not in bands:
            raise DataError(f"the catalogue has no magnitudes of band {band!r}")
    return chosen


def _near_and_far(
    good: NDArray[np.bool_], radius: Float64Array, options: RedSequenceOptions
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Galaxies of the cluster's region and of the field around it."""
    near, far = good & (radius < options.radius_mpc), good & (radius > options.field_min_mpc)
    if near.sum() < 5 or far.sum() < 5:
        raise NoDataError(
            f"{int(near.sum())} galaxies within {options.radius_mpc} Mpc of the centre and "
            f"{int(far.sum())} beyond {options.field_min_mpc} Mpc; 5 of each are needed (is the "
            "centre off the field, or field_min_mpc beyond it?)"
        )
    return near, far


@dataclass(frozen=True)
class _Footprint:
    """Where the catalogue has galaxies: coverage (ny, nx), and offsets of the pixels [arcmin]."""

    coverage: NDArray[np.float64]
    offsets: Float64Array


def _footprint(east: Float64Array, north: Float64Array, step: float) -> _Footprint:
    half = int(np.ceil(np.nanmax(np.abs(np.concatenate([east, north]))) / step)) + 1
    half = min(half, 2000)
    edges = (np.arange(2 * half + 2) - half - 0.5) * step
    counts, _, _ = np.histogram2d(north, -east, bins=(edges, edges))
    # A kernel that holds some ten galaxies fills the gaps between them but keeps holes and edges.
    density = max(float(np.isfinite(east).sum()) / max((counts > 0).sum(), 1), 1e-6)
    size = int(np.clip(2 * np.ceil(np.sqrt(10.0 / density) / 2) + 1, 3, 51))
    covered = ndimage.binary_closing(
        np.pad(counts > 0, size), structure=np.ones((size, size)), border_value=0
    )[size:-size, size:-size]
    return _Footprint(
        covered.astype(np.float64), np.arange(-half, half + 1, dtype=np.float64) * step
    )


def _areas(footprint: _Footprint, scale: float, options: RedSequenceOptions) -> tuple[float, float]:
    """Covered area [arcmin2] of the cluster's region and of the field."""
    o = footprint.offsets
    radius = np.hypot(o[:, None], o[None, :]) * scale
    pixel = (o[1] - o[0]) ** 2
    near = footprint.coverage[radius < options.radius_mpc].sum() * pixel
    far = footprint.coverage[radius > options.field_min_mpc].sum() * pixel
    return max(float(near), pixel), max(float(far), pixel)


def _fit_line(
    mag: Float64Array,
    colour: Float64Array,
    near: NDArray[np.bool_],
    far: NDArray[np.bool_],
    *,
    ratio: float,
    expected: float,
    options: RedSequenceOptions,
) -> tuple[float, float, float]:
    """Intercept, slope and significance of the line with the greatest excess over the field."""
    best = (expected, 0.0, -np.inf)
    intercepts = expected + np.arange(-options.search, options.search + 0.005, 0.01)
    for slope in np.arange(-0.08, 0.021, 0.01):
        counts = []
        for region in (near, far):
            value = np.sort(colour[region] - slope * mag[region])
            low = np.searchsorted(value, intercepts - options.tolerance)
            counts.append(np.searchsorted(value, intercepts + options.tolerance) - low)
        field = counts[1] * ratio
        significance = (counts[0] - field) / np.sqrt(counts[0] + field * ratio + 1.0)
        k = int(significance.argmax())
        if significance[k] > best[2]:
            best = (float(intercepts[k]), float(slope), float(significance[k]))
    a, b, significance_ = best
    # Centre the strip: mean offset of its galaxies, the field's (uniform in the strip) being zero.
    for _ in range(5):
        offset = colour - (a + b * mag)
        strip = near & (np.abs(offset) < options.tolerance)
        if strip.sum() < 5:
            break
        a += float(np.median(offset[strip]))
    return a, b, significance_


def _membership(radius: Float64Array, field_density: float) -> Float64Array:
    """1 - field / local density, the local density being that of the ten nearest in radius."""
    n = len(radius)
    order = np.argsort(radius)
    sorted_ = radius[order]
    k = min(10, max(n // 4, 1))
    low = np.clip(np.arange(n) - k, 0, None)
    high = np.clip(np.arange(n) + k, None, n - 1)
    ring = np.pi * (sorted_[high] ** 2 - np.where(low > 0, sorted_[low] ** 2, 0.0))
    local = (high - low + 1) / np.maximum(ring, 1e-9)
    p = np.empty(n)
    p[order] = np.clip(1.0 - field_density / local, 0.0, 1.0)
    return p


def _density(
    east: Float64Array,
    north: Float64Array,
    footprint: _Footprint,
    background: float,
    scale: float,
    centre: tuple[float, float],
    options: RedSequenceOptions,
) -> fits.HDUList:
    """Kernel density of the candidates, edges corrected, less the field; North up, East left."""
    o = footprint.offsets
    step = o[1] - o[0]
    edges = np.append(o - 0.5 * step, o[-1] + 0.5 * step)
    counts, _, _ = np.histogram2d(north, -east, bins=(edges, edges))
    sigma = options.kernel_kpc / 1000.0 / scale / step
    smooth = ndimage.gaussian_filter(counts / step**2, sigma, mode="constant")
    cover = ndimage.gaussian_filter(footprint.coverage, sigma, mode="constant")
    inside = cover > 0.1
    density = np.where(inside, smooth / np.where(inside, cover, 1.0) - background, 0.0)
    half = (len(o) - 1) / 2
    header = make_tan_wcs(
        ra=centre[0], dec=centre[1], scale=options.step_arcsec, x=half, y=half
    ).header
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, plane, unit in (
        ("DENSITY", density, "arcmin-2"),
        ("COVERAGE", cover, ""),
    ):
        hdu = fits.ImageHDU(plane.astype(np.float32), name=name)
        hdu.header.extend(header, update=True)
        hdu.header["BUNIT"] = unit
        hdus.append(hdu)
    return hdus
