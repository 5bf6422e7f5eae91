"""Sky maps: the published tract of a cluster and the bricks of the Legacy Surveys."""

import json

import numpy as np
import pytest

from skymill.coadd import bricks
from skymill.coadd.skymap import SkyMap
from skymill.data.errors import ConfigError, DataError
from skymill.data.images import Box


def test_published_cluster_geometry():
    tract = SkyMap.discrete("A85_skymap", 10.46, -9.303, 0.7).tracts[0]
    assert (tract.n_x, tract.n_y) == (12, 12)
    assert tract.box.shape == (48000, 48000)
    x, y = tract.wcs.sky_to_pixel(ra=[10.46], dec=[-9.303])
    np.testing.assert_allclose([x[0], y[0]], 24000, atol=1e-6)  # wcslib's round-off
    patch = tract.patch(12 * 3 + 5)
    assert (patch.ix, patch.iy) == (5, 3)
    assert patch.outer_box == Box(x0=19900, y0=11900, x1=24100, y1=16100)
    assert tract.patch(0).outer_box.shape == (4100, 4100)


def test_north_is_up_and_east_is_left():
    tract = SkyMap.discrete("m", 0.0, 89.0, 0.1, tract_overlap=0.0, patch_inner=500).tracts[0]
    ra, dec = tract.wcs.pixel_to_sky(x=[tract.x - 10, tract.x], y=[tract.y, tract.y + 10])
    assert ra[0] > 0
    assert ra[0] < 180
    assert dec[1] > 89.0


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.999, 12.0), (40.0, 89.9), (5.0, -90.0)])
def test_inner_boxes_tile_the_tract_and_points_find_them(ra, dec):
    skymap = SkyMap.discrete("m", ra, dec, 0.25, tract_overlap=0.0, patch_inner=2000)
    tract = skymap.tracts[0]
    assert tract.n_x == 4
    count = np.zeros((tract.n_y, tract.n_x), int)
    for patch in tract.patches:
        x = (patch.inner_box.x0 + patch.inner_box.x1 - 1) / 2
        y = (patch.inner_box.y0 + patch.inner_box.y1 - 1) / 2
        assert tract.find_patch(x=[x], y=[y])[0] == patch.index
        sky_ra, sky_dec = tract.wcs.pixel_to_sky(x=[x], y=[y])
        ((found, patches),) = skymap.find_tract_patches(ra=sky_ra, dec=sky_dec)
        assert found is tract
        assert [p.index for p in patches] == [patch.index]
        count[patch.iy, patch.ix] += 1
    assert (count == 1).all()


def test_borders_belong_to_the_neighbours_too():
    skymap = SkyMap.discrete("m", 150.0, 2.0, 0.25, tract_overlap=0.0, patch_inner=2000)
    tract = skymap.tracts[0]
    ra, dec = tract.wcs.pixel_to_sky(x=[2050.0], y=[1950.0])
    ((_, patches),) = skymap.find_tract_patches(ra=ra, dec=dec)
    assert [p.index for p in patches] == [0, 1, 4, 5]


def test_positions_elsewhere_find_nothing():
    skymap = SkyMap.discrete("m", 150.0, 2.0, 0.25, tract_overlap=0.0, patch_inner=2000)
    for ra, dec in [(330.0, -2.0), (150.0, 50.0), (10.0, 2.0)]:
        assert skymap.find_tract_patches(ra=ra, dec=dec) == []
        assert not skymap.tracts[0].is_primary(ra=ra, dec=dec)[0]


def test_a_map_survives_json():
    for skymap in (
        SkyMap.discrete("m", [10.0, 200.0], [-5.0, 60.0], 0.3, patch_inner=1000),
        SkyMap.bricks("b", ra=359.99, dec=-0.1, radius_deg=0.3),
    ):
        again = SkyMap.from_dict(json.loads(json.dumps(skymap.to_dict())))
        assert again == skymap
        assert again.hash == skymap.hash


