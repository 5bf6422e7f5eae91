"""Fluxes of all sources of a brick at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from brick_scenes import exposure, gaussian, grid

from skymill.model.fit_image import FitImage
from skymill.model.sources import Sources
from skymill.release.brick.joint_fluxes import expected_weights, joint_fluxes
from skymill.release.brick.mapping import map_pixels

#: Two of one blob, one of another whose wings reach them, one near the edge of the images.
STARS = [(30.0, 40.0, 40.0), (36.0, 42.0, 8.0), (43.0, 37.0, 90.0), (76.0, 70.0, 5.0)]
BLOB_OF = np.array([0, 0, 1, 2])
#: Damping of the steps.
DAMPING = 0.2


def blobs() -> np.ndarray:
    out = np.full((80, 80), -1, np.int32)
    out[25:60, 15:40], out[20:50, 40:60], out[60:80, 65:80] = 0, 1, 2
    return out


def sources(flux: list[float]) -> Sources:
    x, y, _ = (np.array(c) for c in zip(*STARS, strict=True))
    ra, dec = grid().wcs.pixel_to_sky(x=x, y=y)
    return Sources.create(ra=ra, dec=dec, flux=np.array(flux)[:, None])


def solve(images: list[FitImage], flux: list[float], fixed: list[bool]) -> np.ndarray:
    maps = [map_pixels(image, grid()) for image in images]
    return joint_fluxes(
        images, maps, blobs(), sources(flux), BLOB_OF, ("r",), fixed=np.array(fixed)
    )[:, 0]  # fmt: skip


def by_hand(images: list[FitImage], flux: list[float], free: list[int]) -> np.ndarray:
    """The normal equations with whole images, for exposures with the pixels of the brick."""
    profiles = [gaussian(80, 2.0, x, y) for x, y, _ in STARS]
    model = sum(f * p for f, p in zip(flux, profiles, strict=True))
    matrix, right = np.zeros((4, 4)), np.zeros(4)
    for image in images:
        for a in range(4):
            own = blobs() == BLOB_OF[a]
            weighted = profiles[a] * own * image.inverse_error**2
            right[a] += (weighted * (image.image - model)).sum()
            for b in range(4):
                if BLOB_OF[a] == BLOB_OF[b]:
                    matrix[a, b] += (weighted * profiles[b]).sum()
    matrix += DAMPING * np.diag(np.diag(matrix))
    out = np.array(flux)
    out[free] += np.linalg.solve(matrix[np.ix_(free, free)], right[free])
    return out


@pytest.mark.parametrize("free", [[0, 1, 2, 3], [0, 2]])
def test_one_step_is_that_of_the_normal_equations(free: list[int]) -> None:
    images = [exposure(STARS, seed=k, number=k) for k in (1, 2)]
    images[1].inverse_error[38:42, 20:34] = 0.0
    flux = [44.0, 6.0, 89.0, 5.5]
    found = solve(images, flux, [k not in free for k in range(4)])
    # Stamps end at 7.5 sigma, are interpolated, and faint ones are cut at 0.003 of the noise.
    np.testing.assert_allclose(found, by_hand(images, flux, free), rtol=2e-3, atol=5e-3)
    assert all(found[k] == flux[k] for k in range(4) if k not in free)


def test_light_from_another_blob_is_taken_away() -> None:
    """What a fit of blob 0 alone would give, and what is left of its error."""
    image = exposure(STARS)
    alone = np.array([f for _, _, f in STARS])
    profiles = [gaussian(80, 2.0, x, y) for x, y, _ in STARS]
    own = blobs() == 0
    design = np.stack([p[own] for p in profiles[:2]], axis=1)
    alone[:2] = np.linalg.lstsq(design, image.image[own], rcond=None)[0]
    before = alone - [f for _, _, f in STARS]
    assert before[1] > 0.05
    after = solve([image], list(alone), [False] * 4) - np.array([f for _, _, f in STARS])
    assert abs(after[1]) < 0.3 * before[1]


def test_without_usable_pixels_a_flux_stays() -> None:
    image = exposure(STARS)
    image.inverse_error[:] = 0.0
    flux = [44.0, 0.0, 89.0, 5.5]
    assert solve([image], flux, [False] * 4).tolist() == flux
    assert solve([], flux, [False] * 4).tolist() == flux


def test_weights_of_the_expected_counts_leave_no_bias() -> None:
    """The variance of the pipelines is that of the measured counts; fluxes come out too low."""
    rng = np.random.default_rng(8)
    gain, sky, true = 400.0, 0.1, 100.0
    scene = exposure([(40.0, 40.0, true)], noise=float(np.sqrt(sky / gain)))
    profile = gaussian(80, 2.0, 40.0, 40.0)
    pulls = []
    for _ in range(400):
        counts = rng.poisson((true * profile + sky) * gain)
        measured = replace(
            scene,
            image=(counts / gain - sky).astype(np.float32),
            inverse_error=(gain / np.sqrt(np.maximum(counts, 1.0))).astype(np.float32),
        )
        weights = (
            measured.inverse_error**2,
            expected_weights(measured, (true * profile).astype(np.float32)),
        )
        pulls.append(
            [
                (w * profile * (measured.image - true * profile)).sum()
                / np.sqrt((w * profile**2).sum())
                for w in weights
            ]
        )
    before, after = np.mean(pulls, axis=0)
    # Each mean has the error 0.05.
    assert before < -0.3
    assert abs(after) < 0.15
    assert np.std(pulls, axis=0)[1] == pytest.approx(1.0, abs=0.15)


def test_weights_without_bright_pixels_stay() -> None:
    image = exposure([], seed=1)
    empty = np.zeros(image.shape, np.float32)
    np.testing.assert_array_equal(expected_weights(image, empty), image.inverse_error**2)
