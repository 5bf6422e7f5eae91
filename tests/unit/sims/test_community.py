"""Community-processed images of a patch: as real ones to read, as the truth to measure."""

from __future__ import annotations

import hashlib

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.coadd.bricks import brick_at, brick_from_name
from skymill.data.errors import ConfigError, MissingInputError
from skymill.data.geometry import FitsWcs
from skymill.instruments.decam.community import read_headers
from skymill.instruments.survey_folder import SurveyFolder
from skymill.sims import community, community_images
from skymill.sims.community import (
    ReleasePatchOptions,
    patch_bricks,
    patch_preset,
    plan_patch,
    read_patch_truth,
    simulate_release_patch,
)
from skymill.sims.community_draw import SersicSources, draw_psf_stamps, draw_sersic, profile_edge
from skymill.sims.draw import PsfField


@pytest.fixture(scope="module")
def patch(tmp_path_factory):
    root = tmp_path_factory.mktemp("patch")
    options = patch_preset("tiny", exposures=2, bands=("r", "z"), exposure_times=(90.0, 100.0))
    return root, simulate_release_patch(root, options), options


def triple(path):
    out = []
    for kind in "iwd":
        with fits.open(path.with_name(path.name.replace("_ooi_", f"_oo{kind}_"))) as hdus:
            out.append((hdus[1].header.copy(), np.array(hdus[1].data)))
    return out


def soft_sersic(n):
    """A profile of unit half-light radius with the soft edge, from galsim's own Sersic profile.

    Where the factor begins to fall, galsim's profile is cut out ring by ring: the sum over rings of
    (the profile truncated at their outer minus at their inner radius) times the factor.
    """
    edge = profile_edge(n)
    rings = np.linspace(edge - 1.0, edge, 21)
    falls = (1.0 - (0.5 * (rings[1:] + rings[:-1]) - rings[0]) ** 2) ** 2
    at = {r: galsim.Sersic(n, half_light_radius=1.0, trunc=r, flux_untruncated=True) for r in rings}
    parts = [at[rings[0]]]
    for inner, outer, fall in zip(rings[:-1], rings[1:], falls, strict=True):
        parts += [fall * at[outer], -fall * at[inner]]
    return galsim.Add(parts)


@pytest.mark.parametrize(("sersic", "radius", "g1", "g2"), [
    (1.0, 0.2, 0.0, 0.0), (1.0, 1.1, 0.3, -0.2), (4.0, 0.8, -0.25, 0.1), (2.0, 0.5, 0.0, 0.5),
    (0.7, 1.5, 0.1, 0.4),
])  # fmt: skip
def test_a_galaxy_is_what_galsim_draws(sersic, radius, g1, g2):
    jacobian = np.array([[0.002, 0.2631], [-0.2640, 0.001]])
    x, y = 48.3, 46.8
    image = np.zeros((96, 96), np.float32)
    one = np.ones(1)
    drawn = SersicSources(
        one * x, one * y, one * 1e5, one * sersic, one * radius, one * g1, one * g2,
        jacobian[None],
    )  # fmt: skip
    psf = PsfField("moffat", 3.0, one * 1.1, one * 0.03, one * -0.02)
    sharpness = draw_sersic(image, drawn, psf, noise=1e-3)
    # The pixel axes see the sky mirrored (East is y): galsim gets the local affine map.
    wcs = galsim.JacobianWCS(*jacobian.ravel())
    model = soft_sersic(sersic).withFlux(1e5)
    e = np.hypot(g1, g2)
    # Major axis = radius: galsim's shear keeps the area.
    model = model.dilate(radius * np.sqrt((1 - e) / (1 + e))).shear(g1=g1, g2=g2)
    star = galsim.Moffat(beta=3.0, fwhm=1.1).shear(g1=0.03, g2=-0.02)
    params = galsim.GSParams(maximum_fft_size=16384)
    expected = galsim.Convolve(model, star, gsparams=params).drawImage(
        nx=96, ny=96, wcs=wcs, offset=(x - 47.5, y - 47.5)
    ).array  # fmt: skip
    # 1e-5 of the flux in any pixel: the tables' resolution; galsim's own folding is 5e-3 in total.
    assert np.abs(image - expected).max() < 1e-5 * 1e5
    assert image.sum() == pytest.approx(expected.sum(), rel=3e-3)
    assert sharpness[0] == pytest.approx(
        (expected / 1e5).astype(float).ravel() @ (expected / 1e5).ravel(), rel=2e-3
    )