def test_polygon_is_the_outer_box():
    patch = (
        SkyMap.discrete("m", 33.0, 44.0, 0.2, tract_overlap=0, patch_inner=1000).tracts[0].patch(4)
    )
    ra, dec = patch.sky_polygon()
    x, y = patch.wcs.sky_to_pixel(ra=ra, dec=dec)
    np.testing.assert_allclose(x.min(), patch.outer_box.x0 - 0.5, atol=1e-6)
    np.testing.assert_allclose(y.max(), patch.outer_box.y1 - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"radius_deg": -2.0}, "radius_deg"),
        ({"radius_deg": 40.0}, "radius_deg"),
        ({"dec": 91.0}, "dec"),
        ({"ra": float("nan")}, "dec"),
        ({"pixel_scale": 0.0}, "pixel_scale"),
        ({"patch_inner": 0}, "patch_inner"),
        ({"patch_border": -1}, "patch_border"),
    ],
)
def test_bad_geometry_has_its_sentence(change, word):
    values = {"ra": 10.0, "dec": 10.0, "radius_deg": 0.7, **change}
    with pytest.raises(ConfigError, match=word):
        SkyMap.discrete("m", **values)


def test_missing_patch_and_tract():
    skymap = SkyMap.discrete("m", 10.0, 10.0, 0.7)
    with pytest.raises(DataError, match="0 to 143"):
        skymap.tract(0).patch(144)
    with pytest.raises(DataError, match="no tract 1"):
        skymap.tract(1)


# Identifiers of the Legacy Surveys' own table (survey-bricks).
def test_the_legacy_bricks():
    assert int(bricks._before()[-1]) == bricks.N_BRICKS
    brick = bricks.brick_from_name("1867p255")
    assert brick.index == 473357
    assert bricks.brick_at(ra=brick.ra, dec=brick.dec) == brick
    assert bricks.brick_at(ra=brick.ra_low, dec=brick.dec_low) == brick


def test_worked_example_of_the_legacy_surveys():
    found = bricks.bricks_in_box(ra_range=(180, 181), dec_range=(32, 33))
    names = {b.name for b in found}
    assert names == {f"{a}p{d}" for a in (1801, 1804, 1807) for d in (320, 322, 325, 327, 330)}


def test_bricks_wrap_at_the_origin_and_close_at_the_pole():
    found = bricks.bricks_in_box(ra_range=(359.8, 0.2), dec_range=(-0.1, 0.1))
    assert [b.column for b in found] == [0, 1439]
    assert bricks.brick_at(ra=123.0, dec=90.0).index == bricks.N_BRICKS
    near_pole = bricks.bricks_near(ra=10.0, dec=89.9, radius_deg=0.1)
    assert near_pole[-1].index == bricks.N_BRICKS
    assert len({b.index for b in near_pole}) == len(near_pole)


def test_each_position_is_primary_in_one_brick():
    rng = np.random.default_rng(5)
    skymap = SkyMap.bricks("b", ra=0.0, dec=30.0, radius_deg=1.0)
    ra = rng.uniform(-0.7, 0.7, 300) % 360
    dec = rng.uniform(29.5, 30.5, 300)
    count = sum(t.is_primary(ra=ra, dec=dec).astype(int) for t in skymap.tracts)
    assert (count == 1).all()
    # A brick's image holds its primary area.
    for tract in skymap.tracts[:10]:
        ra_low, ra_high, south, north = tract.edges
        x, y = tract.sky_to_pixel(
            ra=[ra_low, ra_high, ra_low, ra_high], dec=[south, south, north, north]
        )
        assert tract.find_patch(x=x, y=y).min() == 0


def test_bricks_without_a_region():
    with pytest.raises(ConfigError, match="radius_deg"):
        SkyMap.bricks("b")
    with pytest.raises(DataError, match="4 digits"):
        bricks.brick_from_name("18.7p255")
