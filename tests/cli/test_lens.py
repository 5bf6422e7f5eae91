import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from skymill.cli.lens import lens
from skymill.data.errors import SkymillError
from skymill.lensing.catalogue import plane_to_sky
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.nfw import NfwHalo
from skymill.qa.pictures import encode_png

CENTRE = (150.0, 2.0)


def make_table(n=4000, seed=1):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-12, 12, (2, n))
    radius, phi = np.maximum(np.hypot(east, north), 0.5), np.arctan2(north, east)
    beta = FIDUCIAL.lensing_efficiency(1.0, z_lens=0.2)
    g = NfwHalo(mass=1e15, z=0.2).reduced_shear(radius, beta=beta)
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    return Table(
        {
            "RA": ra, "DEC": dec, "e_1": -g * np.cos(2 * phi) + rng.normal(0, 0.2, n),
            "e_2": g * np.sin(2 * phi) + rng.normal(0, 0.2, n), "w": np.ones(n),
            "photo_z": np.full(n, 1.0),
        }
    )  # fmt: skip


COLUMNS = ["--ra", "RA", "--dec", "DEC", "--g1", "e_1", "--g2", "e_2", "--weight", "w", "--flip-g2"]


def run(*args):
    return CliRunner().invoke(lens, [str(a) for a in args], catch_exceptions=True)


def message(result):
    assert isinstance(result.exception, SkymillError), result.output
    return str(result.exception)


def test_a_field_smaller_than_the_apertures_is_told(tmp_path):
    table, path = make_table(), tmp_path / "shapes.fits"
    table[np.hypot(table["RA"] - CENTRE[0], table["DEC"] - CENTRE[1]) < 3 / 60].write(path)
    small = [path, *COLUMNS, "--output", tmp_path, "--step", 30, "--rotations", 4]
    result = run("map", *small)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "most apertures are cut by the edge" in result.output
    result = run("map", *small, "--aperture-min", 1, "--aperture-max", 1.4, "--apertures", 2)
    assert "cut by the edge" not in result.output


@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv", "ecsv"])
def test_map_writes_fits_png_and_peaks(tmp_path, suffix):
    path = tmp_path / f"shapes.{suffix}"
    make_table().write(path, format={"csv": "ascii.csv", "ecsv": "ascii.ecsv"}.get(suffix, suffix))
    peaks = tmp_path / "p.csv"
    result = run("map", path, *COLUMNS, "--output", tmp_path / "out", "--peaks", peaks,
                 "--step", 60, "--apertures", 4)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert (tmp_path / "out" / "mass_map.png").read_bytes().startswith(b"\x89PNG")
    with fits.open(tmp_path / "out" / "mass_map.fits") as hdus:
        assert {"E", "B", "VARIANCE", "SNR_E", "SNR_B"} <= {h.name for h in hdus}
    top = Table.read(peaks, format="ascii.csv")[0]
    assert np.hypot(top["ra"] - CENTRE[0], top["dec"] - CENTRE[1]) * 60 < 1.0
    assert "highest E peak: S/N" in result.output
    assert not list(tmp_path.glob("**/*part*"))


def test_flip_matters(tmp_path):
    path = tmp_path / "shapes.fits"
    make_table().write(path)
    run("map", path, *COLUMNS[:-1], "--output", tmp_path, "--step", 60, "--apertures", 4)
    wrong = Table.read(tmp_path / "peaks.ecsv", format="ascii.ecsv")
    run("map", path, *COLUMNS, "--output", tmp_path, "--step", 60, "--apertures", 4)
    right = Table.read(tmp_path / "peaks.ecsv", format="ascii.ecsv")
    assert right["snr"].max() > 1.5 * max([*wrong["snr"], 0.0])


def test_fit_finds_centre_and_mass(tmp_path):
    path = tmp_path / "shapes.parquet"
    make_table().write(path)
    result = run("fit", path, *COLUMNS, "--z-lens", 0.2, "--z", "photo_z", "--output", tmp_path,
                 "--table", tmp_path / "mass.csv", "--bootstrap", 200)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    row = Table.read(tmp_path / "mass.csv", format="ascii.csv")[0]
    assert abs(row["m200"] - 1e15) < 3 * row["m200_err"]
    assert (tmp_path / "mass_fit.png").exists()
    profile = Table.read(tmp_path / "mass_profile.ecsv", format="ascii.ecsv")
    assert str(profile["delta_sigma"].unit) == "solMass / Mpc2"


