"""The pixels of bricks are those of the releases."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError
from skymill.release.brick.grid import custom_grid, named_grid


def test_a_cut_out_has_the_reference_pixels_of_the_releases() -> None:
    found = named_grid("1773p595", zoom=(1300, 1500, 700, 900))
    header = found.wcs.header
    # As the header of the reference's maskbits of this cut-out says.
    assert header["CRPIX1"] == pytest.approx(500.5)
    assert header["CRPIX2"] == pytest.approx(1100.5)
    assert header["CRVAL1"] == pytest.approx(177.302452316076, abs=1e-11)
    assert found.shape == (200, 200)
    assert found.index == 616029
    ra, dec = found.corners
    assert ra[0] == pytest.approx(177.373907988499, abs=1e-9)
    assert dec[0] == pytest.approx(59.4199613698241, abs=1e-9)


def test_a_custom_place_has_a_name_and_is_all_primary() -> None:
    found = custom_grid(9.1228, 3.3975, width=100, height=90)
    assert found.name == "custom-009122p03397"
    assert found.is_custom
    assert found.primary_pixels().all()
    assert found.shape == (90, 100)
    assert custom_grid(-1.0, -0.5).name == "custom-359000m00500"


def test_primary_pixels_are_those_between_the_edges_of_the_brick() -> None:
    found = named_grid("0001p000", width=60, height=3600)
    primary = found.primary_pixels()
    # The brick is 0.25 degrees high: 3435 pixels of 0.262 arcsec.
    assert primary.any(axis=1).sum() == pytest.approx(0.25 * 3600 / 0.262, abs=1.5)
    assert found.is_primary(np.array([359.99, 0.1]), np.array([0.0, 0.0])).tolist() == [False, True]


def test_neighbours_share_no_position() -> None:
    edge = np.array([0.25])
    inside = [named_grid(n).is_primary(edge, np.zeros(1))[0] for n in ("0001p000", "0003p000")]
    assert sorted(inside) == [False, True]


@pytest.mark.parametrize("name", ["", "1867", "1867x255", "9999p899", "abcdp255"])
def test_a_bad_name_is_one_sentence(name: str) -> None:
    with pytest.raises(DataError, match=r"brick"):
        named_grid(name)


def test_a_zoom_outside_of_the_brick_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"zoom must be X0 X1 Y0 Y1 .* got 10 5000 0 100"):
        named_grid("1867p255", zoom=(10, 5000, 0, 100))
