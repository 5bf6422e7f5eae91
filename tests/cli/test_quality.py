"""``skymill quality`` on a table with names of its own."""

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from skymill.cli.quality import quality
from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import SkymillError
from skymill.data.units import MAG_ERR_FACTOR


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(6)
    mag = rng.uniform(18, 25, 1500)
    table = Table({"ALPHA": rng.uniform(10, 10.2, 1500), "dec": rng.uniform(0, 0.2, 1500)})
    table["MAG"] = mag
    table["ERR"] = MAG_ERR_FACTOR / 10 * 10 ** (0.4 * (mag - 23.0))
    out = tmp_path_factory.mktemp("objects") / "objects.fits"
    table.write(out)
    return out


NAMES = ["--ra", "ALPHA", "--band", "r=MAG,ERR"]


def run(*args):
    return CliRunner().invoke(quality, [str(a) for a in args])


def test_table_and_pictures(tmp_path, path):
    reference = read_catalogue(path)[:50]
    reference["ra"] = reference["ALPHA"] - 5.0 / 3.6e6
    # Proper motions under the names of a Gaia archive, one year before the catalogue.
    reference["pmra"], reference["pmdec"] = np.full(50, 3.0), np.full(50, 0.0)
    reference["ref_epoch"] = np.full(50, 2015.5)
    reference.write(tmp_path / "reference.fits")
    out = tmp_path / "new"
    result = run(path, *NAMES, "--reference", tmp_path / "reference.fits", "--output", out,
                 "--epoch", 51544.5 + 16.5 * 365.25)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    table = Table.read(out / "quality.ecsv")
    values = {row["quantity"]: row["value"] for row in table}
    assert values["mag_at_snr_10"] == pytest.approx(23.0, abs=0.05)
    assert values["astrometry_offset_ra"] == pytest.approx(2.0, abs=0.01)
    for name in ("quality", "quality_sky", "quality_psf", "quality_null"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "no shear catalogue" in result.output


def test_a_catalogue_of_galaxies_alone_has_a_depth(tmp_path, path):
    table = read_catalogue(path)
    table["is_star"] = np.zeros(len(table), bool)
    table.write(tmp_path / "galaxies.fits")
    result = run(tmp_path / "galaxies.fits", *NAMES, "--output", tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    values = {row["quantity"]: row["value"] for row in Table.read(tmp_path / "quality.ecsv")}
    assert values["mag_at_snr_10"] == pytest.approx(23.0, abs=0.05)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--column", "r_psf_mag=NOTHING"], "no column 'NOTHING'"),
        (["--column", "r_psf_mag"], "--column takes NAME=THEIRS"),
        (["--ra", "ALPHA", "--band", "r"], "written band=VALUE,ERROR"),
        ([], "for the right ascension; it has ALPHA, dec, MAG, ERR; name it with --ra"),
    ],
)
def test_faults(tmp_path, path, extra, sentence):
    result = run(path, *extra, "--output", tmp_path)
    assert isinstance(result.exception, SkymillError), result.output
    assert sentence in str(result.exception)
