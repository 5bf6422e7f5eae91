"""A real raw frame (SAAO 1.0 m, 150 s) through overscan, trim, gain, variance, cosmic rays."""

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.detrend.combine import smooth_sky
from skymill.detrend.cosmic_rays import remove_cosmic_rays
from skymill.detrend.headers import amplifier_from_header, parse_section
from skymill.detrend.isr import IsrOptions, detrend_ccd


def detrend_saao(shared_data):
    path = shared_data / "raw" / "saao_a8280271.fits"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with fits.open(path) as hdus:
        raw, header = hdus[0].data, hdus[0].header
    amplifier = amplifier_from_header(header, saturation=60000.0)
    options = IsrOptions(num_edge_suspect=0, overscan_fit_type="MEAN_PER_ROW")
    return raw, detrend_ccd(raw, [amplifier], options=options)


def test_saao_frame(shared_data):
    raw, result = detrend_saao(shared_data)
    planes = result.planes
    assert planes.shape == (520, 512)
    # Trim and gain by hand, with one level for the frame: rows differ by the noise of ten pixels.
    level = np.median(raw[:, 3:13])
    by_hand = 1.9 * (raw[:, 16:528].astype(float) - level)
    assert abs(np.median(planes.image - by_hand)) < 1.9
    # The header says 5.0 electron; the overscan of this frame is the judge within 30 %.
    noise = result.read_noise["A"]
    assert 3.5 < noise < 6.5
    np.testing.assert_allclose(
        planes.variance, np.maximum(planes.image, 0) + noise**2, rtol=1e-4, atol=1e-2
    )
    hits = remove_cosmic_rays(planes, psf_sigma=1.2)
    assert 20 < hits < 0.01 * planes.image.size
    usable = planes.mask == 0
    sky = smooth_sky(planes.image, usable, 64)
    pull = ((planes.image - sky) / np.sqrt(planes.variance))[usable]
    # Sky noise as predicted: the width of the core; no flat is applied, so it may be a little more.
    width = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    assert 0.85 < width < 1.25
    # Hits are sharp: each lies far above the median of its neighbourhood before it is removed.
    hit = (planes.mask & int(MaskPlane.CR)) != 0
    _, n_groups = ndimage.label(hit, np.ones((3, 3)))
    assert n_groups >= 10


def test_sections():
    box = parse_section("[  17: 528,   1: 520]")
    assert (box.x0, box.y0, box.x1, box.y1) == (16, 0, 528, 520)
    for text in ("", "[1:2]", "[5:2,1:3]", "[0:2,1:3]"):
        with pytest.raises(DataError, match="section"):
            parse_section(text)
    with pytest.raises(DataError, match="no BIASSEC"):
        amplifier_from_header({"TRIMSEC": "[1:2,1:2]", "GAIN": 1, "RDNOISE": 2})