def test_fit_with_one_source_redshift_and_a_centre(tmp_path):
    path = tmp_path / "shapes.fits"
    make_table().write(path)
    result = run("fit", path, *COLUMNS, "--z-lens", 0.2, "--z-source", 1.0, "--centre", "150.0,2.0",
                 "--output", tmp_path, "--bootstrap", 50)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "M200 = " in result.output


def test_clear_sentences(tmp_path):
    path = tmp_path / "shapes.fits"
    table = make_table(n=300)
    table.write(path)
    assert "there is no file" in message(run("map", tmp_path / "absent.fits"))
    text = message(run("map", path, "--g1", "gamma1"))
    assert "no column 'gamma1'" in text
    assert "name it with --g1" in text
    off = message(run("map", path, *COLUMNS, "--centre", "10,2"))
    assert "89 deg" in off or "outside the catalogue" in off
    none_behind = message(run("fit", path, *COLUMNS, "--z-lens", 2.0, "--z", "photo_z",
                              "--centre", "150,2"))  # fmt: skip
    assert "0 galaxies lie behind" in none_behind
    nan = table.copy()
    nan["e_1"] = np.nan
    nan.write(path, overwrite=True)
    assert "0 of 300 rows are usable" in message(run("map", path, *COLUMNS))
    table[:1].write(path, overwrite=True)
    assert "1 of 1 rows are usable" in message(run("map", path, *COLUMNS))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    assert "cannot be read as parquet" in message(run("map", tmp_path / "broken.parquet"))
    assert "suffix must be" in message(run("map", path.rename(tmp_path / "shapes.xyz")))


def test_centre_must_be_two_numbers(tmp_path):
    result = run("map", tmp_path / "x.fits", "--centre", "150")
    assert result.exit_code == 2
    assert "RA,DEC in degrees" in result.output


def test_photoz_without_pz_is_named(tmp_path):
    path, photoz = tmp_path / "shapes.fits", tmp_path / "photoz.fits"
    table = make_table(n=300)
    table["ID"] = [f"a{i}" for i in range(300)]
    table.write(path)
    Table({"ID": table["ID"], "z_phot": table["photo_z"]}).write(photoz)
    text = message(
        run("fit", path, *COLUMNS, "--z-lens", 0.2, "--z", "photo_z", "--photoz", photoz)
    )
    assert "has no p(z)" in text


def test_map_convergence_and_overlay(tmp_path):
    path = tmp_path / "shapes.fits"
    make_table().write(path)
    result = run("map", path, *COLUMNS, "--output", tmp_path, "--step", 60, "--apertures", 2,
                 "--rotations", 8)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "by chance anywhere" in result.output
    result = run("convergence", path, *COLUMNS, "--output", tmp_path, "--step", 40,
                 "--rotations", 1, "--centre", "150.0,2.0")  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "highest convergence" in result.output
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")
    # The convergence serves as picture of the sky and as X-rays.
    for mass in ("mass_map.fits", "convergence.fits"):
        result = run("overlay", tmp_path / mass, "--image", tmp_path / "convergence.fits", "--xray",
                     tmp_path / "convergence.fits", "--png", tmp_path / "o.png")  # fmt: skip
        assert result.exit_code == 0, (result.output, result.exception)
        assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_halos_together(tmp_path):
    path = tmp_path / "shapes.parquet"
    make_table().write(path)
    result = run("halos", path, *COLUMNS, "--z", "photo_z", "--z-lens", 0.2, "--halo", "150.0,2.0",
                 "--halo", "150.1,2.1", "--bootstrap", 0, "--steps", 40,
                 "--output", tmp_path)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "halo 1: M200 =" in result.output
    table = Table.read(tmp_path / "halos.ecsv")
    assert abs(table["m200"][0] - 1e15) < 4 * table["m200_err"][0]


def test_clear_sentences_of_the_new_verbs(tmp_path):
    path = tmp_path / "shapes.fits"
    make_table(n=200).write(path)
    common = [path, *COLUMNS, "--z", "photo_z", "--z-lens", 0.2]
    assert "--halo RA,DEC" in message(run("halos", *common))
    assert "once for each --halo" in message(
        run("halos", *common, "--halo", "150,2", "--halo-z", 0.2, "--halo-z", 0.3)
    )
    assert "there is no file" in message(run("overlay", tmp_path / "no.fits", "--image", path))
    assert "this is no mass map" in message(run("overlay", path, "--image", path))
    (tmp_path / "bare.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    result = run("map", path, *COLUMNS, "--output", tmp_path, "--step", 120, "--apertures", 1,
                 "--rotations", 0)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "does not say where on the sky it is" in message(
        run("overlay", tmp_path / "mass_map.fits", "--image", tmp_path / "bare.png")
    )
