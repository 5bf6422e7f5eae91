"""Files for people, and what is decided from what a repository holds."""

import numpy as np
import pytest
import yaml
from astropy.table import Table

from skymill.campaign import load_cluster
from skymill.campaign.actions import find_raws
from skymill.campaign.calibrations import choose_switches
from skymill.campaign.public_files import _range_name, csv_bytes
from skymill.data.errors import ConfigError

SETTINGS = {
    "name": "A85",
    "centre": [10.46, -9.3],
    "redshift": 0.0557,
    "bands": ["r", "z"],
    "photometry": {"r": "ps1", "z": "ps1", "Y": "ps1"},
}


def load(tmp_path, **changes):
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | changes))
    return load_cluster(path)


def test_csv_reads_back_as_it_was(tmp_path):
    table = Table(
        {
            "ID": ["LVS J1", "LVS J2"],
            "used": [True, False],
            "mag": [1 / 3, np.nan],
            "n": [1, 2],
            "pz": np.ones((2, 3)),
        }
    )
    path = tmp_path / "t.csv"
    path.write_bytes(csv_bytes(table))
    assert path.read_text().splitlines()[1].startswith("LVS J1,True,0.333")
    back = Table.read(path, format="ascii.csv")
    assert back.colnames == ["ID", "used", "mag", "n"]
    np.testing.assert_array_equal(back["mag"], table["mag"])
    assert [str(v) for v in back["used"]] == ["True", "False"]


def test_csv_quotes_a_comma(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_bytes(Table({"a": ["x, y"], "b": [1]})))
    assert Table.read(path, format="ascii.csv")["a"][0] == "x, y"


def test_range_of_patches_has_the_published_form():
    assert _range_name([(0, 0), (11, 11), (3, 4)]) == "00-1111"


def test_corrupt_files_that_were_moved_aside_are_left_out(tmp_path):
    for name in ("a.fits", "night/b.fits.fz", "corrupt_raws/c.fits"):
        path = tmp_path / "raws" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [p.name for p in find_raws(tmp_path / "raws")] == ["a.fits", "b.fits.fz"]


def test_switches_follow_the_flats_before_there_is_a_repository(tmp_path):
    cluster = load(tmp_path)
    assert choose_switches(cluster, "r").config == ()
    assert "no brighter-fatter correction" in choose_switches(cluster, "r").notes[0]
    found = choose_switches(cluster, "z")
    assert found.config == ("isr:doFringe=False",)
    assert "no fringe correction" in found.notes[1]
    with_flats = load(tmp_path, paths={"flats": "flats"})
    assert choose_switches(with_flats, "z").config == ("isr:doBrighterFatter=True",)
    assert choose_switches(with_flats, "z").notes == ()
    own = load(tmp_path, config={"isr": {"doFringe": False, "doBrighterFatter": False}})
    assert choose_switches(own, "z").notes == ()


def test_bands_are_those_of_the_camera(tmp_path):
    assert load(tmp_path, bands=["r", "Y"]).bands == ("r", "y")
    with pytest.raises(ConfigError, match="DECam has no band q; it has u, g, r, i, z, y"):
        load(tmp_path, bands=["r", "q"])
