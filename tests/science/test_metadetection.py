"""Metadetection finds a constant shear on scenes that galsim drew, which knows nothing of it.

Each scene is drawn with shear +g and -g, same galaxies and same noise, and each galaxy also turned
by 90 degrees: intrinsic shapes leave the difference. m and c are printed with their errors.
"""

import functools

import galsim
import numpy as np
import pytest

from skymill.shear.metadetect import MetadetectOptions, estimate_shear, metadetect_cell

pytestmark = pytest.mark.slow

SCALE, SIDE, MARGIN, SHEAR = 0.263, 200, 20, 0.02


def psf_of(rng):
    """Another PSF for each cell: seeing and ellipticity vary over a field."""
    return galsim.Moffat(beta=3.0, fwhm=rng.uniform(0.85, 1.05)).shear(
        g1=0.02 + rng.normal(0, 0.01), g2=-0.015 + rng.normal(0, 0.01)
    )


@functools.cache
def isolated(n_row=4):
    step = (SIDE - 2 * MARGIN) / n_row
    grid = MARGIN + step * (np.arange(n_row) + 0.5)
    return np.array([a.ravel() for a in np.meshgrid(grid, grid)]) - SIDE / 2


def galaxies(rng, turn, x, y):
    """Positions [arcsec] and profiles; with turn, each turned by 90 degrees in its place."""
    out = []
    for u, v in zip(x, y, strict=True):
        radius = rng.uniform(0.3, 0.9)
        flux = 10 ** rng.uniform(1.2, 2.2)
        e, angle = min(abs(rng.normal(0, 0.25)), 0.7), rng.uniform(0, np.pi)
        shape = galsim.Shear(g=e, beta=(angle + turn * np.pi / 2) * galsim.radians)
        profile = galsim.Exponential if rng.uniform() < 0.7 else galsim.DeVaucouleurs
        out.append((profile(half_light_radius=radius, flux=flux).shear(shape), (u, v)))
    return out


def draw(parts, psf, g1, g2, *, moving):
    image = galsim.ImageF(SIDE, SIDE, scale=SCALE)
    image.setCenter(0, 0)
    shear = galsim.Shear(g1=g1, g2=g2)
    for profile, (u, v) in parts:
        seen = galsim.Convolve(profile.shear(shear), psf)
        x, y = shear.getMatrix() @ (u, v) if moving else (u, v)
        size = 72
        stamp = galsim.ImageF(size, size, scale=SCALE)
        stamp.setCenter(round(x / SCALE), round(y / SCALE))
        seen.drawImage(stamp, center=galsim.PositionD(x / SCALE, y / SCALE))
        bounds = stamp.bounds & image.bounds
        image[bounds] += stamp[bounds]
    return image.array


def run(n_cell, *, seed, noise, blended=False, options=None):
    """Differences and sums of the shears found at +g and -g, with jackknife errors."""
    options = options or MetadetectOptions()
    found = {+1: [], -1: []}
    for k in range(n_cell // 2):
        for turn in (0, 1):
            rng = np.random.default_rng([seed, k])
            if blended:
                n = rng.poisson(28)
                x, y = rng.uniform(-SIDE / 2, SIDE / 2, (2, n))
            else:
                x, y = isolated() + rng.uniform(-1.0, 1.0, (2, 16))
            x, y = x * SCALE, y * SCALE
            psf = psf_of(rng)
            parts = galaxies(rng, turn, x, y)
            star = psf.drawImage(nx=51, ny=51, scale=SCALE).array
            pixels, other = rng.normal(0, noise, (2, SIDE, SIDE)).astype(np.float32)
            for sign in (+1, -1):
                image = (draw(parts, psf, sign * SHEAR, 0.0, moving=blended) + pixels).astype(
                    np.float32
                )
                found[sign].append(
                    metadetect_cell(
                        image[None], np.array([noise**2]), other[None], star[None],
                        bands=("r",), margin=MARGIN, options=options,
                    )
                )  # fmt: skip
    return found


def bias(found, options=None, n_group=100):
    """m, c1, c2 and their errors, by jackknife over pairs of cells."""
    options = options or MetadetectOptions()

    def both(keep):
        return [estimate_shear([c for c, k in zip(found[s], keep, strict=True) if k],
                               options=options, max_groups=2) for s in (+1, -1)]  # fmt: skip

    def numbers(keep):
        plus, minus = both(keep)
        return np.array(
            [
                (plus.g1 - minus.g1) / (2 * SHEAR) - 1,
                (plus.g1 + minus.g1) / 2,
                (plus.g2 + minus.g2) / 2,
            ]
        )

    n = len(found[+1])
    group = (np.arange(n) // 2) % n_group
    value = numbers(np.ones(n, bool))
    left = np.array([numbers(group != g) for g in np.unique(group)])
    error = np.sqrt((len(left) - 1) * left.var(axis=0))
    return value, error


def report(name, value, error):
    print(  # noqa: T201
        f"{name}: m = {value[0]:+.5f} +- {error[0]:.5f}, c1 = {value[1]:+.5f} +- {error[1]:.5f}, "
        f"c2 = {value[2]:+.5f} +- {error[2]:.5f}"
    )


def test_isolated_galaxies_of_ring_pairs():
    # No galaxy lies near a cut, so that m is limited by the noise of shapes and response alone:
    # 0.27 / sqrt(galaxies), measured.
    options = MetadetectOptions(min_size_ratio=0.8, min_snr=8.0)
    n_cell = 1200
    value, error = bias(run(n_cell, seed=1, noise=0.02, options=options), options)
    report("isolated galaxies", value, error)
    assert error[0] < 0.003
    assert abs(value[0]) < 3 * error[0] + 1e-3  # second order of a shear of 0.02 is 4e-4
    assert abs(value[1:]).max() < 3 * error[1:].max() + 2e-4
