"""Metadetection finds a constant shear: isolated galaxies, blends, coadds; m, c and leakage.

Scenes are drawn by `skymill.sims`, which shares no code with what is graded. To see a bias of 1e-3
with few galaxies, everything that is not the answer is made the same on both sides:

- each scene is drawn with shear +g and -g (m is half of the difference over g);
- each is drawn again with every galaxy turned by 90 degrees and the noise negated, so that shapes
  and noise cancel in the sum (c) and to first order in the difference;
- the noise is stretched with the sky, and stays white: only its distribution matters for the
  mean, and so it moves with the galaxies as in the images that metadetection shears. That of the
  exposures of a coadd is stretched before they are resampled.

Errors are by jackknife over the scenes. All numbers are printed (``pytest -rA``).
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import pytest
from astropy.io import fits

from skymill.coadd.noise_spectrum import measure_noise_spectrum
from skymill.coadd.stack import stack_warps
from skymill.coadd.warp import WarpOptions, warp_exposures
from skymill.data.geometry import FitsWcs, local_jacobian, make_tan_wcs
from skymill.data.images import Box, Exposure, ExposureInfo, PixelPlanes
from skymill.data.photometry import FluxScale
from skymill.psf.models import ConstantPsf
from skymill.shear.metadetect import (
    MetadetectOptions,
    metadetect_cell,
    ramp,
    shear_weights,
)
from skymill.shear.response import solve_shear, sum_shapes
from skymill.sims.draw import PsfField, Sources, draw_sources
from skymill.sims.populations import draw_field_galaxies

pytestmark = pytest.mark.slow

SCALE, SIDE, MARGIN, SHEAR = 0.263, 288, 24, 0.02
CENTRE = SIDE // 2
# Noise of a pixel that gives a star of r = 25.5 a signal to noise of 5 at 0.95 arcsec.
NOISE = 10 ** (-0.4 * (25.5 - 31.4)) / 5 / np.sqrt(4 * np.pi) / (0.95 / 2.355 / SCALE) / 1.25


def shear_matrix(g1, g2):
    g1, g2 = np.broadcast_arrays(g1, g2)
    matrix = np.stack([np.stack([1 + g1, g2], -1), np.stack([g2, 1 - g1], -1)], -2)
    return matrix / np.sqrt(1 - g1**2 - g2**2)[..., None, None]


@functools.lru_cache(maxsize=16)
def stretch(factor, size, centre):
    """Matrix that stretches a row of white noise about the centre and leaves it white."""
    x = np.arange(size) - centre
    half = np.pi / size * (x[:, None] - factor * x[None, :])
    # The sum of the cosines of all wave numbers, -size / 2 to size / 2 - 1.
    sine = np.sin(half)
    near = np.abs(sine) < 1e-9
    total = np.sin(size * half) * np.cos(half) / np.where(near, 1.0, sine)
    return np.where(near, size, total) / size


def stretch_noise(noise, g, x=None, y=None):
    """White noise that moves with the sky under a shear about a place (the centre)."""
    factor, half = np.sqrt((1 + g) / (1 - g)), len(noise) // 2
    rows = stretch(1 / factor, len(noise), half if y is None else y)
    columns = stretch(factor, len(noise), half if x is None else x)
    return (rows @ noise @ columns.T).astype(np.float32)


@functools.cache
def population(depth, seed=5):
    """Field galaxies; half-light radius under 1.6 arcsec and fainter than 19 in i, as in a cell."""
    table = draw_field_galaxies(
        np.random.default_rng(seed), width=0.3, height=0.3, density=2.0, depth=depth
    )
    keep = (table["hlr_disk"] < 1.6) & (table["hlr_bulge"] < 1.6) & (table["mag_i"] > 19)
    return table[np.asarray(keep)]


@dataclass
class Scene:
    """Positions about the centre [pixel] and shapes of galaxies before the shear."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    fraction: np.ndarray
    radius: np.ndarray  # (2, n): of disk and bulge [arcsec]
    shape: np.ndarray  # complex reduced shear

    @classmethod
    def draw(cls, rng, x, y, depth):
        table = population(depth)
        rows = table[rng.integers(0, len(table), x.size)]
        phase = np.exp(2j * rng.uniform(0, np.pi, x.size))
        return cls(
            x, y, 10 ** (-0.4 * (np.asarray(rows["mag_r"]) - 31.4)),
            np.asarray(rows["bulge_fraction"], np.float64),
            np.array([rows["hlr_disk"], rows["hlr_bulge"]], np.float64),
            np.hypot(rows["g1_int"], rows["g2_int"]) * phase,
        )  # fmt: skip

    def maps(self, g, turn):
        """Matrices of disk and bulge [arcsec] under the shear, with turn turned by 90 degrees."""
        e = self.shape * (-1 if turn else 1)
        seen = shear_matrix(g, 0.0) @ shear_matrix(e.real, e.imag)
        return [r[:, None, None] * seen for r in self.radius]

    def places(self, g):
        return shear_matrix(g, 0.0) @ np.array([self.x, self.y])


