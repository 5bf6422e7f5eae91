import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from skymill.calibrate.extinction import COEFFICIENTS
from skymill.calibrate.filters import load_filters
from skymill.calibrate.synthetic import load_stellar_spectra, synthetic_magnitudes
from skymill.cli.zero_points import zero_points
from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import SkymillError

TYPES = ["F0V", "F2V", "F5V", "F6V", "F8V", "G0V", "G2V", "G5V", "G8V", "K0V", "K2V", "K3V",
         "K4V", "K5V", "K7V", "M0V", "M1V", "M2V", "M3V", "M4V"]  # fmt: skip
OFFSETS = {"u": 0.1, "g": 0.03, "r": -0.03, "i": 0.03, "z": -0.03}
EBV = 0.05


@pytest.fixture(scope="module")
def field():
    """A catalogue of DECam in need of calibration, and references of DECam (griz) and PS1."""
    rng = np.random.default_rng(2)
    n = 1200
    library = [load_stellar_spectra()[t] for t in TYPES]
    place = rng.uniform(1, len(TYPES) - 1.01, n)
    r = rng.uniform(16.5, 20.0, n)

    def magnitudes(camera, bands):
        shape = synthetic_magnitudes(library, load_filters(camera, bands))
        zero = synthetic_magnitudes(library, load_filters("decam", "r"))
        lines = (shape - zero).T
        return {
            b: np.interp(place, np.arange(len(TYPES)), line) + r
            for b, line in zip(bands, lines, strict=True)
        }

    ra, dec = (359.9 + rng.uniform(0, 0.3, n)) % 360, rng.uniform(-0.15, 0.15, n)
    decam, ps1 = magnitudes("decam", "ugriz"), magnitudes("ps1", "grizy")
    catalogue = Table({"ra": ra, "dec": dec, "extendedness": np.zeros(n)})
    for b, mag in decam.items():
        err = np.hypot(0.004, 0.008 * 10 ** (0.3 * (mag - 20)))
        dust = COEFFICIENTS["decam"][b] * EBV
        catalogue[f"{b}_psf_mag"] = mag + dust + OFFSETS[b] + rng.normal(0, err)
        catalogue[f"{b}_psf_magerr"] = err
    galaxy = rng.random(n) < 0.2
    catalogue["extendedness"][galaxy] = 1.0
    catalogue["u_psf_mag"][galaxy] = np.nan

    def reference(mags, survey):
        table = Table({"ra": ra, "dec": dec})
        for b, mag in mags.items():
            table[f"{b}_mag"] = mag + COEFFICIENTS[survey][b] * EBV + rng.normal(0, 0.005, n)
            table[f"{b}_magerr"] = np.full(n, 0.005)
        return table

    del decam["u"]
    skymapper = reference(magnitudes("sm_dr4", "griz"), "sm_dr4")
    return catalogue, reference(decam, "decam"), reference(ps1, "ps1"), skymapper


def run(folder, catalogue, *args):
    path = folder / "catalogue.fits"
    catalogue.write(path, overwrite=True)
    words = [str(path), "--ebv", str(EBV), "--output", str(folder / "out"), *map(str, args)]
    return CliRunner().invoke(zero_points, words, catch_exceptions=True)


