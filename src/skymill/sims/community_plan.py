"""What a simulated patch is: its options, its bricks, its exposures and their weather."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skymill.data.errors import ConfigError
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.options import check_range, option
from skymill.sims.camera import SKY_BRIGHTNESS, Pointing
from skymill.sims.detector import CCD_SHAPE, ccd_facts
from skymill.sims.headers import ExposureHead, best_time, zenith_distance
from skymill.sims.optics import Optics, PsfModel, aim_at
from skymill.sims.scene import sky_positions

__all__ = [
    "BRICK_SCALE",
    "PATCH_PRESETS",
    "WHOLE_CCD",
    "PatchBrick",
    "ReleasePatchOptions",
    "Window",
    "patch_bricks",
    "patch_preset",
    "plan_patch",
]

#: Width of a pixel of the bricks [arcsec].
BRICK_SCALE = 0.262
_BRICK_SIZE = 3600
_OVERLAP = 60

#: First pixel and size (x0, y0, nx, ny) of an image within its CCD.
type Window = tuple[int, int, int, int]
#: The pixels that the pipeline delivers: all but one at each edge.
WHOLE_CCD: Window = (1, 1, CCD_SHAPE[1] - 2, CCD_SHAPE[0] - 2)


@dataclass(frozen=True, kw_only=True)
class ReleasePatchOptions:
    """A patch of a simulated survey of community-processed images."""

    seed: int = option(1, "seed of everything random")
    ra: float = option(150.25, "right ascension of the bricks' common corner", unit="deg")
    dec: float = option(2.125, "declination of it", unit="deg")
    n_bricks: int = option(4, "bricks around the corner: 4, or the 2 to the North of it")
    brick_pixels: int = option(1050, "part of each brick that is covered", unit="pixel")
    bands: tuple[str, ...] = option(("g", "r", "z"), "bands")
    exposures: int = option(6, "exposures in each band")
    exposure_times: tuple[float, ...] = option((120.0, 90.0, 100.0), "seconds in each band")
    seeing: tuple[float, float] = option((0.8, 1.6), "best and worst FWHM", unit="arcsec")
    dither: float = option(80.0, "largest offset between exposures, in x and y", unit="arcsec")
    ccds: tuple[int, ...] = option((28, 35), "CCDNUM of the CCDs, around whose centre the patch is")
    window: tuple[int, int] | None = option(
        None, "width and height of a part of one CCD instead of whole ones", unit="pixel"
    )
    depth: float = option(24.5, "faintest galaxy that is drawn, i band", unit="mag")
    galaxy_density: float = option(1.0, "galaxies relative to the real sky")
    star_density: float = option(2.0, "stars relative to the sky at galactic latitude 42 deg")
    smallest_radius: float = option(0.2, "half-light radius of the smallest galaxy", unit="arcsec")
    blends: float = option(0.04, "share of galaxies of r < 22.7 with a companion within 2.8 arcsec")
    bright_stars: tuple[tuple[float, float, float], ...] = option(
        ((-150.0, 120.0, 11.5), (130.0, -140.0, 13.0), (90.0, 200.0, 14.0)),
        "stars in addition: East and North of the centre [arcsec], Gaia G (AB)",
    )
    halos: bool = option(True, "light of bright stars that the telescope scatters beyond 7 arcsec")
    cosmic_ray_rate: float = option(1.6, "tracks per cm2 and minute", unit="1/cm2/min")
    found_cosmic_rays: float = option(0.8, "share of the cosmic rays that the pipeline masks")
    trails: float = option(0.25, "share of the exposures that a satellite crosses")
    calibrated: bool = option(True, "write survey-ccds and the PSF and sky files, all true")
    mjd: int = option(58160, "night of the first exposure (a day in Chile)", unit="d")
    first_number: int = option(720001, "EXPNUM of the first exposure")

    def __post_init__(self) -> None:
        check_range(self, "dec", low=-88.0, high=88.0)
        check_range(self, "brick_pixels", low=50, high=3400)
        check_range(self, "exposures", low=1, high=500)
        check_range(self, "blends", low=0.0, high=0.4)
        check_range(self, "smallest_radius", low=0.02, high=4.0)
        for name in ("found_cosmic_rays", "trails"):
            check_range(self, name, low=0.0, high=1.0)
        if self.n_bricks not in (2, 4):
            raise ConfigError(f"n_bricks must be 2 or 4; got {self.n_bricks}")
        unknown = [b for b in self.bands if b not in ("u", "g", "r", "i", "z", "Y")]
        if unknown or not self.bands or len(self.bands) != len(self.exposure_times):
            raise ConfigError(
                "bands must be among u g r i z Y, with one exposure time each; got "
                f"{self.bands} and {self.exposure_times}"
            )
        if self.window is not None and len(self.ccds) != 1:
            raise ConfigError(f"a window is a part of one CCD; got the CCDs {self.ccds}")
        for number in self.ccds:
            ccd_facts(number)

    def corner(self) -> tuple[float, float]:
        """Common corner of the bricks [deg]: the one nearest to (ra, dec)."""
        low_row = round((self.dec + 90.0 - 0.125) / 0.25)
        dec = -90.0 + 0.25 * low_row + 0.125
        n = _columns(low_row + 1)
        return 360.0 * (round((self.ra % 360.0) / 360.0 * n) % n) / n, dec

    def centre(self) -> tuple[float, float]:
        """Middle of the patch [deg]."""
        ra, dec = self.corner()
        up = 0.5 * self.brick_pixels * BRICK_SCALE / 3600.0 if self.n_bricks == 2 else 0.0
        return ra, dec + up

    def patch_size(self) -> tuple[float, float]:
        """Width and height of what is covered of the bricks [arcsec]."""
        width = 2.0 * self.brick_pixels * BRICK_SCALE
        return width, width if self.n_bricks == 4 else 0.5 * width

    def windows(self) -> dict[int, Window]:
        """Pixels of each CCD that are delivered."""
        if self.window is None:
            return dict.fromkeys(self.ccds, WHOLE_CCD)
        nx, ny = self.window
        x0, y0 = (CCD_SHAPE[1] - nx) // 2, (CCD_SHAPE[0] - ny) // 2
        return {self.ccds[0]: (x0, y0, nx, ny)}

    def focal_centre(self) -> tuple[float, float]:
        """Middle of the CCDs in the focal plane [mm]."""
        ccds = [ccd_facts(n) for n in self.ccds]
        return (
            0.5 * (min(c.x_min for c in ccds) + max(c.x_max for c in ccds)),
            0.5 * (min(c.y_min for c in ccds) + max(c.y_max for c in ccds)),
        )

    def sky_size(self) -> tuple[float, float]:
        """Width and height of the sky that the images see [deg] (x is South, y is East)."""
        ccds, (nx, ny) = [ccd_facts(n) for n in self.ccds], self.window or WHOLE_CCD[2:]
        x = (nx - CCD_SHAPE[1]) * 0.015 + max(c.x_max for c in ccds) - min(c.x_min for c in ccds)
        y = (ny - CCD_SHAPE[0]) * 0.015 + max(c.y_max for c in ccds) - min(c.y_min for c in ccds)
        margin = 2.0 * self.dither + 40.0
        return (y / 0.015 * 0.2634 + margin) / 3600.0, (x / 0.015 * 0.2634 + margin) / 3600.0


#: Sizes: `small` for science (4 bricks of 1050 pixels), `tiny` for tests (2 of 300, seconds).
PATCH_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "tiny": {
        "n_bricks": 2, "brick_pixels": 300, "ccds": (35,), "window": (640, 940), "dither": 10.0,
        "exposures": 5, "star_density": 8.0, "depth": 24.0, "bright_stars": ((35.0, 20.0, 14.5),),
    },
}  # fmt: skip


def patch_preset(size: str, **changes: Any) -> ReleasePatchOptions:
    """Options of one of the sizes small and tiny.

    Parameters
    ----------
    size : str
        Name of the preset.
    **changes : object
        Fields of `ReleasePatchOptions` that differ from it.

    Returns
    -------
    ReleasePatchOptions
        The options.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if size not in PATCH_PRESETS:
        raise ConfigError(f"size must be one of {', '.join(PATCH_PRESETS)}; got {size!r}")
    return replace(ReleasePatchOptions(), **{**PATCH_PRESETS[size], **changes})