def moffat(n, fwhm, g1, g2):
    return PsfField("moffat", 3.0, *(np.full(n, v) for v in (fwhm, g1, g2)))


def draw_star(psf, size=51):
    """The PSF of a cell, cut from a wider stamp."""
    wide = size + 40
    image, at = np.zeros((wide, wide), np.float32), np.array([float(wide // 2)])
    nothing = np.zeros((1, 2, 2))
    source = Sources(at, at, np.array([1e7]), np.array([-1.0]), nothing, nothing, JACOBIAN[None])
    draw_sources(image, source, moffat(1, *psf), noise=1e-3)
    image = image[20:-20, 20:-20]
    return image / image.sum()


JACOBIAN = np.eye(2) * SCALE


def draw_cell(scene, g, turn, psf, noise):
    image = np.zeros((SIDE, SIDE), np.float32)
    n = scene.x.size
    x, y = scene.places(g) + CENTRE
    jacobian = np.broadcast_to(JACOBIAN, (n, 2, 2))
    sources = Sources(x, y, scene.flux, scene.fraction, *scene.maps(g, turn), jacobian)
    draw_sources(image, sources, moffat(n, *psf), noise=0.1 * noise)
    return image


def random_psf(rng):
    """Another PSF for each cell: seeing and ellipticity vary over a field."""
    return rng.uniform(0.8, 1.1), 0.03 + rng.normal(0, 0.03), -0.02 + rng.normal(0, 0.03)


def isolated(rng, depth=24.6, spacing=40):
    n = (SIDE - 2 * MARGIN) // spacing
    grid = MARGIN + spacing * (np.arange(n) + 0.5) - CENTRE
    x, y = (a.ravel() + rng.uniform(-1, 1, n * n) for a in np.meshgrid(grid, grid))
    return Scene.draw(rng, x, y, depth)


def crowded(rng, depth=25.5):
    """66 galaxies per square arcmin, at random places."""
    half = CENTRE + 20
    n = rng.poisson(65.7 * (2 * half * SCALE / 60) ** 2)
    return Scene.draw(rng, *rng.uniform(-half, half, (2, n)), depth)


def inner_weights(g, options=None):
    """Weights of the sources of the inner cell, the true shear undone: no rim that moves."""
    back = np.linalg.inv(shear_matrix(g, 0.0))

    def weigh(table):
        place = back @ np.array([table["x"], table["y"]] - np.float64(CENTRE))
        inside = (np.abs(place) < CENTRE - MARGIN).all(axis=0)
        return np.where(inside, shear_weights(table, options), 0.0)

    return weigh


def bright_weights(g):
    """Rising from a signal to noise of 20 to one of 80."""
    return inner_weights(g, MetadetectOptions(min_snr=20.0, full_snr=80.0))


def faint_weights(g):
    """Falling from a signal to noise of 20 to one of 30."""
    inner = inner_weights(g)

    def weigh(table):
        return inner(table) * (1.0 - ramp(np.asarray(table["snr"]), 20.0, 30.0))

    return weigh


def run(n_scene, *, make, noise, seed, cuts=(inner_weights,)):
    """Sums for each cut and +g and -g, (n_cut, 2, n_scene, 5, 4), and ellipticities of the PSF."""
    sums, psfs = np.zeros((len(cuts), 2, n_scene, 5, 4)), np.zeros((n_scene, 2))
    for k in range(n_scene):
        rng = np.random.default_rng([seed, k])
        scene, psf = make(rng), random_psf(rng)
        psfs[k] = psf[1:]
        star = draw_star(psf)
        planes = rng.normal(0, noise, (2, SIDE, SIDE))
        for s, g in enumerate((SHEAR, -SHEAR)):
            pixels, other = (stretch_noise(p, g) for p in planes)
            for turn, sign in ((0, 1), (1, -1)):
                image = draw_cell(scene, g, turn, psf, noise) + sign * pixels
                found = metadetect_cell(
                    image[None], np.array([noise**2]), sign * other[None], star[None],
                    bands=("r",), margin=MARGIN - 8,
                )  # fmt: skip
                for c, cut in enumerate(cuts):
                    sums[c, s, k] += sum_shapes(found, weigh=cut(g))
    return sums, psfs


def bias(sums):
    """m, c1, c2 and their errors by jackknife over the scenes."""

    def numbers(plus, minus):
        a, b = solve_shear(plus)[0], solve_shear(minus)[0]
        m = (a[..., 0] - b[..., 0]) / (2 * SHEAR) - 1
        return np.stack([m, *np.moveaxis((a + b) / 2, -1, 0)], -1)

    total = sums.sum(axis=1)
    left = numbers(*(total[:, None] - sums))
    return numbers(*total), np.sqrt((len(left) - 1) * left.var(axis=0))


def leakage(sums, psfs):
    """Slope of the mean shear of a scene with the ellipticity of its PSF, and its error."""
    both = sums.sum(axis=0)
    response = np.diag(solve_shear(both.sum(axis=0))[1])
    mean = both[:, 0, 1:3] / both[:, 0, :1] / response
    p = psfs - psfs.mean(axis=0)
    above, below = (p * (mean - mean.mean(axis=0))).sum(axis=1), (p * p).sum(axis=1)
    left = (above.sum() - above) / (below.sum() - below)
    return above.sum() / below.sum(), np.sqrt((len(left) - 1) * left.var())


def report(name, sums, psfs=None):
    """Print m, c and leakage with their errors; returns values and errors."""
    value, error = bias(sums)
    names = ["m", "c1", "c2"]
    if psfs is not None:
        slope = leakage(sums, psfs)
        names.append("alpha")
        value, error = np.append(value, slope[0]), np.append(error, slope[1])
    parts = (f"{n} = {v:+.5f} +- {e:.5f}" for n, v, e in zip(names, value, error, strict=True))
    print(f"{name}: {', '.join(parts)}; {sums[0, :, 0, 3].sum():.0f} galaxies")  # noqa: T201
    return value, error


CCD = 440
RA, DEC = 150.0, -12.0
TRACT = make_tan_wcs(ra=RA, dec=DEC, scale=SCALE, x=float(CENTRE), y=float(CENTRE))
BOX = Box(x0=0, y0=0, x1=SIDE, y1=SIDE)


def distorted_wcs(rng, turn):
    """TPV with the distortion of the edge of DECam's field, turned, dithered."""
    angle = np.radians(90 * turn + rng.uniform(-4, 4))
    step = SCALE / 3600
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = RA - 0.6, DEC - 0.5
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    header["CRPIX1"], header["CRPIX2"] = 1.0, 1.0
    header["RADESYS"] = "ICRS"
    for axis in (1, 2):
        for term, value in ((0, 0.0), (1, 1.0), (7, 0.0065), (9, 0.0065)):
            header[f"PV{axis}_{term}"] = value
    wcs = FitsWcs(header)
    x, y = wcs.sky_to_pixel(ra=[RA], dec=[DEC])
    dx, dy = rng.uniform(-15, 15, 2)
    return wcs.shifted(dx=float(x[0]) - CCD / 2 - dx, dy=float(y[0]) - CCD / 2 - dy)


@dataclass
class Pointing:
    """One exposure before its pixels: mapping, PSF (fwhm, g1, g2 in sky axes), noise."""

    wcs: FitsWcs
    psf: tuple[float, float, float]
    noise: np.ndarray
    moved: dict[float, np.ndarray] = field(default_factory=dict)

    def jacobian(self):
        return local_jacobian(self.wcs, x=[CCD / 2], y=[CCD / 2])

    def star(self):
        image, at = np.zeros((81, 81), np.float32), np.array([40.0])
        nothing = np.zeros((1, 2, 2))
        source = Sources(
            at, at, np.array([1e7]), np.array([-1.0]), nothing, nothing, self.jacobian()
        )
        draw_sources(image, source, moffat(1, *self.psf), noise=1e-3)
        return ConstantPsf(image[10:-10, 10:-10] / image[10:-10, 10:-10].sum())

    def moved_noise(self, g):
        """The noise of the CCD, moving with the sky of the tract (but for 8 % of the shear)."""
        if g in self.moved:
            return self.moved[g]
        x, y = (np.asarray(v)[0] for v in self.wcs.sky_to_pixel(ra=[RA], dec=[DEC]))
        inverse = np.linalg.inv(self.jacobian()[0])
        # Tract pixels to those of the CCD; the tract has x to the West.
        there = inverse @ np.diag([-SCALE, SCALE])
        sheared = there @ shear_matrix(g, 0.0) @ np.linalg.inv(there)
        along = (sheared[0, 0] - sheared[1, 1]) / (sheared[0, 0] + sheared[1, 1])
        self.moved[g] = stretch_noise(self.noise, along, x, y)
        return self.moved[g]

    def expose(self, scene, g, turned, noise, visit):
        """The CCD with the scene, whose shear is along x and y of the tract."""
        x, y = scene.places(g) + CENTRE
        ra, dec = TRACT.pixel_to_sky(x=x, y=y)
        cx, cy = (np.asarray(v) for v in self.wcs.sky_to_pixel(ra=ra, dec=dec))
        n = x.size
        # The tract has x to the West, the maps are in sky axes.
        maps = [np.diag([-1.0, 1.0]) @ m for m in scene.maps(g, turned)]
        jacobian = local_jacobian(self.wcs, x=cx, y=cy)
        image = np.zeros((CCD, CCD), np.float32)
        sources = Sources(cx, cy, scene.flux, scene.fraction, *maps, jacobian)
        draw_sources(image, sources, moffat(n, *self.psf), noise=0.1 * noise)
        image += (-1 if turned else 1) * self.moved_noise(g)
        planes = PixelPlanes(
            image, np.full(image.shape, noise**2, np.float32), np.zeros(image.shape, np.int32)
        )
        info = ExposureInfo(
            instrument="DECam", visit=visit, detector=1, physical_filter="r", band="r",
            exposure_time=100.0, mjd_mid=58000.0,
        )  # fmt: skip
        return Exposure(
            planes=planes, info=info, wcs=self.wcs, psf=self.star(),
            photo_calib=FluxScale(1.0, shape=image.shape),
        )  # fmt: skip


def make_coadd(pointings, scene, g, turned, noise, rng):
    """Pixels, variance and PSF of the coadd, and the spectrum of its noise."""
    options = WarpOptions(psf_cell=SIDE, psf_size=51)
    warps = [
        warp_exposures(
            [p.expose(scene, g, turned, noise, k)], wcs=TRACT, box=BOX, options=options, rng=rng
        )
        for k, p in enumerate(pointings)
    ]
    coadd = stack_warps(warps, box=BOX, wcs=TRACT).finish(skymap="s", tract=0, patch=0)
    psf = coadd.psf.draw(x=[CENTRE], y=[CENTRE])[0]
    return coadd, psf / psf.sum()


def run_coadds(n_scene, *, make, noise, seed, n_exposure=5, cuts):
    """As `run`, on coadds whose exposures have other PSFs, angles and places; sums for each cut."""
    sums = np.zeros((len(cuts), 2, n_scene, 5, 4))
    single = noise * np.sqrt(n_exposure)
    for k in range(n_scene):
        rng = np.random.default_rng([seed, k])
        scene = make(rng)
        pointings = []
        for _ in range(n_exposure):
            turn = int(rng.integers(0, 4))
            pixels = rng.normal(0, single, (CCD, CCD))
            pointings.append(Pointing(distorted_wcs(rng, turn), random_psf(rng), pixels))
        white = rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
        spectrum = None
        for s, g in enumerate((SHEAR, -SHEAR)):
            other = stretch_noise(white, g)
            for turned, sign in ((0, 1), (1, -1)):
                coadd, psf = make_coadd(pointings, scene, g, turned, single, rng)
                level = float(np.median(coadd.planes.variance))
                if spectrum is None:
                    spectrum = measure_noise_spectrum(
                        coadd.noise, coadd.planes.variance, np.ones((SIDE, SIDE), bool)
                    )
                found = metadetect_cell(
                    coadd.planes.image[None], np.array([level]),
                    np.float32(sign * np.sqrt(level)) * other[None], psf[None], bands=("r",),
                    margin=MARGIN - 8, spectra=(spectrum,),
                )  # fmt: skip
                for c, cut in enumerate(cuts):
                    sums[c, s, k] += sum_shapes(found, weigh=cut(g))
    return sums


def test_isolated_galaxies():
    # Signal to noise of hundreds: the noise of the answer is that of the method.
    sums, psfs = run(400, make=isolated, noise=0.05 * NOISE, seed=1)
    value, error = report("isolated", sums[0], psfs)
    assert abs(value[0]) + 2 * error[0] < 2e-3
    assert error[0] < 7e-4
    assert np.abs(value[1:3]).max() < 2e-4
    # What is left of the shape of stars, (0.03, -0.02) with a scatter of 0.03.
    assert abs(value[3]) + 2 * error[3] < 0.01


def test_isolated_galaxies_of_moderate_signal():
    sums, psfs = run(120, make=isolated, noise=0.4 * NOISE, seed=2)
    value, error = report("isolated, noisy", sums[0], psfs)
    assert abs(value[0]) < 3 * error[0] + 1e-3
    assert error[0] < 4e-3


def test_blends():
    cuts = (inner_weights, faint_weights)
    sums, psfs = run(3000, make=crowded, noise=0.4 * NOISE, seed=11, cuts=cuts)
    value, error = report("blends", sums[0], psfs)
    assert abs(value[0]) + 2 * error[0] < 6e-3
    assert error[0] < 2e-3
    assert (np.abs(value[1:3]) < 3 * error[1:3]).all()
    faint, faint_error = report("the faint ones of them", sums[1], psfs)
    assert (np.abs(faint) < 3 * faint_error).all()


def test_coadds_of_bright_galaxies():
    sums = run_coadds(300, make=isolated, noise=0.05 * NOISE, seed=22, cuts=(bright_weights,))
    value, error = report("coadds of five, little noise", sums[0])
    assert abs(value[0]) + 2 * error[0] < 4e-3
    assert error[0] < 4e-3 / 3


def test_coadds_with_noise():
    make = functools.partial(isolated, depth=25.5)
    cuts = (inner_weights, bright_weights, faint_weights)
    sums = run_coadds(500, make=make, noise=0.4 * NOISE, seed=21, cuts=cuts)
    names = ("coadds of five, S/N > 10", "the bright ones of them", "the faint ones")
    for name, part, most in zip(names, sums, (0.02, 6e-3, 0.04), strict=True):
        value, error = report(name, part)
        assert abs(value[0]) + 2 * error[0] < most
        assert error[0] < most / 3
        assert (np.abs(value[1:3]) < 3 * error[1:3]).all()


def test_stars_of_coadds_are_as_large_as_their_model():
    sizes, noise = [], 0.002 * NOISE
    single = noise * np.sqrt(5)
    for k in range(24):
        rng = np.random.default_rng([77, k])
        scene = isolated(rng)
        scene.flux[:], scene.fraction[:] = 3000.0, -1.0
        pointings = [
            Pointing(distorted_wcs(rng, k % 4), random_psf(rng), rng.normal(0, single, (CCD, CCD)))
            for _ in range(5)
        ]
        coadd, psf = make_coadd(pointings, scene, 0.0, 0, single, rng)
        found = metadetect_cell(
            coadd.planes.image[None], np.array([noise**2]), np.zeros((1, SIDE, SIDE), np.float32),
            psf[None], bands=("r",), margin=MARGIN - 8, types=("noshear",),
        )  # fmt: skip
        sizes.append(np.mean(found["noshear"]["size_ratio"]) - 1)
    value, error = np.mean(sizes), np.std(sizes) / np.sqrt(len(sizes))
    print(f"size of stars over their model: 1 {value:+.6f} +- {error:.6f}")  # noqa: T201
    # An error of T is one of m, about as large.
    assert abs(value) + 2 * error < 3e-4
