"""Sources that are known before the fit: Gaia and Tycho-2 stars and large galaxies."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.options import BrickOptions

__all__ = [
    "GAIA_COLUMNS",
    "ReferenceMasks",
    "empty_references",
    "mask_radius",
    "masks_of",
    "read_references",
]

Float64Array = NDArray[np.float64]

#: Columns of Gaia that the catalogue repeats, with their dtypes.
GAIA_COLUMNS: dict[str, str] = {
    "phot_g_mean_mag": "f4",
    "phot_g_mean_flux_over_error": "f4",
    "phot_g_n_obs": "i2",
    "phot_bp_mean_mag": "f4",
    "phot_bp_mean_flux_over_error": "f4",
    "phot_bp_n_obs": "i2",
    "phot_rp_mean_mag": "f4",
    "phot_rp_mean_flux_over_error": "f4",
    "phot_rp_n_obs": "i2",
    "phot_variable_flag": "?",
    "astrometric_excess_noise": "f4",
    "astrometric_excess_noise_sig": "f4",
    "astrometric_n_obs_al": "i2",
    "astrometric_n_good_obs_al": "i2",
    "astrometric_weight_al": "f4",
    "duplicated_source": "?",
    "a_g_val": "f4",
    "e_bp_min_rp_val": "f4",
    "phot_bp_rp_excess_factor": "f4",
    "astrometric_sigma5d_max": "f4",
    "astrometric_params_solved": "u1",
}

#: Magnitude in a band minus G, polynomial in BP-RP: stars of Gaia seen by DECam.
_GAIA_TO_BAND: dict[str, tuple[float, ...]] = {
    "g": (-0.11368, 0.37504, 0.17344, -0.08107, 0.28088, -0.21250, 0.05773, -0.00525),
    "r": (0.10533, -0.22975, 0.06257, -0.24142, 0.24441, -0.07248, 0.00676),
    "z": (0.46744, -0.95143, 0.19729, -0.08810, 0.01566),
}  # fmt: skip

#: Angle within which references of other bricks still matter [deg].
_MARGIN = 0.125
#: Radii of the reference table within which a star is the same as another [arcsec].
_TYCHO_MATCH, _GALAXY_GAIA, _GALAXY_TYCHO = 1.0, 2.0, 5.0
#: Chunks of Gaia's folder cover the pixels of a healpix ring scheme with this Nside.
_GAIA_NSIDE = 32


def mask_radius(magnitude: Float64Array) -> Float64Array:
    """Radius [deg] around a star within which the images are affected.

    Parameters
    ----------
    magnitude : (n,) float64 [mag]
        Gaia's G or the z magnitude + 1, whichever is brighter.

    Returns
    -------
    (n,) float64 [deg]
        The radius of the releases since DR9.
    """
    return np.asarray((1630.0 / 3600.0) * 1.396 ** (-np.asarray(magnitude, np.float64)))


def _columns() -> dict[str, str]:
    return {
        "ref_cat": "U2", "ref_id": "i8", "ra": "f8", "dec": "f8", "ref_epoch": "f4",
        "ra_ivar": "f4", "dec_ivar": "f4",
        "pmra": "f4", "pmdec": "f4", "parallax": "f4",
        "pmra_ivar": "f4", "pmdec_ivar": "f4", "parallax_ivar": "f4",
        **{f"gaia_{k}": v for k, v in GAIA_COLUMNS.items()},
        "mag": "f4", "radius": "f8", "is_gaia": "?", "is_tycho": "?", "is_galaxy": "?",
        "is_bright": "?", "is_medium": "?", "is_point": "?", "do_not_fit": "?",
        "diameter": "f8", "axis_ratio": "f8", "position_angle": "f8",
        **{f"mag_{b}": "f4" for b in ("g", "r", "i", "z")},
    }  # fmt: skip


def empty_references(n: int = 0) -> Table:
    """A table of n reference sources with zeros everywhere.

    Parameters
    ----------
    n : int
        Rows.

    Returns
    -------
    Table
        All columns.
    """
    return Table({name: np.zeros(n, dtype) for name, dtype in _columns().items()})


def _read(path: Path) -> Table:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                for hdu in hdus[1:]:
                    if isinstance(hdu, fits.BinTableHDU) and len(hdu.columns) > 2:
                        table = Table(hdu.data)
                        table.meta["header"] = hdus[0].header.copy()
                        return table
    except (OSError, ValueError, TypeError) as err:
        raise DataError(f"{path} is truncated or no FITS table ({err})") from err
    raise DataError(f"{path} holds no table")


def _near(table: Table, grid: BrickGrid, margin: float) -> Table:
    """Rows within the brick's circle and a margin [deg]."""
    ra0, dec0 = grid.centre
    reach = 0.5 * math.hypot(grid.width, grid.height) * grid.pixel_scale / 3600.0 + margin
    names = {n.lower(): n for n in table.colnames}
    ra = np.asarray(table[names["ra"]], np.float64)
    dec = np.asarray(table[names["dec"]], np.float64)
    return table[_separation(ra, dec, ra0, dec0) < reach]