def test_injected_zero_points_of_all_bands(tmp_path, field):
    catalogue, own, ps1, _ = field
    own.write(tmp_path / "own.fits")
    ps1.write(tmp_path / "ps1.fits")
    result = run(tmp_path, catalogue, "--reference", tmp_path / "own.fits", "--survey", "decam",
                 "--compare", f"ps1={tmp_path / 'ps1.fits'}")  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    table = Table.read(tmp_path / "out" / "zero_points.ecsv")
    for row in table:
        # The requirement: 0.1 mag in u and 0.03 in griz to 5 mmag.
        assert row["offset"] == pytest.approx(OFFSETS[row["band"]], abs=0.005)
    assert list(table["source"]) == ["locus", *(f"own {b} + locus" for b in "griz")]
    assert np.asarray(table["covariance"]).shape == (5, 5)
    calibrated = read_catalogue(tmp_path / "out" / "calibrated.parquet")
    assert len(calibrated) == len(catalogue)
    # Errors are not inflated by those of the zero point.
    assert np.allclose(
        calibrated["r_calibrated_magerr"], catalogue["r_psf_magerr"], rtol=1e-3
    )  # fmt: skip
    for name in ("zero_points.png", "stellar_locus.png", "compare_ps1.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    cells = Table.read(tmp_path / "out" / "residual_map.ecsv")
    assert set(cells["band"]) == set("griz")
    assert np.abs(np.std(cells["residual"] / np.hypot(cells["residual_err"], 1e-3)) - 1) < 0.35
    # Another catalogue, through published colour terms: they differ from the curves by 20 mmag.
    against = Table.read(tmp_path / "out" / "compare_ps1.ecsv")
    assert np.abs(against["offset"][against["band"] != "u"]).max() < 0.03
    assert "g less ps1" in result.output


def test_a_reference_of_skymapper(tmp_path, field):
    field[3].write(tmp_path / "sm.fits")
    words = ("--bands", "g,r,i,z", "--no-locus", "--survey", "sm_dr4")
    result = run(tmp_path, field[0], "--reference", tmp_path / "sm.fits", *words)
    assert result.exit_code == 0, (result.output, result.exception)
    table = Table.read(tmp_path / "out" / "zero_points.ecsv")
    for row in table:
        # Without its colour terms g would be off by 0.2 and r by 0.1 mag.
        assert row["offset"] == pytest.approx(OFFSETS[row["band"]], abs=0.015)


def test_colours_without_a_reference(tmp_path, field):
    result = run(tmp_path, field[0])
    assert result.exit_code == 0, (result.output, result.exception)
    table = Table.read(tmp_path / "out" / "zero_points.ecsv")
    for row in table:
        assert row["offset"] == pytest.approx(OFFSETS[row["band"]] - OFFSETS["r"], abs=0.008)
    assert set(table["source"]) == {"locus"}


@pytest.mark.parametrize(
    ("change", "args", "sentence"),
    [
        (lambda t: None, ["--no-locus"], "--no-locus needs a --reference"),
        (lambda t: t.remove_columns(["extendedness"]), [], "neither is_star nor extendedness"),
        (lambda t: None, ["--stars", "extendedness,5,6"], "no row is a star"),
        (lambda t: None, ["--stars", "extendedness"], "--stars takes COLUMN,MIN,MAX"),
        (lambda t: None, ["--bands", "g,Y"], "no columns of a common name for band Y"),
        (lambda t: t.rename_column("ra", "alpha"), [], "no column 'ra'"),
        (lambda t: None, ["--reference", "nothing.fits"], "there is no file nothing.fits"),
        (lambda t: None, ["--dust-map", "nothing.fits"], "nothing.fits does not exist"),
        (lambda t: None, ["--camera", "wfc"], "survey must be one of"),
        (lambda t: t.remove_rows(slice(None)), [], "the catalogue has no rows"),
        (lambda t: t.remove_rows(slice(5, None)), [], "no band can be calibrated"),
        (lambda t: t.replace_column("dec", np.full(len(t), np.nan)), [], "has a finite position"),
    ],
)  # fmt: skip
def test_one_sentence_for_each_fault(tmp_path, field, change, args, sentence):
    catalogue = field[0].copy()
    change(catalogue)
    result = run(tmp_path, catalogue, *args)
    assert isinstance(result.exception, SkymillError), result.output
    assert sentence in str(result.exception)


def test_a_band_without_a_value_stays_and_is_told(tmp_path, field):
    catalogue = field[0].copy()
    catalogue["u_psf_mag"] = np.nan
    result = run(tmp_path, catalogue)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "u: stays as it is" in result.output
