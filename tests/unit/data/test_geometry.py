"""World coordinates of a part of an image, for every projection that is read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs

PLAIN = {
    "CRPIX1": 50.0, "CRPIX2": 40.0, "CRVAL1": 10.0, "CRVAL2": 20.0,
    "CD1_1": -7e-5, "CD1_2": 1e-6, "CD2_1": 1e-6, "CD2_2": 7e-5,
}  # fmt: skip
SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_0_2": -2e-5, "A_1_1": 3e-6}
SIP |= {"AP_ORDER": 2, "BP_ORDER": 2, "AP_2_0": -1e-5, "BP_0_2": 2e-5, "AP_1_1": -3e-6}
TPV = {"PV1_1": 1.0001, "PV1_4": 1e-3, "PV2_1": 0.9999, "PV2_5": 2e-3}


@pytest.mark.parametrize(
    ("projection", "more"), [("TAN", {}), ("TAN-SIP", SIP), ("TPV", TPV)], ids=["TAN", "SIP", "TPV"]
)
def test_a_part_of_an_image_has_the_same_sky(projection, more):
    words = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}"}
    whole = FitsWcs(fits.Header(words | PLAIN | more))
    part = whole.shifted(dx=7.25, dy=-3.5)
    x, y = np.linspace(-20, 130, 37), np.linspace(100, -16, 37)
    sky = part.pixel_to_sky(x=x, y=y)
    np.testing.assert_array_equal(sky, whole.pixel_to_sky(x=x + 7.25, y=y - 3.5))
    # Distortions are inverted by iteration.
    np.testing.assert_allclose(part.sky_to_pixel(ra=sky[0], dec=sky[1]), [x, y], atol=1e-8)
    assert part.header["CRPIX1"] == 50.0 - 7.25
    assert part != whole
    # The original stays, and a part is a mapping of its own that can be written and sent.
    assert whole.header["CRPIX1"] == 50.0
    for copy in (FitsWcs(part.header), pickle.loads(pickle.dumps(part))):
        assert copy == part
        np.testing.assert_array_equal(copy.pixel_to_sky(x=x, y=y), sky)


@pytest.mark.parametrize("matrix", ["CD", "PC"])
def test_blocks_of_pixels_have_the_sky_of_their_middles(matrix):
    words = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"} | PLAIN
    if matrix == "PC":
        steps = {k: words.pop(k) for k in PLAIN if k.startswith("CD")}
        words |= {k.replace("CD", "PC"): 1e4 * v for k, v in steps.items()}
        words |= {"CDELT1": 1e-4, "CDELT2": 1e-4}
    whole = FitsWcs(fits.Header(words))
    x, y = np.linspace(-5, 30, 11), np.linspace(25, -4, 11)
    expected = whole.pixel_to_sky(x=4 * x + 1.5, y=4 * y + 1.5)
    blocks = whole.binned(4)
    for each in (blocks, FitsWcs(blocks.header)):
        np.testing.assert_allclose(each.pixel_to_sky(x=x, y=y), expected, rtol=1e-13)
    words |= SIP | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
    with pytest.raises(DataError, match="distortions"):
        FitsWcs(fits.Header(words)).binned(2)
