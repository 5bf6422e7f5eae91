"""`skymill check-raws` on whole, truncated, empty and garbage files."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from skymill.cli.check_raws import check_directory, check_raws, find_problem
from skymill.data.errors import MissingInputError


def write_raw(path, compressed=True):
    rng = np.random.default_rng(1)
    pixels = rng.integers(1000, 1100, (60, 80)).astype(np.uint16)
    make = fits.CompImageHDU if compressed else fits.ImageHDU
    hdus = [make(pixels, name=name) for name in ("S29", "N4")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, checksum=True)


@pytest.fixture
def folder(tmp_path):
    write_raw(tmp_path / "good.fits.fz")
    write_raw(tmp_path / "plain.fits", compressed=False)
    (tmp_path / "night").mkdir()
    for compressed, name in ((True, "short.fits.fz"), (False, "short.fits")):
        path = tmp_path / "night" / name
        write_raw(path, compressed)
        path.write_bytes(path.read_bytes()[:-6000])
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "garbage.fits.fz").write_bytes(b"<html>503</html>" * 500)
    flipped = tmp_path / "flipped.fits"
    write_raw(flipped, compressed=False)
    content = bytearray(flipped.read_bytes())
    content[-4000] ^= 0xFF
    flipped.write_bytes(bytes(content))
    return tmp_path


def test_each_kind_of_damage_is_named(folder):
    found = {p.name: text for p, text in check_directory(folder).items()}
    assert found.pop("good.fits.fz") == ""
    assert found.pop("plain.fits") == ""
    assert found.pop("empty.fits") == "the file is empty"
    assert set(found) == {"short.fits.fz", "short.fits", "garbage.fits.fz", "flipped.fits"}
    assert all(text for text in found.values())


def test_command_lists_moves_and_then_is_content(folder, tmp_path):
    runner = CliRunner()
    assert runner.invoke(check_raws, [str(folder), "--strict"]).exit_code == 1
    result = runner.invoke(check_raws, [str(folder)])
    assert result.exit_code == 0
    assert "7 raw files, 5 corrupt, 0 moved" in result.output
    table = folder / "raws.ecsv"
    result = runner.invoke(check_raws, [str(folder), "--move", "--table", str(table)])
    assert result.exit_code == 0
    assert (folder / "corrupt_raws" / "night" / "short.fits").is_file()
    assert not (folder / "empty.fits").exists()
    rows = Table.read(table)
    assert np.count_nonzero(rows["ok"]) == 2
    result = runner.invoke(check_raws, [str(folder), "-j", "2"])
    assert result.exit_code == 0
    assert "2 raw files, 0 corrupt, 0 moved" in result.output


def test_nothing_to_check(tmp_path):
    with pytest.raises(MissingInputError, match="no raw file"):
        check_directory(tmp_path)
    path = tmp_path / "head.fits"
    fits.PrimaryHDU().writeto(path)
    assert find_problem(path) == "no extension has an image"
