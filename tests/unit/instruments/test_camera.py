"""The focal plane against the camera's own numbers and against a real header."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from skymill.data.errors import DataError
from skymill.instruments.decam import facts


def test_every_ccd_and_amplifier():
    camera = facts.get_camera()
    assert len(camera) == 62
    assert [d.id for d in camera] == list(range(1, 63))
    amplifiers = [a for d in camera for a in d.amplifiers]
    assert len(amplifiers) == 124
    for detector in camera:
        covered = np.zeros((4096, 2048), int)
        for amp in detector.amplifiers:
            covered[amp.box.y0 : amp.box.y1, amp.box.x0 : amp.box.x1] += 1
            assert amp.data_box.shape == amp.box.shape
            assert amp.overscan_box.shape == (4096, 50)
            assert 3 < amp.gain < 5.5
        assert (covered == 1).all()


def test_pixels_and_focal_plane_are_inverse():
    rng = np.random.default_rng(1)
    for detector in facts.get_camera():
        x, y = rng.uniform(0, 2047, 5), rng.uniform(0, 4095, 5)
        u, v = detector.pixel_to_focal_plane(x=x, y=y)
        np.testing.assert_allclose(detector.focal_plane_to_pixel(x=u, y=v), [x, y], atol=1e-9)


def test_ccds_do_not_overlap():
    camera = facts.get_camera()
    centres = np.array([d.centre for d in camera])
    for i in range(62):
        gap = np.abs(centres - centres[i])
        inside = (gap[:, 0] < 30.72 - 0.1) & (gap[:, 1] < 61.44 - 0.1)
        assert inside.sum() == 1


def test_field_angle():
    camera = facts.get_camera()
    assert camera.plate_scale == pytest.approx(17.5665, abs=1e-3)
    x, y = np.array([0.0, 30.0, 210.0]), np.array([0.0, -80.0, 90.0])
    u, v = camera.focal_plane_to_field_angle(x=x, y=y)
    assert u[0] == v[0] == 0
    # The polynomial itself, in ten characters.
    r = np.hypot(x, y)
    np.testing.assert_allclose(
        np.radians(np.hypot(u, v)), 8.516497674138379e-05 * r - 4.501399132955917e-12 * r**3
    )
    np.testing.assert_allclose(camera.field_angle_to_focal_plane(x=u, y=v), [x, y], atol=1e-9)


def test_real_header_agrees_with_the_focal_plane(shared_data):
    text = (shared_data / "decam/headers/fitsheader-decam-raw_dec050441_25.yaml").read_text()
    header = yaml.safe_load(text)
    x, y = facts.get_camera()[header["CCDNUM"]].focal_plane_to_pixel(x=0, y=0)
    # CRPIX of a raw frame counts trimmed pixels. The optical axis moves by some 30 pixels between
    # set-ups of the hexapod; pre- and overscan would add 56 and 50.
    assert abs(x + 1 - header["CRPIX1"]) < 35
    assert abs(y + 1 - header["CRPIX2"]) < 35


def test_filters():
    assert facts.get_filter("Y DECam c0005 10095.0 1130.0").band == "y"
    assert facts.get_filter("r").name == "r DECam SDSS c0002 6415.0 1480.0"
    bands = {f.band for f in facts.FILTERS}
    assert bands >= {"u", "g", "r", "i", "z", "y", "VR", "N964", "N708", "N540", "opaque", "none"}
    with pytest.raises(DataError, match="no filter 'q'"):
        facts.get_filter("q")
    for entry in facts.FILTERS:
        words = entry.name.split()
        if len(words) > 3 and entry.wavelength:
            assert float(words[-2]) / 10 == pytest.approx(entry.wavelength)


def test_tables_agree_with_the_published_files(shared_data):
    knots = np.load(shared_data / "decam/decam_linearity_knots.npz")
    row = list(knots["detector"]).index("N1")
    table = facts.linearity_table(32)
    np.testing.assert_array_equal(table["delta"], knots["delta"][row])
    assert list(table["amp"]) == ["A", "B"]
    lines = (shared_data / "decam/DECam_xtalk_20130606.txt").read_text().splitlines()
    count = sum(1 for line in lines if line.startswith("ccd"))
    assert len(facts.crosstalk_table()) == count
    only = facts.crosstalk_table(25)
    assert only[0]["coefficient"] == 1.34e-04
    assert (only[0]["victim_amp"], only[0]["source_amp"]) == ("B", "A")


def test_defect_epochs():
    epochs = facts.defect_epochs(32)
    assert epochs == sorted(epochs)
    assert epochs[0] == 197001010000
    assert len(facts.defect_table(32, epochs[-1])) > 0
    with pytest.raises(DataError, match="no defect epoch"):
        facts.defect_table(32, 5)


def test_unknown_ccd():
    with pytest.raises(DataError, match="no detector 63; allowed: 1 to 62"):
        facts.get_camera()[63]
    assert facts.get_camera()["N4"].id == 35