def test_psf_stamps_are_the_stars_that_are_drawn():
    jacobian = np.array([[[0.0, 0.263], [-0.263, 0.0]]])
    psf = PsfField("moffat", 3.0, np.array([0.9]), np.array([0.05]), np.array([0.02]))
    stamp = draw_psf_stamps(psf, jacobian)[0]
    image = np.zeros((63, 63), np.float32)
    one, none = np.ones(1), np.zeros(1)
    star = SersicSources(31 * one, 31 * one, 1e6 * one, none, none, none, none, jacobian)
    draw_sersic(image, star, psf, noise=1e-6)
    assert np.abs(stamp - image / 1e6).max() < 2e-6  # of the flux
    assert 0.998 < stamp.sum() < 1.0  # the wings of the Moffat profile beyond 8 arcsec


def test_halos_of_bright_stars_follow_their_law():
    image = np.zeros((500, 450), np.float32)
    one, none = np.ones(1), np.zeros(1)
    for flux in (1e8, 1e5):
        star = SersicSources(
            200 * one, 250 * one, flux * one, none, none, none, none, np.eye(2)[None]
        )
        community_images._add_halos(image, star, "g", "N4", 20.0)
    # 4.5e-4 r^-2 of the star's light in an arcsec2, nothing within 7 arcsec.
    at = np.array([30, 40, 100, 200])
    radius = at * 0.2634
    expected = np.where(radius > 8.0, 1e8 * 4.5e-4 * 0.2634**2 / radius**2, 0.0)
    assert image[250, 200] == 0.0
    np.testing.assert_allclose(image[250, 200 + at][1:], expected[1:], rtol=1e-5)
    assert 0.0 < image[250, 230] < 1e8 * 4.5e-4 * 0.2634**2 / radius[0] ** 2


def test_the_folder_has_what_a_survey_has(patch):
    root, made, _ = patch
    stems = {p.name for p in made.images}
    assert len(stems) == 4
    for path in made.images:
        assert path.is_file()
        assert path.parent.parent.parent.name == "CP"
        for kind in ("w", "d"):
            assert path.with_name(path.name.replace("_ooi_", f"_oo{kind}_")).is_file()
    survey = made.survey
    with fits.open(survey / "survey-ccds-sim.fits.gz") as hdus:
        ccds = Table(hdus[1].data)
    assert len(ccds.colnames) == 46
    assert (survey / "images" / str(ccds["image_filename"][0]).strip()).is_file()
    for folder in ("gaia/chunk-*.fits", "ps1/ps1-*.fits"):
        assert list(survey.glob(folder))
    assert (survey / "tycho2.fits.gz").is_file()
    names = (root / "bricks.txt").read_text().split()
    assert names == [b.name for b in made.bricks] == ["1501p022", "1503p022"]
    zooms = [line.split() for line in (root / "zooms.txt").read_text().splitlines()]
    assert [z[0] for z in zooms] == names
    assert all(int(z[2]) - int(z[1]) >= 300 for z in zooms)


def test_columns_are_those_of_a_real_survey(patch, shared_data):
    _, made, _ = patch
    real = shared_data / "cutouts" / "testcase3"
    for mine, theirs in (
        (made.survey / "survey-ccds-sim.fits.gz", real / "survey-ccds-1.fits.gz"),
        (made.survey / "survey-bricks.fits.gz", real / "survey-bricks.fits.gz"),
        (next((made.survey / "gaia").glob("*.fits")), real / "gaia" / "chunk-04759.fits"),
    ):
        a, b = (fits.getdata(p, 1).dtype for p in (mine, theirs))
        assert a.names == b.names
        for name in a.names:
            if a[name].kind not in "SU":
                assert a[name] == b[name], (mine.name, name)
    for kind, folder in (("psfex", "psfex-single"), ("splinesky", "sky-single")):
        mine = next((made.survey / "calib").rglob(f"*-{kind}.fits"))
        theirs = next((real / "calib" / folder).rglob("*.fits"))
        own = set(fits.getdata(mine, 1).dtype.names)
        missing = set(fits.getdata(theirs, 1).dtype.names) - own
        assert all(n.startswith(("sky_p", "sky_fine")) for n in missing)


def test_images_read_as_community_images(patch):
    _, made, _ = patch
    truth = read_patch_truth(made.truth.parent, "ccds")
    survey = SurveyFolder(made.survey)
    for path in made.images:
        file = read_headers(path)
        exposure, _ = file.read(35, survey)
        row = truth[truth["expnum"] == file.exposure.exposure][0]
        summary = exposure.summary
        scale = 2.5 * np.log10(row["exposure_time"] * row["gain"])
        assert summary["zeroPoint"] == pytest.approx(row["psf_zero_point"] + scale, abs=1e-4)
        assert exposure.info.exposure_time == row["exposure_time"]
        # The offsets of the table bring the header's WCS back to the truth.
        true = FitsWcs(fits.Header.fromstring(row["wcs"]))
        x, y = np.array([10.0, 600.0]), np.array([900.0, 20.0])
        ra, dec = exposure.wcs.pixel_to_sky(x=x, y=y)
        true_ra, true_dec = true.pixel_to_sky(x=x, y=y)
        assert np.abs(dec - true_dec).max() * 3.6e6 < 1.0  # mas
        assert np.abs(ra - true_ra).max() * 3.6e6 < 1.0


def test_sky_noise_and_weights_are_right(patch):
    _, made, _ = patch
    truth = read_patch_truth(made.truth.parent, "ccds")
    survey = SurveyFolder(made.survey)
    for path in made.images[:2]:
        (header, image), (_, weight), (_, quality) = triple(path)
        assert image.dtype == np.float32
        assert ((weight == 0) == (quality != 0)).all()
        number = read_headers(path).exposure.exposure
        sky = survey.sky(path, number, "N4", shape=image.shape)
        pull = (image - sky) * np.sqrt(weight)
        clean = pull[(quality == 0) & (np.abs(pull) < 3.5)]
        # Most pixels are sky: their median is that of the sky up to the light of faint sources.
        assert abs(np.median(clean)) < 0.25
        core = clean[clean < np.median(clean)]
        width = np.sqrt(np.mean((core - np.median(clean)) ** 2))
        assert width == pytest.approx(1.0, abs=0.05)
        row = truth[truth["expnum"] == number][0]
        assert header["AVSKY"] == pytest.approx(np.median(image), rel=0.03)
        assert 1 / np.sqrt(np.median(weight[weight > 0])) == pytest.approx(row["sigma"], rel=0.03)
        assert set(np.unique(quality)) <= {0, 1, 3, 4, 5}


def test_stars_have_their_fluxes_and_places(patch):
    """PSF photometry with the written PSF, sky, weights and WCS gives the truth, pulls and all."""
    root, made, _ = patch
    sources = read_patch_truth(root, "sources")
    survey = SurveyFolder(made.survey)
    pulls = []
    for path in made.images:
        file = read_headers(path)
        exposure, _ = file.read(35, survey)
        planes, band = exposure.planes, file.exposure.filter.band
        stars = sources[(sources["kind"] == "PSF") & (sources["nearest"] > 5.0)]
        years = (file.exposure.begin - 57388.0) / 365.25
        dec = stars["dec"].value + stars["pm_dec"].value * years / 3.6e6
        ra = stars["ra"].value + stars["pm_ra"].value * years / 3.6e6 / np.cos(np.radians(dec))
        x, y = exposure.wcs.sky_to_pixel(ra=ra, dec=dec)
        ny, nx = planes.shape
        njy = np.asarray(stars[f"flux_{band}"]) * 3631.0
        ok = (x > 20) & (x < nx - 21) & (y > 20) & (y < ny - 21) & (njy < 3e5) & (njy > 1.5e4)
        for xs, ys, flux in zip(x[ok], y[ok], njy[ok], strict=True):
            i, j = int(np.rint(xs)), int(np.rint(ys))
            cut = np.s_[j - 8 : j + 9, i - 8 : i + 9]
            if planes.mask[cut].any():
                continue
            model = exposure.psf.draw(
                x=np.array([xs]), y=np.array([ys]), size=17,
                offset_x=np.array([xs - i]), offset_y=np.array([ys - j]),
            )[0].astype(float)  # fmt: skip
            # Variance without the noise of the pixel itself, which would bias the sum.
            scale = exposure.photo_calib.mean
            variance = np.nanmedian(planes.variance) + model * flux / scale
            norm = (model**2 / variance).sum()
            got = (model * planes.image[cut] / variance).sum() / norm
            pulls.append((got - flux / scale) * np.sqrt(norm))
    pulls = np.array(pulls)
    assert pulls.size > 40
    # Faint galaxies below the stars add a little light and noise: clipped moments.
    clean = pulls[np.abs(pulls) < 4]
    assert clean.size > 0.93 * pulls.size
    assert np.std(clean) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(clean)) < 0.4


def test_expected_signal_to_noise(patch):
    root, _, _ = patch
    sources = read_patch_truth(root, "sources")
    inside = sources[(sources["brickname"] != "") & (sources["n_exposure_r"] == 2)]
    assert len(inside) > 80
    faint = inside[(inside["flux_r"] < 5.0) & (inside["flux_r"] > 0.5)]
    assert (faint["snr_r"] > 0.3).all()
    stars, galaxies = (faint[(faint["kind"] == "PSF") == flag] for flag in (True, False))
    # A star is sharper than a galaxy of its flux.
    ratio = [np.median(t["snr_r"] / t["flux_r"].value) for t in (stars, galaxies)]
    assert ratio[0] > 1.1 * ratio[1]
    assert set(np.unique(sources["kind"])) == {"PSF", "REX", "EXP", "DEV", "SER"}
    galaxies = sources[sources["kind"] != "PSF"]
    assert 0.2 <= galaxies["shape_r"].value.min() < 0.23


def test_made_again_it_is_the_same_whatever_the_processes(tmp_path):
    options = patch_preset(
        "tiny", exposures=1, bands=("r", "z"), exposure_times=(60.0, 60.0), window=(200, 220),
        brick_pixels=60, depth=21.0, star_density=2.0,
    )  # fmt: skip
    made = {}
    for name, processes in (("one", 1), ("two", 2)):
        simulate_release_patch(tmp_path / name, options, processes=processes)
        made[name] = {
            str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted((tmp_path / name).rglob("*"))
            if p.is_file() and not p.name.endswith((".npz", ".gz"))
        }
    assert made["one"] == made["two"]
    # A second call makes only what is missing.
    kept = next((tmp_path / "one").rglob("*ooi*.fz"))
    before = kept.stat().st_mtime_ns
    simulate_release_patch(tmp_path / "one", options)
    assert kept.stat().st_mtime_ns == before


def test_bare_images_have_no_calibration(tmp_path):
    options = patch_preset(
        "tiny", exposures=1, bands=("r",), exposure_times=(60.0,), window=(200, 220),
        brick_pixels=60, depth=21.0, star_density=2.0, calibrated=False,
    )  # fmt: skip
    made = simulate_release_patch(tmp_path, options)
    assert not (made.survey / "calib").exists()
    assert not list(made.survey.glob("survey-ccds*"))
    assert len(made.images) == 1


@pytest.mark.parametrize(("ra", "dec"), [
    (150.25, 2.125), (0.0, 0.125), (359.99, -1.9), (180.3, 32.4), (77.0, -62.0),
])  # fmt: skip
def test_bricks_are_those_of_the_tiling(ra, dec):
    options = ReleasePatchOptions(ra=ra, dec=dec)
    bricks = patch_bricks(options)
    corner_ra, corner_dec = options.corner()
    assert abs(corner_dec - dec) < 0.13
    assert len(bricks) in (3, 4)
    for brick in bricks:
        real = brick_from_name(brick.name)
        assert (brick.brickid, brick.row, brick.column) == (real.index, real.row, real.column)
        assert (brick.ra, brick.dec) == pytest.approx((real.ra, real.dec))
        assert (brick.ra1, brick.ra2) == pytest.approx((real.ra_low, real.ra_high))
        assert brick.quadrant == real.quadrant
        x0, x1, y0, y1 = brick.zoom
        assert x1 - x0 >= 1000
        assert y1 - y0 >= 1000
    around = {
        brick_at(ra=(corner_ra + a) % 360.0, dec=corner_dec + b).name
        for a in (-1e-4, 1e-4)
        for b in (-1e-3, 1e-3)
    }
    assert around == {b.name for b in bricks}


def test_exposures_vary(patch):
    options = ReleasePatchOptions()
    pointings = plan_patch(options)
    assert len(pointings) == 18
    seeing = np.array([p.head.seeing for p in pointings if p.head.band == "r"])
    assert seeing.min() == pytest.approx(0.8)
    assert seeing.max() == pytest.approx(1.6)
    assert len({p.head.number for p in pointings}) == 18
    assert len({community.image_stem(p) for p in pointings}) == 18


def test_bad_options_have_their_sentence(tmp_path):
    with pytest.raises(ConfigError, match="small, tiny"):
        patch_preset("huge")
    with pytest.raises(ConfigError, match="n_bricks must be 2 or 4"):
        ReleasePatchOptions(n_bricks=3)
    with pytest.raises(ConfigError, match="one exposure time each"):
        ReleasePatchOptions(bands=("g",))
    with pytest.raises(ConfigError, match="part of one CCD"):
        ReleasePatchOptions(window=(100, 100))
    with pytest.raises(MissingInputError, match="no table 'sources'"):
        read_patch_truth(tmp_path, "sources")