def _separation(ra: Any, dec: Any, ra0: Any, dec0: Any) -> Float64Array:
    a, d, d0 = np.radians(np.asarray(ra) - ra0), np.radians(dec), np.radians(dec0)
    h = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin(a / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.minimum(h, 1.0)))))


def _numbers(table: Table, name: str, missing: float = 0.0) -> Float64Array:
    if name not in table.colnames:
        return np.full(len(table), missing)
    column = table[name]
    values = np.asarray(column.filled(missing) if hasattr(column, "filled") else column, float)
    return np.where(np.isfinite(values), values, missing)


def _inverse_square(error: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, 1.0 / error**2, 0.0)


def _chunk_numbers(grid: BrickGrid) -> set[int]:
    import hpgeom

    ra0, dec0 = grid.centre
    reach = 0.5 * math.hypot(grid.width, grid.height) * grid.pixel_scale / 3600.0 + _MARGIN
    return set(
        hpgeom.query_circle(_GAIA_NSIDE, ra0, dec0, reach, inclusive=True, nest=False).tolist()
    )


def _gaia_files(folder: Path, grid: BrickGrid) -> Iterable[Path]:
    wanted = _chunk_numbers(grid)
    for path in sorted(folder.glob("chunk-*.fits*")):
        number = re.search(r"chunk-(\d+)", path.name)
        if number is not None and int(number.group(1)) in wanted:
            yield path


def read_gaia(folder: Path, grid: BrickGrid, release: str = "G2") -> Table:
    """Gaia stars of a brick and its margin.

    Parameters
    ----------
    folder : Path
        With ``chunk-NNNNN.fits``, one file for each pixel of a healpix map.
    grid : BrickGrid
        The brick.
    release : str
        ``ref_cat``: G2 for DR2.

    Returns
    -------
    Table
        As `empty_references` describes.
    """
    if not folder.is_dir():
        raise MissingInputError(f"there is no folder {folder} of Gaia's chunks; or use --no-gaia")
    parts = [_near(_read(path), grid, _MARGIN) for path in _gaia_files(folder, grid)]
    parts = [p for p in parts if len(p)]
    if not parts:
        return empty_references()
    gaia = vstack(parts, metadata_conflicts="silent")
    out = empty_references(len(gaia))
    out["ref_cat"] = release
    out["ref_id"] = np.asarray(gaia["source_id"], np.int64)
    out["ra"], out["dec"] = np.asarray(gaia["ra"], float), np.asarray(gaia["dec"], float)
    out["ref_epoch"] = _numbers(gaia, "ref_epoch", 2015.5)
    for name in ("pmra", "pmdec", "parallax"):
        out[name] = _numbers(gaia, name)
        out[f"{name}_ivar"] = _inverse_square(_numbers(gaia, f"{name}_error"))
    for name in ("ra", "dec"):
        out[f"{name}_ivar"] = _inverse_square(_numbers(gaia, f"{name}_error") / 3.6e6)
    for name, dtype in GAIA_COLUMNS.items():
        if name in gaia.colnames:
            column = gaia[name]
            if dtype in ("f4",):
                values = np.asarray(
                    column.filled(np.nan) if hasattr(column, "filled") else column, np.float32
                )
            else:
                values = _numbers(gaia, name).astype(dtype)
            out[f"gaia_{name}"] = values
    magnitude = _numbers(gaia, "phot_g_mean_mag", 99.0)
    _add_magnitudes(out, magnitude)
    noise = _numbers(gaia, "astrometric_excess_noise")
    out["is_gaia"] = True
    out["is_bright"], out["is_medium"] = magnitude < 13.0, magnitude < 16.0
    out["is_point"] = ((magnitude <= 18.0) & (noise < 10.0**0.5)) | (magnitude <= 13.0)
    out["mag"] = magnitude
    out["radius"] = mask_radius(np.minimum(magnitude, np.asarray(out["mag_z"], float) + 1.0))
    return out


