"""Of the exposures of a tile the deepest stay."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError
from skymill.data.tables import load_schema
from skymill.release.survey.cuts import CUT_BITS
from skymill.release.survey.tile_depth import tile_depth_cut
from skymill.release.survey.tiles import Tiles

BIT = CUT_BITS["depth_cut_2"]


@pytest.fixture
def tiles(tmp_path):
    Table({"tileid": [7, 8], "ra": [150.0, 152.0], "dec": [2.0, 2.0]}).write(tmp_path / "t.fits")
    return {"decam": Tiles(tmp_path / "t.fits")}


def table(noise, band="g", ra=150.0, camera="decam"):
    """Exposures of two CCDs each."""
    n = 2 * len(noise)
    schema = load_schema("survey-ccds")
    out = Table({c.name: np.zeros(n, "U20" if c.dtype == "U" else c.dtype) for c in schema.columns})
    out["camera"], out["filter"], out["object"] = camera, band, "field"
    out["expnum"] = np.repeat(np.arange(len(noise)) + 1, 2)
    out["ccdname"] = ["N4", "S4"] * len(noise)
    out["sig1"], out["galnorm"] = np.repeat(noise, 2), 0.1
    out["ra_bore"], out["dec_bore"] = ra, 2.0
    return out


def cut(found):
    hit = (np.asarray(found["ccd_cuts"]) & BIT) != 0
    return sorted(set(np.asarray(found["expnum"])[hit].tolist()))


def test_the_deepest_of_a_tile_stay(tiles):
    ccds = table([0.05, 0.01, 0.03, 0.02, 0.04])
    assert cut(tile_depth_cut(ccds, tiles)) == [1, 5]
    assert cut(tile_depth_cut(ccds, tiles, exposures={"decam": 1})) == [1, 3, 4, 5]
    # The bit is made anew, other bits stay and their CCDs do not count.
    ccds["ccd_cuts"][2:4] = CUT_BITS["badexp"]
    ccds["ccd_cuts"][4:6] = BIT
    found = tile_depth_cut(ccds, tiles)
    assert cut(found) == [1]
    assert (found["ccd_cuts"][2:4] == CUT_BITS["badexp"]).all()


def test_bands_tiles_and_titles_are_apart(tiles):
    ccds = table([0.05, 0.01, 0.03, 0.02])
    ccds["filter"][:2] = "r"
    assert cut(tile_depth_cut(ccds, tiles)) == []
    ccds = table([0.05, 0.01, 0.03, 0.02], ra=151.0)
    assert cut(tile_depth_cut(ccds, tiles)) == []
    ccds["object"] = "DECaLS_8_g"
    assert cut(tile_depth_cut(ccds, tiles)) == [1]
    assert cut(tile_depth_cut(table([1.0] * 9, camera="mosaic"), tiles)) == []


def test_none_at_all_is_refused(tiles):
    with pytest.raises(ConfigError, match="must be >= 1 for the camera decam; got 0"):
        tile_depth_cut(table([1.0]), tiles, exposures={"decam": 0})
