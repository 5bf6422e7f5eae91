"""Zero points, offsets, PSF and files of simulated images whose truth is known."""

import numpy as np
import pytest
from astropy.io import fits
from simulated_ccd import SimulatedImage

from skymill.data.errors import MissingInputError
from skymill.data.tables import load_schema
from skymill.instruments.community_ccd import read_ccd_header
from skymill.instruments.survey_folder import SurveyFolder
from skymill.release.survey.calibrations import CalibrationOptions, calibrate_image, is_current
from skymill.release.survey.ccd_table import read_fits_table
from skymill.release.survey.reference_stars import open_reference
from skymill.release.survey.zero_point import ZeroPointOptions
from skymill.release.survey.zeropoints import PRODUCTS, ImageOptions, process_image

CASES = {
    "decam": {"camera": "decam", "band": "r", "ccds": ("N10",), "exposure": 500001},
    "mosaic": {"camera": "mosaic", "band": "z", "ccds": ("CCD1",), "exposure": 77690},
    "90prime": {"camera": "90prime", "band": "g", "ccds": ("CCD1",), "exposure": 81900110,
                "fwhm": 3.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Images of the three cameras with calibrations and their processed tables."""
    out = {}
    for name, words in CASES.items():
        root = tmp_path_factory.mktemp(name)
        image = SimulatedImage(root, **words).write()
        ps1, gaia = image.write_references(root / "references")
        image.ps1, image.gaia = open_reference("ps1", ps1), open_reference("gaia", gaia)
        image.report = _process(image, "psf", ImageOptions(run_calibs=True))
        out[name] = image
    return out


def _process(image, folder, options, **words):
    return process_image(
        image.name, camera=image.camera, survey_dir=image.root, outdir=image.root / folder,
        ps1=image.ps1, gaia=image.gaia, options=options, **words,
    )  # fmt: skip


@pytest.mark.parametrize("camera", CASES)
def test_zero_points_and_offsets_of_all_cameras(simulated, camera):
    image = simulated[camera]
    assert image.report.messages == {}
    row = read_fits_table(image.report.paths["annotated"])[0]
    # Standard error of the median: 1.25 * phrms / sqrt(n); the PSF's own error is of that size.
    error = 1.25 * row["ccdphrms"] / np.sqrt(row["ccdnphotom"])
    assert abs(row["ccdzpt"] - image.zero_point) < 3 * error + 0.003
    assert row["ccdphrms"] < 0.02
    assert row["ccdraoff"] == pytest.approx(image.offset[0], abs=0.002)
    assert row["ccddecoff"] == pytest.approx(image.offset[1], abs=0.002)
    assert row["ccdrarms"] == pytest.approx(abs(image.offset[0]), abs=0.004)
    assert row["ccdnphotom"] >= 30
    # The profile integrated over pixels is a few percent wider than the profile itself.
    assert row["fwhm"] == pytest.approx(image.fwhm, rel=0.06)
    assert bool(row["annotated"])


def test_sky_noise_and_depth_follow_the_simulation(simulated):
    image = simulated["decam"]
    row = read_fits_table(image.report.paths["annotated"])[0]
    noise = np.sqrt(image.sky / image.gain + (5 / image.gain) ** 2)
    scale = image.exptime * 10 ** (0.4 * (image.zero_point - 22.5))
    assert row["ccdskycounts"] == pytest.approx(image.sky / image.exptime, rel=0.02)
    assert row["skyrms"] == pytest.approx(noise / image.exptime, rel=0.05)
    assert row["sig1"] == pytest.approx(noise / scale, rel=0.02)
    assert row["psfdepth"] == pytest.approx(
        -2.5 * (np.log10(5 * row["sig1"] / row["psfnorm_mean"]) - 9), abs=1e-4
    )
    assert row["galdepth"] < row["psfdepth"]
    stamp = image.profile(500, 550, 63)
    assert row["psfnorm"] == pytest.approx(np.sqrt((stamp**2).sum()), rel=0.02)
    assert row["pixscale_mean"] == pytest.approx(0.262, rel=1e-3)
    surface = image.zero_point - 2.5 * np.log10(image.sky / image.exptime / 0.262**2)
    assert row["ccdskysb"] == pytest.approx(surface, abs=0.03)


def test_aperture_mode_misses_the_light_outside_of_the_aperture(simulated):
    image = simulated["decam"]
    options = ImageOptions(zero_point=ZeroPointOptions(mode="aperture"))
    row = read_fits_table(_process(image, "aperture", options).paths["annotated"])[0]
    beta, radius = 3.0, 3.5 / 0.262
    alpha = image.fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    inside = 1 - (1 + (radius / alpha) ** 2) ** (1 - beta)
    error = 1.25 * row["ccdphrms"] / np.sqrt(row["ccdnphotom"])
    expected = image.zero_point + 2.5 * np.log10(inside)
    # The annulus holds some of the star too: 2 mmag.
    assert abs(row["ccdzpt"] - expected) < 3 * error + 0.005


@pytest.mark.parametrize("kind", PRODUCTS)
def test_every_table_follows_its_schema(simulated, kind):
    table = read_fits_table(simulated["decam"].report.paths[kind])
    schema = load_schema(PRODUCTS[kind])
    assert table.colnames == [c.name for c in schema.columns]
    for entry in schema.columns:
        if entry.dtype != "U":
            assert table[entry.name].dtype == np.dtype(entry.dtype), entry.name
    assert len(table) == 1 or kind.startswith("star")


def test_the_stars_of_the_zero_point_give_it_again(simulated):
    image = simulated["decam"]
    stars = read_fits_table(image.report.paths["star-photom"])
    row = read_fits_table(image.report.paths["legacypipe"])[0]
    used = np.asarray(stars["used_for_photzpt"], bool)
    assert np.median(stars["dpsfmag"][used]) == pytest.approx(row["ccdzpt"], abs=1e-5)
    assert np.std(stars["dpsfmag"][used]) == pytest.approx(row["ccdphrms"], abs=1e-5)
    assert used.sum() == row["ccdnphotom"]
    assert np.median(stars["chi2"][used]) == pytest.approx(1.0, abs=0.15)
    # The bright stars' residuals follow their errors within the errors of the PSF.
    bright = used & (np.asarray(stars["dinstpsfmag"]) < 0.01)
    assert np.std(stars["dpsfmag"][bright]) < 0.015


def test_finished_images_are_kept_and_new_versions_done_again(simulated):
    image = simulated["decam"]
    assert _process(image, "psf", ImageOptions(run_calibs=True)).kept
    info = read_ccd_header(image.path, hdu=1)
    folder = SurveyFolder(image.root, image.camera)
    words = folder.calibration_words("psfex", image.path, image.exposure, "N10")
    assert is_current(words, info)
    assert not is_current({**words, "plprocid": "other"}, info)
    assert not is_current({**words, "expnum": 1}, info)
    assert not is_current(None, info)
    done = calibrate_image(image.path, folder)
    assert done == {"N10": {"splinesky": "kept", "psfex": "kept"}}


def test_psf_of_the_file_is_that_of_the_simulation(simulated):
    image = simulated["decam"]
    psf = SurveyFolder(image.root, image.camera).psf(image.path, image.exposure, "N10")
    for x, y in ((300, 300), (500, 550), (800, 900)):
        drawn = psf.draw(x=[x], y=[y])[0]
        truth = image.profile(x, y, drawn.shape[0])
        # What a star's flux is wrong by when it is fitted with this PSF.
        assert (drawn * truth).sum() / (drawn**2).sum() == pytest.approx(1.0, abs=0.015)


def test_files_in_the_older_layout(simulated, tmp_path):
    image = simulated["decam"]
    folder = SurveyFolder(image.root, image.camera, calib=tmp_path)
    done = calibrate_image(image.path, folder, options=CalibrationOptions(layout="dr7"))
    assert done == {"N10": {"splinesky": "made", "psfex": "made"}}
    assert (tmp_path / "decam/psfex/00500/00500001/decam-00500001-N10.fits").is_file()
    assert folder.psf(image.path, image.exposure, "N10").stamp_size == 63


def test_missing_calibrations_and_references_are_messages(simulated, tmp_path):
    image = simulated["decam"]
    report = _process(image, "no-calib", ImageOptions(), calibdir=tmp_path)
    assert "no spline sky" in report.messages["N10"]
    row = read_fits_table(report.paths["legacypipe"])[0]
    assert (row["ccd_cuts"], row["expnum"], row["ccdzpt"]) == (1, 0, 0)
    assert read_fits_table(report.paths["annotated"])["expnum"][0] == image.exposure
    nothing = process_image(
        image.name, camera="decam", survey_dir=image.root, outdir=tmp_path / "none",
        gaia=image.gaia,
    )  # fmt: skip
    assert "No photometry available" in nothing.messages["N10"]
    row = read_fits_table(nothing.paths["legacypipe"])[0]
    assert (row["expnum"], row["ccdzpt"]) == (image.exposure, 0)
    assert row["ccdraoff"] == pytest.approx(image.offset[0], abs=0.002)
    with pytest.raises(MissingInputError, match="there is no image"):
        process_image("decam/none.fits", camera="decam", survey_dir=image.root, outdir=tmp_path)


def _spoil(image, kind, change):
    path = image.path.with_name(image.path.name.replace("_ooi_", f"_oo{kind}_"))
    with fits.open(path, mode="update") as hdus:
        change(hdus)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """One image of six CCDs: a good one and five with a fault each."""
    root = tmp_path_factory.mktemp("faulty")
    names = ("N10", "N11", "N12", "N13", "N14")
    image = SimulatedImage(root, ccds=names, shape=(600, 600), n_stars=90, n_galaxies=10).write()
    ps1, gaia = image.write_references(root / "references")
    image.ps1, image.gaia = open_reference("ps1", ps1), open_reference("gaia", gaia)

    def no_weight(hdus):
        hdus["N11"].data[:] = 0

    def no_star(hdus):
        rng = np.random.default_rng(1)
        hdus["N12"].data[:] = rng.normal(400, 10, (600, 600))

    def no_wcs(hdus):
        for key in ("CRVAL1", "CRVAL2", "CTYPE1", "CTYPE2"):
            del hdus["N13"].header[key]

    def nan(hdus):
        hdus["N14"].data[100:200, 100:200] = np.nan

    _spoil(image, "w", no_weight)
    _spoil(image, "i", no_star)
    _spoil(image, "i", no_wcs)
    _spoil(image, "i", nan)
    image.report = _process(image, "out", ImageOptions(run_calibs=True))
    return image


def test_faulty_ccds_keep_their_rows_with_one_sentence_each(faulty):
    messages = faulty.report.messages
    assert set(messages) == {"N11", "N12", "N13"}
    assert "All weight-map pixels are zero" in messages["N11"]
    assert "Bad PSF model" in messages["N12"]
    assert messages["N13"].startswith("WCS Failed")
    table = read_fits_table(faulty.report.paths["zpt"])
    assert list(table["ccdname"]) == list(faulty.ccds)
    good = np.isin(table["ccdname"], ["N10", "N14"])
    assert list(table["err_message"] == "") == list(good)
    np.testing.assert_allclose(table["zpt"][good], faulty.zero_point, atol=0.01)
    assert np.all(np.asarray(table["zpt"])[~good] == 0)
    survey = read_fits_table(faulty.report.paths["legacypipe"])
    assert np.all(survey["zpt"] == survey["zpt"][0])
    assert list(survey["ccd_cuts"] == 1) == list(~good)


def test_an_exposure_of_no_time_and_a_corrupt_file(tmp_path):
    image = SimulatedImage(tmp_path, shape=(500, 500), n_stars=40, n_galaxies=0).write()
    ps1, gaia = image.write_references(tmp_path / "references")
    image.ps1, image.gaia = open_reference("ps1", ps1), open_reference("gaia", gaia)
    with fits.open(image.path, mode="update") as hdus:
        hdus[0].header["EXPTIME"] = 0.0
    report = _process(image, "out", ImageOptions(run_calibs=True))
    assert report.messages == {"N10": "Exptime = 0"}
    path = image.path.with_name(image.path.name.replace("_ooi_", "_oow_"))
    path.write_bytes(path.read_bytes()[:9000])
    report = _process(image, "out", ImageOptions(overwrite=True))
    assert "truncated" in report.messages["N10"]
