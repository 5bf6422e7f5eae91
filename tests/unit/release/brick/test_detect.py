"""Sources are found where they are, once, with their fluxes."""

from __future__ import annotations

import numpy as np
import pytest
from brick_scenes import exposure, grid
from numpy.typing import NDArray

from skymill.release.brick.bits import Quality
from skymill.release.brick.blobs import label_blobs
from skymill.release.brick.detect import DetectionMaps, Detections, detect, detection_maps, spectra
from skymill.release.brick.mapping import map_pixels


def _maps(images: list) -> DetectionMaps:
    own = grid()
    return detection_maps(images, own, [map_pixels(im, own) for im in images], ("g", "r", "z"))


def _detect(
    images: list, known: list[tuple[float, float]] | None = None,
    avoid: NDArray[np.bool_] | None = None,
) -> Detections:  # fmt: skip
    at = np.array(known or []).reshape(-1, 2)
    return detect(
        _maps(images), n_sigma=6.0, known_x=at[:, 0], known_y=at[:, 1],
        avoid=np.zeros((80, 80), bool) if avoid is None else avoid,
    )  # fmt: skip


def test_isolated_stars_are_found_with_their_fluxes() -> None:
    stars = [(20.0, 30.0, 10.0), (60.0, 25.0, 5.0), (40.0, 60.0, 20.0)]
    images = [exposure(stars, band=b, seed=k) for k, b in enumerate("grz")]
    found = _detect(images)
    assert sorted(zip(found.x.tolist(), found.y.tolist(), strict=True)) == [
        (20, 30), (40, 60), (60, 25),
    ]  # fmt: skip
    order = np.lexsort((found.y, found.x))
    # The noise of a flux is 2 sqrt(pi) sigma noise = 0.14 nanomaggies.
    np.testing.assert_allclose(found.flux[order], [[10] * 3, [20] * 3, [5] * 3], atol=0.6)


def test_noise_alone_gives_nothing() -> None:
    images = [exposure([], band=b, seed=10 + k) for k, b in enumerate("grz")]
    found = _detect(images)
    assert found.x.size == 0
    assert not found.hot.any()


def test_a_source_of_one_band_is_found() -> None:
    images = [exposure([], band="g", seed=1), exposure([(50.0, 50.0, 2.0)], band="z", seed=2)]
    found = _detect(images)
    assert found.x.tolist() == [50]
    assert found.y.tolist() == [50]


def test_a_blend_is_two_sources_only_with_a_saddle() -> None:
    apart = exposure([(36.0, 40.0, 50.0), (46.0, 40.0, 50.0)])
    merged = exposure([(40.0, 40.0, 50.0), (42.0, 40.0, 50.0)])
    assert _detect([apart]).x.size == 2
    assert _detect([merged]).x.size == 1


def test_known_sources_and_their_wings_are_not_found_again() -> None:
    images = [exposure([(40.0, 40.0, 500.0)], seed=3)]
    assert _detect(images, known=[(40.0, 40.0)]).x.size == 0
    assert _detect(images).x.size == 1
    assert _detect(images, avoid=np.ones((80, 80), bool)).x.size == 0


def test_a_saturated_star_is_one_source_at_its_middle() -> None:
    image = exposure([(40.0, 40.0, 5e4)], sigma=2.0)
    v, u = np.mgrid[:80, :80]
    core = np.hypot(u - 40, v - 40) < 6
    core |= (np.abs(u - 40) < 2) & (np.abs(v - 40) < 30)
    image.quality[core] = int(Quality.SATUR)
    image.inverse_error[core] = 0
    image.image[core] = 0
    found = _detect([image])
    assert found.x.size == 1
    assert abs(found.x[0] - 40) <= 2
    assert abs(found.y[0] - 40) <= 2


def test_masked_pixels_have_no_weight() -> None:
    image = exposure([])
    image.image[30, 30] = 1e5
    image.inverse_error[30, 30] = 0
    assert _detect([image]).x.size == 0


@pytest.mark.parametrize(
    ("bands", "names"),
    [(("g", "r", "z"), ["z", "r", "g", "flat", "red"]), (("r",), ["r"])],
)
def test_spectra_are_searched_in_the_order_of_the_releases(
    bands: tuple[str, ...], names: list[str]
) -> None:
    assert [name for name, _ in spectra(bands)] == names


def test_blobs_are_numbered_by_size_and_hold_sources() -> None:
    hot = np.zeros((40, 40), bool)
    hot[2:6, 2:6] = hot[20:35, 20:35] = hot[2:10, 30:38] = True
    x, y = np.array([3.0, 25.0, 12.0]), np.array([3.0, 25.0, 36.0])
    blobs, number = label_blobs(hot, x, y)
    # The third lies on no hot pixel: it gets a blob of its own; the region without source none.
    assert blobs[25, 25] == 0
    assert blobs[5, 33] == -1
    assert number.tolist() == [blobs[3, 3], 0, blobs[36, 12]]
    assert sorted(number.tolist()) == [0, 1, 2]
    assert set(np.unique(blobs)) == {-1, 0, 1, 2}