def _columns(row: int) -> int:
    """Number of bricks in a row of the Legacy Surveys' tiling."""
    if row in (0, 720):
        return 1
    nearest = max(0.0, abs(-90.0 + row / 4) - 0.125)
    return 2 * int(np.ceil(np.round(1440.0 * np.cos(np.radians(nearest)) / 2.0, 9)))


@dataclass(frozen=True, kw_only=True)
class PatchBrick:
    """One brick and the part of it that the patch covers.

    Parameters
    ----------
    name, brickid, quadrant, row, column, ra, dec, ra1, ra2, dec1, dec2 :
        As in survey-bricks.
    zoom : tuple of int [pixel]
        x0, x1, y0, y1 of the covered part in the brick's image of 3600 pixels.
    """

    name: str
    brickid: int
    quadrant: int
    row: int
    column: int
    ra: float
    dec: float
    ra1: float
    ra2: float
    dec1: float
    dec2: float
    zoom: tuple[int, int, int, int]

    @property
    def wcs(self) -> FitsWcs:
        """World coordinates of the brick's image of 3600 pixels."""
        middle = (_BRICK_SIZE - 1) / 2
        return make_tan_wcs(ra=self.ra, dec=self.dec, scale=BRICK_SCALE, x=middle, y=middle)


def _brick(row: int, column: int, corner: tuple[float, float], pixels: int) -> PatchBrick:
    n = _columns(row)
    column %= n
    ra, dec = 360.0 * (column + 0.5) / n, -90.0 + row / 4
    sign = "p" if dec >= 0 else "m"
    middle = (_BRICK_SIZE - 1) / 2
    wcs = make_tan_wcs(ra=ra, dec=dec, scale=BRICK_SCALE, x=middle, y=middle)
    x, y = (float(v[0]) for v in wcs.sky_to_pixel(ra=[corner[0]], dec=[corner[1]]))
    x0, x1 = (x - _OVERLAP, x + pixels) if x < middle else (x - pixels, x + _OVERLAP)
    y0, y1 = (y - _OVERLAP, y + pixels) if y < middle else (y - pixels, y + _OVERLAP)
    zoom = tuple(int(np.clip(round(v), 0, _BRICK_SIZE)) for v in (x0, x1, y0, y1))
    return PatchBrick(
        name=f"{1e4 * ra:07.0f}"[:4] + sign + f"{1e4 * abs(dec):06.0f}"[:3],
        brickid=sum(_columns(r) for r in range(row)) + column + 1,
        quadrant=(column % 2) + 2 * (row % 2), row=row, column=column, ra=ra, dec=dec,
        ra1=360.0 * column / n, ra2=360.0 * (column + 1) / n, dec1=dec - 0.125, dec2=dec + 0.125,
        zoom=zoom,  # type: ignore[arg-type]
    )  # fmt: skip