def _add_magnitudes(out: Table, magnitude: Float64Array) -> None:
    """Magnitudes in our bands from G and the colour."""
    with np.errstate(invalid="ignore"):
        colour = np.asarray(out["gaia_phot_bp_mean_mag"], float) - np.asarray(
            out["gaia_phot_rp_mean_mag"], float
        )
    known = np.isfinite(colour) & (np.asarray(out["gaia_phot_bp_mean_mag"]) != 0)
    colour = np.clip(np.where(known, colour, 1.4), -0.6, 4.1)
    for band, coefficients in _GAIA_TO_BAND.items():
        clipped = np.clip(colour, -0.5, 3.3)
        out[f"mag_{band}"] = magnitude + sum(c * clipped**k for k, c in enumerate(coefficients))
    # A first guess only: i lies between its neighbours.
    out["mag_i"] = 0.5 * (np.asarray(out["mag_r"]) + np.asarray(out["mag_z"]))


def read_tycho(path: Path, grid: BrickGrid) -> Table:
    """Tycho-2 stars of a brick and its margin, at the mean epoch of their observations.

    Parameters
    ----------
    path : Path
        Table of the survey.
    grid : BrickGrid
        The brick.

    Returns
    -------
    Table
        As `empty_references` describes.
    """
    tycho = _near(_read(path), grid, _MARGIN)
    if "isgalaxy" in tycho.colnames:
        tycho = tycho[np.asarray(tycho["isgalaxy"]) == 0]
    if not len(tycho) or "tyc1" not in tycho.colnames:
        return empty_references()
    magnitude = _numbers(tycho, "mag_vt")
    for other in ("mag_hp", "mag_bt"):
        magnitude = np.where(magnitude == 0, _numbers(tycho, other), magnitude)
    tycho, magnitude = tycho[magnitude < 13.0], magnitude[magnitude < 13.0]
    out = empty_references(len(tycho))
    if not len(out):
        return out
    out["ref_cat"] = "T2"
    number = [np.asarray(tycho[f"tyc{k}"], np.int64) for k in (1, 2, 3)]
    out["ref_id"] = number[0] * 1000000 + number[1] * 10 + number[2]
    epoch_ra, epoch_dec = _numbers(tycho, "epoch_ra"), _numbers(tycho, "epoch_dec")
    epoch = (epoch_ra + epoch_dec) / 2
    pm_ra, pm_dec = _numbers(tycho, "pm_ra"), _numbers(tycho, "pm_dec")
    dec = np.asarray(tycho["dec"], float)
    out["ra"] = np.asarray(tycho["ra"], float) + (epoch - epoch_ra) * pm_ra / 3600.0 / np.cos(
        np.radians(dec)
    )
    out["dec"] = dec + (epoch - epoch_dec) * pm_dec / 3600.0
    out["ref_epoch"] = np.where(epoch > 0, epoch, 2000.0)
    out["pmra"], out["pmdec"] = pm_ra * 1000.0, pm_dec * 1000.0
    for name in ("ra", "dec"):
        out[f"{name}_ivar"] = _inverse_square(_numbers(tycho, f"sigma_{name}"))
        out[f"pm{name}_ivar"] = _inverse_square(_numbers(tycho, f"sigma_pm_{name}") * 1000.0)
    out["mag"] = magnitude
    guess = _numbers(tycho, "zguess", 99.0)
    for band in ("g", "r", "i"):
        out[f"mag_{band}"] = magnitude
    out["mag_z"] = np.where(guess < 90, guess, magnitude)
    out["radius"] = mask_radius(np.minimum(magnitude, np.where(guess < 90, guess + 1.0, magnitude)))
    out["is_tycho"] = out["is_point"] = out["is_bright"] = out["is_medium"] = True
    return out


def read_large_galaxies(path: Path, grid: BrickGrid) -> Table:
    """Large galaxies (SGA or LSLGA) that touch a brick.

    Parameters
    ----------
    path : Path
        The table.
    grid : BrickGrid
        The brick.

    Returns
    -------
    Table
        As `empty_references` describes; ``radius`` is half the diameter at 25 mag/arcsec2.
    """
    galaxies = _near(_read(path), grid, 1.0)
    names = {n.lower(): n for n in galaxies.colnames}
    out = empty_references(len(galaxies))
    if not len(out):
        return out
    identifier = next((names[k] for k in ("sga_id", "lslga_id", "ref_id") if k in names), None)
    diameter = next((names[k] for k in ("diam", "d25", "diam_init") if k in names), None)
    if identifier is None or diameter is None:
        raise DataError(f"{path} lacks the column SGA_ID or DIAM of large galaxies")
    out["ref_cat"] = "L3"
    out["ref_id"] = np.asarray(galaxies[identifier], np.int64)
    out["ra"] = np.asarray(galaxies[names["ra"]], float)
    out["dec"] = np.asarray(galaxies[names["dec"]], float)
    out["diameter"] = _numbers(galaxies, diameter) / 60.0
    out["radius"] = out["diameter"] / 2.0
    ratio = _numbers(galaxies, names.get("ba", ""), 1.0)
    out["axis_ratio"] = np.where(ratio > 0, ratio, 1.0)
    out["position_angle"] = _numbers(galaxies, names.get("pa", ""))
    magnitude = _numbers(galaxies, names.get("mag_leda", names.get("mag", "")), 99.0)
    out["mag"] = np.where((magnitude > 0) & (magnitude < 50), magnitude, 99.0)
    for band in ("g", "r", "i", "z"):
        out[f"mag_{band}"] = out["mag"]
    out["is_galaxy"] = True
    return out


def _drop_tycho_of_gaia(tycho: Table, gaia: Table) -> Table:
    """Tycho-2 stars that Gaia lacks; those of Gaia are bright."""
    if not len(tycho) or not len(gaia):
        return tycho
    years = 1991.5 - np.asarray(gaia["ref_epoch"], float)
    dec = np.asarray(gaia["dec"]) + years * np.asarray(gaia["pmdec"], float) / 3.6e6
    ra = np.asarray(gaia["ra"]) + years * np.asarray(gaia["pmra"], float) / 3.6e6 / np.cos(
        np.radians(dec)
    )
    keep = np.ones(len(tycho), bool)
    for k in range(len(tycho)):
        distance = _separation(ra, dec, tycho["ra"][k], tycho["dec"][k]) * 3600.0
        nearest = int(np.argmin(distance))
        if distance[nearest] < _TYCHO_MATCH:
            keep[k] = False
            gaia["is_bright"][nearest] = True
            gaia["is_medium"][nearest] = True
            gaia["is_tycho"][nearest] = True
    return tycho[keep]


def _set_aside_stars_of_galaxies(stars: Table, galaxies: Table, limit: float) -> None:
    """Stars in the core of a large galaxy are not fitted: they are the galaxy."""
    for galaxy in galaxies:
        if not len(stars):
            return
        distance = _separation(stars["ra"], stars["dec"], galaxy["ra"], galaxy["dec"]) * 3600.0
        stars["do_not_fit"] |= distance < limit


def _galaxy_path(options: BrickOptions) -> Path | None:
    if options.large_galaxies_path:
        path = Path(options.large_galaxies_path)
        if not path.is_file():
            raise MissingInputError(f"there is no table of large galaxies {path}")
        return path
    root = Path(options.survey_dir)
    for pattern in ("SGA-*.fits*", "sga*.fits*", "LSLGA*.fits*", "survey-large-galaxies*.fits*"):
        found = sorted(root.glob(pattern))
        if found:
            return found[0]
    return None


def _tycho_path(options: BrickOptions) -> Path | None:
    if options.tycho_path:
        return Path(options.tycho_path)
    found = sorted(Path(options.survey_dir).glob("tycho2*.fits*"))
    return found[0] if found else None


