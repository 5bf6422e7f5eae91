"""The whole set on disk: complete, deterministic, resumable."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.geometry import FitsWcs
from skymill.data.tables import load_schema
from skymill.sims import survey
from skymill.sims.survey import (
    SurveyOptions,
    plan_pointings,
    read_truth,
    simulate_survey,
    survey_preset,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("survey")
    options = survey_preset("tiny", galaxy_density=0.1)
    seen = []
    result = simulate_survey(root, options, progress=lambda *a: seen.append(a))
    return root, options, result, seen


def digest(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*.fits*"))
    }


def test_everything_is_there(made):
    root, _, result, seen = made
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert [n for n in names if not n.startswith("truth/frames/")] == [
        "calib/DECam_00829998.fits.fz",
        "calib/DECam_00829999.fits.fz",
        "calib/brighter_fatter_kernel.npy",
        "raws/DECam_00830001.fits.fz",
        "raws/DECam_00830002.fits.fz",
        "refcats/gaia.parquet",
        "refcats/ps1.parquet",
        "truth/ccds.parquet",
        "truth/exposures.parquet",
        "truth/galaxies.parquet",
        "truth/halos.parquet",
        "truth/options.json",
        "truth/stars.parquet",
    ]
    assert len(result["raws"]) == 2
    assert len(result["calibs"]) == 2
    assert seen[-1][:2] == (4, 4)
    for name in ("stars", "galaxies", "halos", "exposures", "ccds"):
        load_schema(f"truth_{name}").validate(read_truth(root, name))
    with pytest.raises(MissingInputError, match="no table 'planets' of the truth"):
        read_truth(root, "planets")
    kernel = np.load(root / "calib" / "brighter_fatter_kernel.npy")
    assert kernel.shape == (9, 9)
    assert kernel.max() < 0


def test_true_wcs_puts_a_bright_star_where_it_is(made):
    root, _, _, _ = made
    stars = read_truth(root, "stars")
    ccds = read_truth(root, "ccds")
    with fits.open(root / "raws" / "DECam_00830001.fits.fz") as hdus:
        raw = hdus[1].data[:4096, 56:2104].astype(float)
    wcs = FitsWcs(fits.Header.fromstring(str(ccds["wcs"][0])))
    x, y = wcs.sky_to_pixel(ra=stars["ra"], dec=stars["dec"])
    m = np.asarray(stars["mag_r"])
    use = (x > 30) & (x < 990) & (y > 30) & (y < 4060) & (m > 17.5) & (m < 18.5)
    offsets = []
    for k in np.flatnonzero(use):
        i, j = round(x[k]), round(y[k])
        cut = raw[j - 6 : j + 7, i - 6 : i + 7]
        cut = cut - np.median(raw[j - 15 : j + 16, i - 15 : i + 16])
        jj, ii = np.mgrid[-6:7, -6:7]
        offsets.append(
            ((cut * ii).sum() / cut.sum() + i - x[k], (cut * jj).sum() / cut.sum() + j - y[k])
        )
    assert len(offsets) >= 3
    # Proper motions of three years and neighbours move single stars by tenths of a pixel.
    assert np.abs(np.median(offsets, axis=0)).max() < 0.15


def test_same_options_same_files_with_any_number_of_processes(made, tmp_path):
    root, options, _, _ = made
    simulate_survey(tmp_path, options, processes=2)
    assert digest(tmp_path) == digest(root)


def test_a_second_call_makes_only_what_is_missing(made):
    root, options, result, _ = made
    before = digest(root)
    result["calibs"][0].unlink()
    seen = []
    simulate_survey(root, options, progress=lambda *a: seen.append(a))
    assert seen == [(4, 4, result["calibs"][0].name)]
    assert digest(root) == before


def test_half_a_survey_is_finished_later(tmp_path, monkeypatch):
    options = survey_preset("tiny", galaxy_density=0.0, star_density=0.1, flats=0)
    real = survey.camera.simulate_exposure
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(survey.camera, "simulate_exposure", killed)
    with pytest.raises(KeyboardInterrupt):
        simulate_survey(tmp_path, options)
    assert len(list(tmp_path.rglob("*.fits.fz"))) == 1
    assert not list(tmp_path.rglob("*.part"))
    simulate_survey(tmp_path, options)
    assert len(calls) == 3  # the first exposure was not made again
    assert len(read_truth(tmp_path, "ccds")) == 2


def test_dithers_move_the_gaps():
    options = SurveyOptions()
    pointings = plan_pointings(options)
    assert [p.head.band for p in pointings] == list("ggrrrrii")
    assert len({p.head.number for p in pointings}) == 8
    r = [p for p in pointings if p.head.band == "r"]
    dec = np.sort([p.head.dec for p in r]) * 3600
    # The gap between two columns of CCDs is 53 arcsec wide.
    assert np.diff(dec).min() > 45
    assert all(1.0 <= p.head.airmass < 3 for p in pointings)


def test_presets_and_bad_options():
    assert survey_preset("full") == SurveyOptions()
    assert survey_preset("small", mass=5e14).mass == 5e14
    assert survey_preset("tiny", bands=("y",)).bands == ("Y",)
    with pytest.raises(ConfigError, match="size must be one of full, small, tiny; got 'huge'"):
        survey_preset("huge")
    with pytest.raises(ConfigError, match="bands must be among u, g, r, i, z, Y"):
        SurveyOptions(bands=("K",))
    with pytest.raises(ConfigError, match="visits must have one value for each of the 3 bands"):
        SurveyOptions(visits=(1,))
    with pytest.raises(DataError, match="got CCDNUM 99"):
        SurveyOptions(ccds=(99,))
    with pytest.raises(ConfigError, match="redshift must be"):
        SurveyOptions(redshift=9.0)


@pytest.mark.parametrize(("ra", "dec"), [(0.02, -35.0), (359.99, 10.0), (120.0, -80.0)])
def test_any_place_of_the_sky(ra, dec):
    options = survey_preset("tiny", ra=ra, dec=dec, galaxy_density=0.02)
    scene = survey.make_scene(options.scene_options(), np.random.default_rng(1))
    pointing = plan_pointings(options)[0]
    ccd = survey.ccd_facts(35)
    wcs = FitsWcs(survey.camera.wcs_header(ccd, pointing.optics))
    x, y = wcs.sky_to_pixel(ra=[ra], dec=[dec])
    # The cluster is within the dither (85 arcsec each way) of the middle of the CCD.
    assert abs(x[0] - 1024) < 400
    assert abs(y[0] - 2048) < 400
    _, _, record = survey.camera.ccd_sources(scene, ccd, pointing, wcs)
    area = 161 / (4 * 3600 * scene.options.half_width * scene.options.half_height)
    assert record["n_galaxies"] == pytest.approx(len(scene.galaxies) * area, rel=0.35)