def patch_bricks(options: ReleasePatchOptions) -> list[PatchBrick]:
    """The bricks of a patch, by declination and right ascension.

    Parameters
    ----------
    options : ReleasePatchOptions
        The patch.

    Returns
    -------
    list of PatchBrick
        Two or four; where the columns of the two rows do not meet, the corner is that of the
        northern row and lies on the edge of one southern brick.
    """
    corner = options.corner()
    north = round((corner[1] + 90.0 + 0.125) * 4)
    out: dict[str, PatchBrick] = {}
    for row in (north,) if options.n_bricks == 2 else (north - 1, north):
        for side in (-1e-4, 1e-4):
            column = int(np.floor((corner[0] + side) % 360.0 / 360.0 * _columns(row)))
            brick = _brick(row, column, corner, options.brick_pixels)
            out[brick.name] = brick
    return list(out.values())


def _dither(k: int, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Offsets evenly spaced in x and in y, in [-1, 1]."""
    if n == 1:
        return 0.0, 0.0
    steps = np.linspace(-0.95, 0.95, n)
    order = np.argsort((np.arange(n) * 2 + 1) % (n + 1 - n % 2), kind="stable")
    jitter = rng.uniform(-0.05, 0.05, 2)
    return float(steps[k] + jitter[0]), float(steps[order[k]] + jitter[1])


def plan_patch(options: ReleasePatchOptions) -> list[Pointing]:
    """The exposures with their weather.

    Parameters
    ----------
    options : ReleasePatchOptions
        The patch.

    Returns
    -------
    list of Pointing
        Bands take turns; nights are 23 days apart.
    """
    rng = np.random.default_rng([options.seed, 2])
    n = options.exposures
    out, number = [], options.first_number
    seeing = {b: rng.permutation(np.linspace(*options.seeing, n)) for b in options.bands}
    for k in range(n):
        night = options.mjd + 23 * k
        clock = best_time(options.ra, night)
        for band, seconds in zip(options.bands, options.exposure_times, strict=True):
            out.append(_plan_one(options, band, seconds, clock, number, k, seeing[band][k], rng))
            number += 1
            clock += (seconds + 31.0) / 86400.0
    return out


def _plan_one(
    options: ReleasePatchOptions, band: str, seconds: float, mjd: float, number: int, k: int,
    seeing: float, rng: np.random.Generator,
) -> Pointing:  # fmt: skip
    east, north = _dither(k, options.exposures, rng)
    ra0, dec0 = options.centre()
    ra, dec = sky_positions(
        np.array([east * options.dither]), np.array([north * options.dither]), ra0=ra0, dec0=dec0
    )
    focal = options.focal_centre()
    ra0, dec0 = aim_at(ra=float(ra[0]), dec=float(dec[0]), focal_x=focal[0], focal_y=focal[1])
    zd = zenith_distance(options.ra, options.dec, mjd)[0]
    airmass = float(min(1.0 / max(np.cos(np.radians(zd)), 0.25), 3.0))
    size = seeing * np.concatenate([[1.0], rng.normal(0.0, [0.02, 0.02, 0.03, 0.02, 0.03])])
    e1, e2 = (rng.normal(0.0, [0.02, 0.02, 0.02, 0.02, 0.02, 0.02]) for _ in range(2))
    head = ExposureHead(
        number=number, kind="object", band=band, exposure_time=seconds, mjd=mjd, ra=ra0, dec=dec0,
        target="PATCH", sequence=k + 1, sequence_length=options.exposures, airmass=airmass,
        seeing=float(seeing),
    )  # fmt: skip
    return Pointing(
        head=head,
        optics=Optics(ra0, dec0, *rng.normal(0.0, (0.01, 2e-5, 3e-5)).tolist()),
        psf=PsfModel("moffat", 3.0, tuple(size.tolist()), tuple(e1.tolist()), tuple(e2.tolist())),
        transparency=float(np.clip(rng.normal(0.96, 0.02), 0.88, 1.0)),
        sky=SKY_BRIGHTNESS[band] + float(rng.normal(0.0, 0.2)),
        sky_slope=(float(rng.normal(0.0, 0.03)), float(rng.normal(0.0, 0.03))),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip
