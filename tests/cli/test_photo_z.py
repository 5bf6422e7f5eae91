import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from skymill.calibrate.extinction import COEFFICIENTS
from skymill.cli.photo_z import photo_z
from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import SkymillError
from skymill.photoz.estimate import estimate_photoz, models_of
from skymill.photoz.options import PhotozOptions
from skymill.photoz.storage import decode_pz, grid_of

BANDS = ["g", "r", "i", "z"]
GRID = ["--dz", "0.01", "--z-max", "1.5"]


def make_table(n=300):
    """Template galaxies in nanomaggies and inverse variances, as in a sweep file."""
    options = PhotozOptions(dz=0.01, z_max=1.5)
    models = models_of(BANDS, options=options)
    rng = np.random.default_rng(1)
    t, i = rng.integers(0, 8, n), rng.integers(10, 100, n)
    flux = models.flux[:, t, i].T.astype(float) * 10 ** rng.uniform(0.5, 2, (n, 1))
    err = 0.03 * flux.mean(axis=1)
    flux += rng.normal(0, 1, flux.shape) * err[:, None]
    table = Table({"ID": [f"g{k}" for k in range(n)], "Z_SPEC": models.z[i]})
    for k, band in enumerate(BANDS):
        table[f"FLUX_{band.upper()}"], table[f"FLUX_IVAR_{band.upper()}"] = flux[:, k], err**-2.0
    return table


def run(tmp_path, table, *args):
    path = tmp_path / "catalogue.fits"
    table.write(path, overwrite=True)
    words = [str(path), *GRID, "--output", str(tmp_path / "out"), *map(str, args)]
    return CliRunner().invoke(photo_z, words, catch_exceptions=True)


def test_redshifts_pz_figure_and_metrics_of_a_foreign_catalogue(tmp_path):
    table = make_table()
    result = run(tmp_path, table, "--z-spec", "Z_SPEC")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "g: FLUX_G, FLUX_IVAR_G [nmgy]" in result.output
    assert "all: 300 spectra, NMAD 0.0" in result.output
    found = read_catalogue(tmp_path / "out" / "photo_z.parquet")
    assert list(found["ID"]) == list(table["ID"])
    # The same as from Python, in whose unit a nanomaggy is 3631 nJy.
    flux = np.stack([table[f"FLUX_{b.upper()}"] for b in BANDS], axis=1) * 3631.0
    err = np.stack([table[f"FLUX_IVAR_{b.upper()}"] ** -0.5 for b in BANDS], axis=1) * 3631.0
    options = PhotozOptions(dz=0.01, z_max=1.5)
    expected = estimate_photoz(flux, err, bands=BANDS, options=options)
    assert np.allclose(found["z_median"], expected["z_median"], atol=1e-3)
    assert (tmp_path / "out" / "photo_z.png").read_bytes().startswith(b"\x89PNG")
    metrics = Table.read(tmp_path / "out" / "photo_z_metrics.ecsv")
    assert set(metrics["sample"]) == {"all", "sure"}
    assert decode_pz(np.asarray(found["pz"])).shape == (300, len(grid_of(found)))


def test_training_grades_the_other_half(tmp_path):
    table = make_table()
    table["FLUX_G"] *= 10**-0.06  # 0.15 mag too faint
    table["FLUX_IVAR_G"] *= 10**0.12
    result = run(tmp_path, table, "--z-spec", "Z_SPEC", "--train")
    assert result.exit_code == 0, (result.output, result.exception)
    points = Table.read(tmp_path / "out" / "photo_z_zero_points.ecsv")
    assert points["offset"][0] == pytest.approx(-0.15, abs=0.03)
    metrics = Table.read(tmp_path / "out" / "photo_z_metrics.ecsv")
    assert 100 < metrics["n"][0] < 200


def test_extinction_vectors_and_the_output_of_zero_points(tmp_path):
    table = make_table(60)
    plain = run(tmp_path, table)
    assert plain.exit_code == 0, (plain.output, plain.exception)
    expected = read_catalogue(tmp_path / "out" / "photo_z.parquet")["z_median"]
    # Fluxes with extinction, in one vector.
    dust = np.array([COEFFICIENTS["decam"][b] for b in BANDS]) * 0.1
    flux = np.stack([table[f"FLUX_{b.upper()}"] for b in BANDS], axis=1) * 10 ** (-0.4 * dust)
    err = np.stack([table[f"FLUX_IVAR_{b.upper()}"] for b in BANDS], axis=1) ** -0.5
    vectors = Table({"FLUX": flux, "ERR": err * 10 ** (-0.4 * dust), "EBV": np.full(60, 0.1)})
    words = [f"--band={b}=FLUX[{k}],ERR[{k}],nmgy" for k, b in enumerate(BANDS)]
    assert "add --ebv EBV if its fluxes hold it" in run(tmp_path, vectors, *words).output
    result = run(tmp_path, vectors, *words, "--ebv", "EBV")
    assert result.exit_code == 0, (result.output, result.exception)
    found = read_catalogue(tmp_path / "out" / "photo_z.parquet")["z_median"]
    assert np.allclose(found, expected, atol=1e-3)
    # What skymill zero-points has calibrated goes first, and is not dereddened twice.
    for k, b in enumerate(BANDS):
        vectors[f"{b}_calibrated_flux"] = flux[:, k] * 10 ** (0.4 * dust[k]) * 3631.0
        vectors[f"{b}_calibrated_fluxerr"] = err[:, k] * 3631.0
        vectors[f"mag_{b}"], vectors[f"magerr_{b}"] = 20.0, 0.1
    result = run(tmp_path, vectors)
    assert "note" not in result.output
    found = read_catalogue(tmp_path / "out" / "photo_z.parquet")["z_median"]
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "args", "sentence"),
    [
        (lambda t: t.remove_columns(["FLUX_IVAR_R"]), ["--bands", "g,r,i"],
         "no columns of a common name for band r"),
        (lambda t: t.remove_columns([f"FLUX_{b}" for b in "GRI"]), [], "at least 2 bands"),
        (lambda t: None, ["--band", "g=NONE,FLUX_IVAR_G"], "at least 2 bands"),
        (lambda t: None, ["--bands", "g,r", "--band", "g=NONE,FLUX_IVAR_G"],
         "no column 'NONE' for band g"),
        (lambda t: None, ["--train"], "--train needs spectroscopic redshifts"),
        (lambda t: None, ["--z-spec", "redshift"], "no column 'redshift'"),
        (lambda t: None, ["--camera", "wfc"], "camera must be one of decam"),
        (lambda t: t.remove_rows(slice(None)), [], "the catalogue has no rows"),
        (lambda t: None, ["--band", "g=FLUX_G[2],FLUX_IVAR_G", "--bands", "g,r"],
         "is not an element"),
        (lambda t: t.replace_column("Z_SPEC", np.full(300, -1.0)), ["--z-spec", "Z_SPEC"],
         "no galaxy has both"),
    ],
)  # fmt: skip
def test_one_sentence_for_each_fault(tmp_path, change, args, sentence):
    table = make_table()
    change(table)
    result = run(tmp_path, table, *args)
    assert isinstance(result.exception, SkymillError), result.output
    assert sentence in str(result.exception)


def test_a_band_without_a_value_is_left_out_and_said(tmp_path):
    table = make_table(50)
    table["FLUX_Z"] = np.nan
    result = run(tmp_path, table)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "measured for no object, and left out: z" in result.output