def read_references(grid: BrickGrid, options: BrickOptions) -> tuple[Table, list[str]]:
    """All reference sources that touch a brick.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    options : BrickOptions
        Which catalogues.

    Returns
    -------
    references : Table
        As `empty_references` describes, with ``x``, ``y`` [pixel], ``radius_pixel`` and
        ``in_bounds``; perhaps without a row.
    notes : list of str
        A sentence for each catalogue that the survey does not have.
    """
    notes: list[str] = []
    gaia, tycho, galaxies = empty_references(), empty_references(), empty_references()
    root = Path(options.survey_dir)
    folder = Path(options.gaia_dir) if options.gaia_dir else root / "gaia"
    if options.gaia:
        if folder.is_dir() or options.gaia_dir:
            gaia = read_gaia(folder, grid)
        else:
            notes.append(f"the survey has no Gaia stars: there is no folder {folder}")
    if options.tycho:
        path = _tycho_path(options)
        if path is not None:
            tycho = _drop_tycho_of_gaia(read_tycho(path, grid), gaia)
        else:
            notes.append(f"the survey has no Tycho-2 stars: there is no {root}/tycho2*.fits")
    if options.large_galaxies:
        path = _galaxy_path(options)
        if path is not None:
            galaxies = read_large_galaxies(path, grid)
            _set_aside_stars_of_galaxies(gaia, galaxies, _GALAXY_GAIA)
            _set_aside_stars_of_galaxies(tycho, galaxies, _GALAXY_TYCHO)
    parts = [t for t in (tycho, gaia, galaxies) if len(t)]
    out = vstack(parts, metadata_conflicts="silent") if parts else empty_references()
    return _on_grid(out, grid), notes


def _on_grid(references: Table, grid: BrickGrid) -> Table:
    """Pixel positions and radii; only those that touch the image."""
    if len(references):
        x, y = grid.wcs.sky_to_pixel(
            ra=np.asarray(references["ra"]), dec=np.asarray(references["dec"])
        )
    else:
        x = y = np.empty(0)
    radius = np.ceil(np.asarray(references["radius"]) * 3600.0 / grid.pixel_scale)
    references["x"], references["y"], references["radius_pixel"] = x, y, radius
    references["in_bounds"] = grid.contains(x, y)
    with np.errstate(invalid="ignore"):
        keep = (
            (x > -radius - 0.5)
            & (x < grid.width + radius)
            & (y > -radius - 0.5)
            & (y < grid.height + radius)
        )
    keep |= np.asarray(references["in_bounds"], bool)
    return references[keep]


class ReferenceMasks:
    """Pixels of the brick that bright stars and large galaxies affect.

    Parameters
    ----------
    bright, medium, galaxy, cluster : (ny, nx) bool
        Within half the radius of a bright star; within the radius of a medium star (bright ones
        included); within the ellipse of a large galaxy; within a star cluster.
    """

    def __init__(
        self,
        bright: NDArray[np.bool_],
        medium: NDArray[np.bool_],
        galaxy: NDArray[np.bool_],
        cluster: NDArray[np.bool_] | None = None,
    ) -> None:
        self.bright, self.medium, self.galaxy = bright, medium, galaxy
        self.cluster = np.zeros_like(galaxy) if cluster is None else cluster


def _stamp(
    mask: NDArray[np.bool_],
    x: float,
    y: float,
    radius: float,
    ratio: float = 1.0,
    angle: float = 0.0,
) -> None:
    """Set the pixels of an ellipse; its position angle is North through East (x to the West)."""
    ny, nx = mask.shape
    x0, x1 = max(0, math.floor(x - radius)), min(nx, math.ceil(x + radius) + 1)
    y0, y1 = max(0, math.floor(y - radius)), min(ny, math.ceil(y + radius) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    dx = np.arange(x0, x1)[None, :] - x
    dy = np.arange(y0, y1)[:, None] - y
    if ratio >= 1.0:
        inside = dx**2 + dy**2 <= radius**2
    else:
        sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        along, across = -dx * sin + dy * cos, dx * cos + dy * sin
        inside = along**2 + (across / ratio) ** 2 <= radius**2
    mask[y0:y1, x0:x1] |= inside


def masks_of(references: Table, grid: BrickGrid) -> ReferenceMasks:
    """Masks of the reference sources.

    Parameters
    ----------
    references : Table
        Of `read_references`.
    grid : BrickGrid
        The brick.

    Returns
    -------
    ReferenceMasks
        The masks.
    """
    bright, medium, galaxy = (np.zeros(grid.shape, bool) for _ in range(3))
    for row in references:
        x, y, radius = float(row["x"]), float(row["y"]), float(row["radius_pixel"])
        if row["is_galaxy"]:
            _stamp(galaxy, x, y, radius, float(row["axis_ratio"]), float(row["position_angle"]))
        if row["is_bright"]:
            _stamp(bright, x, y, math.ceil(0.5 * radius))
        if row["is_medium"]:
            _stamp(medium, x, y, radius)
    return ReferenceMasks(bright, medium, galaxy)
