"""Simulated bricks: the true sources explain every pixel; catalogues are complete and honest."""

from __future__ import annotations

import numpy as np
import pytest

from release_grades import grade, report, robust_width
from skymill.model.forward import render
from skymill.model.sources import Sources, SourceType
from skymill.release.brick.grid import named_grid
from skymill.release.brick.images import read_images
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.run_brick import run_brick
from skymill.release.survey.survey_dir import SurveyDir
from skymill.sims.community import (
    patch_preset,
    read_patch_truth,
    simulate_release_patch,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    options = patch_preset("tiny", exposures=2, trails=0.0, halos=False)
    return root, simulate_release_patch(root, options)


def sources_at(truth, mjd, band):
    years = (mjd - 57388.0) / 365.25
    dec = truth["dec"].value + truth["pm_dec"].value * years / 3.6e6
    ra = truth["ra"].value + truth["pm_ra"].value * years / 3.6e6 / np.cos(np.radians(dec))
    return Sources.create(
        kind=np.array([SourceType[k] for k in truth["kind"]], np.int8), ra=ra, dec=dec,
        flux=np.asarray(truth[f"flux_{band}"])[:, None], radius=truth["shape_r"].value,
        e1=np.asarray(truth["shape_e1"]), e2=np.asarray(truth["shape_e2"]),
        sersic=np.asarray(truth["sersic"]),
    )  # fmt: skip


def test_the_true_sources_explain_the_pixels(tiny):
    """Reader, zero point, sky, PSF, WCS and forward model against galsim's drawing and noise."""
    root, patch = tiny
    brick = patch.bricks[0]
    options = BrickOptions(
        survey_dir=str(patch.survey), out_dir=str(root / "out"), brick=brick.name, zoom=brick.zoom
    )
    grid = named_grid(brick.name, zoom=brick.zoom)
    images = read_images(SurveyDir(patch.survey), grid, options).images
    assert len(images) == 6
    truth = read_patch_truth(root, "sources")
    for image in images:
        sources = sources_at(truth, image.mjd, image.band)
        x, y = image.wcs.sky_to_pixel(ra=sources.ra, dec=sources.dec)
        ny, nx = image.image.shape
        near = np.flatnonzero((x > -80) & (x < nx + 80) & (y > -80) & (y < ny + 80))
        model = render(sources.at(near), image, bands=[image.band])
        chi = (image.image - model) * image.inverse_error
        good = image.inverse_error > 0
        empty = good & (model < 0.3 * image.sigma1)
        bright = good & (model > 5 * image.sigma1) & (model < 300 * image.sigma1)
        assert empty.sum() > 50_000
        assert bright.sum() > 1000
        # 0.01: thrice the error of a median of 1e5 pixels, and what cosmic rays leave.
        assert abs(np.median(chi[empty])) < 0.03
        width = 1.4826 * np.median(np.abs(chi[empty] - np.median(chi[empty])))
        assert width == pytest.approx(1.0, abs=0.03)
        width = 1.4826 * np.median(np.abs(chi[bright] - np.median(chi[bright])))
        # The second order of the PSF's polynomial and the smooth edges of the profiles.
        assert 0.92 < width < 1.12
        assert abs(np.median(chi[bright])) < 0.2


@pytest.fixture(scope="module")
def grades(tmp_path_factory):
    """Catalogues of four bricks of more than 1000 pixels, six exposures in each band."""
    root = tmp_path_factory.mktemp("small")
    patch = simulate_release_patch(root, patch_preset("small"), processes=2)
    for brick in patch.bricks:
        run_brick(
            BrickOptions(
                survey_dir=str(patch.survey), out_dir=str(root / "out"), brick=brick.name,
                zoom=brick.zoom, threads=2, ebv=0.0,
            )
        )  # fmt: skip
    found = grade(root, root / "out", patch.bricks)
    print("\n" + report(found))  # noqa: T201
    return found


@pytest.mark.slow
def test_bricks_are_complete_at_signal_to_noise_8(grades):
    share, number = grades.completeness(8.0)
    assert number > 500
    assert share >= 0.95, report(grades)
    # The faintest of them alone; 0.03 is the error of a share of 0.9 of 100 sources.
    share, number = grades.completeness(8.0, 10.0)
    assert number > 50
    assert share >= 0.90, report(grades)


@pytest.mark.slow
@pytest.mark.parametrize("band", ["g", "r", "z"])
def test_flux_errors_are_honest(grades, band):
    """Of all that are told apart, whatever light their neighbours put under them."""
    stars, galaxies = (
        grades.pulls(band, kind, neighbours=np.inf) for kind in ("star", "galaxy")
    )  # fmt: skip
    assert stars.size > 100
    assert galaxies.size > 200
    assert 0.9 <= robust_width(stars) <= 1.2, report(grades)
    assert 0.9 <= robust_width(galaxies) <= 1.4, report(grades)
    # 2.5 times the error of a median of 100 fluxes.
    bright = grades.pulls(band, "star", snr=50.0)
    assert abs(np.median(bright)) < 0.3, report(grades)


@pytest.mark.slow
def test_stars_are_told_from_galaxies(grades):
    share, number = grades.classified(20.0)
    assert number > 300
    assert share >= 0.95, report(grades)
