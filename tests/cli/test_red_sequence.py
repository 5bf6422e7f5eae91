"""``skymill red-sequence`` on a table that is not skymill's."""

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from skymill.cli.red_sequence import red_sequence
from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import SkymillError
from skymill.lensing.members.ridge import expected_colour


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(5)
    n, n_members = 6000, 60
    east, north = rng.uniform(-30, 30, (2, n))
    east[:n_members], north[:n_members] = rng.normal(0, 1.5, (2, n_members))
    i_mag = rng.uniform(17, 22, n)
    g_r, r_i = rng.uniform(0, 2, n), rng.uniform(0, 1, n)
    g_r[:n_members] = expected_colour(0.2, "g", "r") + rng.normal(0, 0.03, n_members)
    r_i[:n_members] = expected_colour(0.2, "r", "i") + rng.normal(0, 0.02, n_members)
    table = Table({"RA": (10 + east / 60) % 360, "DEC": north / 60})
    for band, mag in (("g", i_mag + r_i + g_r), ("r", i_mag + r_i), ("i", i_mag)):
        table[f"mag_{band}"], table[f"err_{band}"] = mag, np.full(n, 0.02)
    table["z"] = np.where(np.arange(n) < n_members, 0.2, 0.5)
    table["ra"], table["dec"] = table["RA"], table["DEC"]
    out = tmp_path_factory.mktemp("galaxies") / "galaxies.fits"
    table.write(out)
    return out


COLUMNS = ["--z", "0.2", "--centre", "10,0"]


def run(*args):
    return CliRunner().invoke(red_sequence, [str(a) for a in args])


def test_products_and_grades(tmp_path, path):
    result = run(path, *COLUMNS, "--spectra", path, "--output", tmp_path / "new")
    assert result.exit_code == 0, (result.output, result.exception)
    found = read_catalogue(tmp_path / "new" / "red_sequence.parquet")
    # Row numbers stand for names; the members are the first rows.
    sure = found[found["p_member"] > 0.5]
    assert (sure["ID"].astype(int) < 60).mean() > 0.9
    for name in ("red_sequence.png", "red_sequence_grades.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / "red_sequence_density.fits").exists()
    grades = Table.read(tmp_path / "new" / "red_sequence_grades.ecsv")
    half = grades[np.isclose(grades["threshold"], 0.5)][0]
    assert half["purity"] > 0.9
    assert half["completeness"] > 0.8
    assert "purity" in result.output


def test_columns_of_any_name_and_extinction(tmp_path, path):
    table = read_catalogue(path)
    other = Table(
        {"RAJ2000": table["RA"], "DEJ2000": table["DEC"], "EBV": np.full(len(table), 0.5)}
    )
    # Vectors, and fluxes with extinction in them: 0.5 mag of E(B-V) makes all redder.
    mag = np.stack([table[f"mag_{b}"] for b in "gri"], axis=1)
    ratio = {"g": 3.2, "r": 2.2, "i": 1.6}
    other["FLUX"] = 10 ** (-0.4 * (mag + 0.5 * np.array(list(ratio.values())) - 22.5))
    other["FLUX_IVAR"] = (0.0184 * other["FLUX"]) ** -2.0
    other.write(tmp_path / "other.fits")
    extra = []
    # In any order.
    for k, band in reversed(list(enumerate("gri"))):
        extra += ["--band", f"{band}=FLUX[{k}],FLUX_IVAR[{k}],nmgy"]
        extra += ["--extinction", f"{band}={ratio[band]}"]
    for name, arguments in (
        ("a", [path]),
        ("b", [tmp_path / "other.fits", *extra, "--ebv", "EBV"]),
    ):
        result = run(*arguments, *COLUMNS, "--output", tmp_path / name)
        assert result.exit_code == 0, (result.output, result.exception)
    a, b = (read_catalogue(tmp_path / n / "red_sequence.parquet") for n in "ab")
    assert (a["ID"] == b["ID"]).all()
    # The errors of the fluxes are rounded.
    assert b["p_member"] == pytest.approx(np.asarray(a["p_member"]), abs=0.01)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--band", "g=nothing,err_g", "--band", "r=mag_r,err_r"], "no column 'nothing'"),
        (["--ra", "alpha"], "--ra"),
        (["--bands", "g"], "at least 2 bands"),
        (["--extinction", "g=3.2"], "--extinction needs E(B-V)"),
        (["--id", "NAME"], "no column 'NAME'"),
        (["--centre", "200,50"], "position on this half of the sky"),
    ],
)
def test_faults(tmp_path, path, extra, sentence):
    result = run(path, *COLUMNS, *extra, "--output", tmp_path)
    assert isinstance(result.exception, SkymillError), result.output
    assert sentence in str(result.exception)
