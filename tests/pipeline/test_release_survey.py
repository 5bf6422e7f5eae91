"""The verbs of a release before the bricks, as a user types them, on simulated exposures."""

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from simulated_ccd import SimulatedImage

from skymill.cli import main
from skymill.coadd.bricks import brick_at
from skymill.data.tables import load_schema
from skymill.release.survey.ccd_table import read_fits_table
from skymill.release.survey.survey_dir import SurveyDir


def run(root, *words, code=0):
    """Type one verb of the release."""
    result = CliRunner().invoke(
        main, ["release", *map(str, words)], env={"LEGACY_SURVEY_DIR": str(root)}
    )
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A bare survey directory: two exposures of two CCDs, of which one has no weight."""
    root = tmp_path_factory.mktemp("survey")
    images = [
        SimulatedImage(
            root, band=band, exposure=500001 + k, stamp=f"150329_08332{k}", ccds=("N10", "S3"),
            shape=(700, 700), n_stars=90, n_galaxies=20, seed=5,
        ).write()
        for k, band in enumerate("gr")
    ]  # fmt: skip
    for name, path in zip(("ps1", "gaia"), images[0].write_references(root), strict=True):
        (root / name).mkdir()
        path.rename(root / name / path.name)
    weight = images[1].path.with_name(images[1].path.name.replace("_ooi_", "_oow_"))
    with fits.open(weight, mode="update") as hdus:
        hdus["S3"].data[:] = 0
    return root, images


@pytest.fixture(scope="module")
def done(survey):
    """The same after images, zeropoints, merge-zeropoints, merge-calibs and survey-ccds."""
    root, images = survey
    out = root / "run"
    listed = run(root, "images", root / "images")
    assert listed.stdout.split() == sorted(image.name for image in images)
    run(root, "images", root / "images", "--outdir", out)
    words = ("zeropoints", "--image-list", out / "decam_images.txt", "--outdir", out / "zpts")
    only = run(root, *words, "--run-calibs-only", code=1)
    assert "4 calibrations made" in only.stderr
    assert "S3 read: All weight-map pixels are zero" in only.stderr
    first = run(root, *words)
    assert "2 of 2 CCDs have a zero point" in first.stderr
    assert "1 of 2 CCDs have a zero point" in first.stderr
    assert run(root, *words).stderr.count("kept") == 2
    for kind in ("legacypipe", "annotated"):
        files = sorted((out / "zpts" / "decam").rglob(f"*-{kind}.fits"))
        (out / f"{kind}.txt").write_text("".join(f"{path}\n" for path in files))
        run(root, "merge-zeropoints", "--file-list", out / f"{kind}.txt",
            "--outname", out / f"merged-{kind}.fits")  # fmt: skip
    run(root, "survey-ccds", "--ccds", out / "merged-legacypipe.fits",
        "--outname", root / "survey-ccds-sim.kd.fits", "--omit", "early_decam",
        "--omit", "too_many_bad_ccds")  # fmt: skip
    return root, images


def test_the_survey_holds_the_truth(done):
    root, images = done
    ccds = SurveyDir(root).ccds()
    assert sorted(zip(ccds["expnum"], ccds["ccdname"], strict=True)) == [
        (500001, "N10"), (500001, "S3"), (500002, "N10"),
    ]  # fmt: skip
    for row in ccds:
        image = images[int(row["expnum"]) - 500001]
        error = 1.25 * row["ccdphrms"] / np.sqrt(row["ccdnphotom"])
        # The PSF of so small a CCD, from 40 stars, adds some millimagnitudes.
        assert abs(row["ccdzpt"] - image.zero_point) < 3 * error + 0.008
        assert row["ccdraoff"] == pytest.approx(image.offset[0], abs=0.003)


def test_merging_cuts_what_the_words_say(done, tmp_path):
    root, _ = done
    words = ("merge-zeropoints", "--file-list", root / "run/legacypipe.txt", "--outname")
    for options, rows in (((), 4), (("--cut",), 3), (("--cut-expnum",), 3)):
        run(root, *words, tmp_path / "m.fits", *options)
        table = read_fits_table(tmp_path / "m.fits")
        assert len(table) == rows
    assert "is truncated" not in run(root, *words, tmp_path / "m.fits", "--nproc", 0).stderr
    (tmp_path / "list.txt").write_text("/no/such/table.fits\n")
    failed = run(root, "merge-zeropoints", "--file-list", tmp_path / "list.txt", "--outname",
                 tmp_path / "n.fits", code=1)  # fmt: skip
    assert failed.stderr.strip() == "skymill: there is no table /no/such/table.fits"


def test_calibrations_are_merged_by_exposure(done, tmp_path):
    root, _ = done
    good = run(root, "merge-calibs", "--outdir", tmp_path)
    assert "4 merged, 0 kept, 0 failed" in good.stderr
    merged = sorted(path.name for path in tmp_path.rglob("*.fits"))
    assert len(merged) == 4
    survey = SurveyDir(root)
    row = survey.ccds()[0]
    folder = survey.folder("decam")
    folder.calib = tmp_path
    assert folder.psf(survey.image_path(row), int(row["expnum"]), row["ccdname"]).stamp_size == 63
    bad = run(root, "merge-calibs", "--ccds", root / "run/merged-annotated.fits", "--continue",
              "--outdir", tmp_path / "all", code=1)  # fmt: skip
    assert "2 merged, 0 kept, 2 failed" in bad.stderr
    assert "CCD S3 has no psfex calibration" in bad.stderr
    stopped = run(root, "merge-calibs", "--ccds", root / "run/merged-annotated.fits",
                  "--outdir", tmp_path / "none", code=1)  # fmt: skip
    assert stopped.stderr.startswith("skymill: exposure 500002 CCD S3 has no psfex calibration")


def test_the_annotated_table_equals_that_of_the_zero_points(done, tmp_path):
    root, _ = done
    run(root, "annotate", "--outname", tmp_path / "ann.fits")
    own = read_fits_table(tmp_path / "ann.fits")
    first = read_fits_table(root / "run/merged-annotated.fits")
    load = load_schema("ccds-annotated")
    assert own.colnames == [c.name for c in load.columns]
    keys = [(int(r["expnum"]), str(r["ccdname"])) for r in first]
    for row in own:
        other = first[keys.index((int(row["expnum"]), str(row["ccdname"])))]
        for entry in load.columns:
            if entry.name in ("zpt", "ccd_cuts", "annotated") or entry.dtype == "U":
                continue
            # The same code on the same pixels, rounded in the table between.
            np.testing.assert_allclose(row[entry.name], other[entry.name], rtol=2e-4, atol=1e-4,
                                       err_msg=entry.name)  # fmt: skip


def test_annotating_a_ccd_without_calibration_says_so(done, tmp_path):
    root, _ = done
    failed = run(root, "annotate", "--ccds", root / "run/merged-legacypipe.fits", "--outname",
                 tmp_path / "ann.fits", code=1)  # fmt: skip
    assert "3 of 4 CCDs are annotated" in failed.stderr
    assert "All weight-map pixels are zero" in failed.stderr


def test_standard_output_holds_names_of_bricks_only(done):
    root, images = done
    all_names = run(
        root, "bricks", "--min-ra", 180, "--max-ra", 181, "--min-dec", 32, "--max-dec", 33
    )
    assert all_names.stdout.split() == [
        f"{a}{b}" for a in (1801, 1804, 1807) for b in ("p320", "p322", "p325", "p327", "p330")
    ]
    assert "15 bricks" in all_names.stderr
    found = run(root, "bricks", "--minra", 149, "--maxra", 151, "--mindec", 1, "--maxdec", 3,
                "--touching")  # fmt: skip
    home = brick_at(ra=images[0].stars["ra"][0], dec=images[0].stars["dec"][0]).name
    names = found.stdout.split()
    assert home in names
    assert len(names) <= 6
    near = run(
        root, "bricks", "--minra", 149, "--maxra", 151, "--mindec", 1, "--maxdec", 3, "--near"
    )
    assert set(names) <= set(near.stdout.split())
    nothing = run(root, "bricks", "--region", "mzls", "--minra", 10, "--maxra", 11, "--touching")
    assert nothing.stdout == ""


def test_depth_cut_of_a_brick(done, tmp_path):
    root, images = done
    home = brick_at(ra=images[0].stars["ra"][0], dec=images[0].stars["dec"][0]).name
    found = run(root, "depth-cut", "--brick", home, "--brick", "0001p000", "--outdir", tmp_path,
                "--collect", tmp_path / "survey-ccds-depthcut.fits")  # fmt: skip
    assert "no CCD overlaps the brick 0001p000" in found.stderr
    assert (tmp_path / "bricks-good.txt").read_text().split() == [home]
    assert np.all(read_fits_table(tmp_path / "survey-ccds-depthcut.fits")["ccd_cuts"] == 0)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("bricks", "--region", "nowhere"), 2, "--region must be one of mzls, decals"),
        (("bricks", "--min-dec", "5", "--max-dec", "4"), 2, "declinations must be a range"),
        (("images", "/no/folder"), 1, "there is no folder of images"),
        (("images", ".", "--camera", "hsc"), 2, "camera must be one of decam, mosaic, 90prime"),
        (("zeropoints", "--outdir", "x"), 2, "give --image or --image-list"),
        (("zeropoints", "--outdir", "x", "--image", "no.fits"), 1, "is no community-processed"),
        (("calibs", "--image", "a", "--layout", "dr1"), 2, "layout must be one of dr9, dr7"),
        (("survey-ccds", "--ccds", "x.fits", "--outname", "y.fits"), 1, "x.fits is truncated or"),
        (("depth-cut", "--outdir", "x", "--brick", "33"), 1, "a brick's name is 4 digits"),
        (("depth-cut", "--outdir", "x"), 2, "give --brick or --brick-list"),
    ],
)
def test_wrong_words_are_one_sentence(survey, words, code, sentence):
    failed = run(survey[0], *words, code=code)
    assert sentence in failed.stderr
    assert failed.stderr.strip().count("\n") == 0


def test_without_a_survey_directory(tmp_path):
    failed = run("", "annotate", "--outname", tmp_path / "x.fits", code=2)
    assert "give --survey-dir or set LEGACY_SURVEY_DIR" in failed.stderr
