"""Pictures of the report are small and say what they hold."""

import io

import numpy as np
from PIL import Image

from skymill.data.geometry import make_tan_wcs
from skymill.qa.pictures import encode_png
from skymill.qa.repeatability import measure_repeatability
from skymill.qa.report_figures import draw_colour, draw_repeatability


def test_the_colour_picture_becomes_a_photograph():
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 60, (1900, 2100, 3)).astype(np.uint8)
    wcs = make_tan_wcs(ra=10.0, dec=-5.0, scale=0.5, x=1050.0, y=950.0)
    for placed in (False, True):
        png = encode_png(rgb, wcs if placed else None)
        content, drawn = draw_colour(png, mark=(10.0, -5.0))
        assert drawn is placed
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) <= 1600
            red = np.asarray(picture)[..., 0].astype(int) - np.asarray(picture)[..., 1]
        # The mark is a red cross in the middle of the picture.
        assert bool(red.max() > 100) is placed
        assert len(content) < len(png) / 5


def test_bands_without_repeated_stars_are_left_out():
    rng = np.random.default_rng(2)
    nothing = measure_repeatability(
        ra=np.zeros(0), dec=np.zeros(0), flux=np.zeros(0), snr=np.zeros(0),
        visit=np.zeros(0, np.int64), star=np.zeros(0, bool),
    )  # fmt: skip
    n = 200
    ra = np.tile(rng.uniform(10, 10.2, n // 2), 2)
    dec = np.tile(rng.uniform(0, 0.2, n // 2), 2)
    some = measure_repeatability(
        ra=ra + rng.normal(0, 2e-6, n), dec=dec, flux=rng.uniform(99, 101, n),
        snr=np.full(n, 500.0), visit=np.repeat([1, 2], n // 2), star=np.ones(n, bool),
    )  # fmt: skip
    assert some.n_stars == n // 2
    for bands in ({"g": nothing}, {"g": nothing, "r": some}):
        assert draw_repeatability(bands).startswith(b"\x89PNG")
