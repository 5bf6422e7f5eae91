"""Cells tile a patch, have the mean PSF, fill holes with noise and know where nothing counts."""

import numpy as np
import pytest

from skymill.coadd.cells import CellOptions, cut_cells, plan_cells, star_radius
from skymill.coadd.noise_spectrum import NoiseSpectrumOptions
from skymill.data.errors import DataError, NoDataError
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.psf.models import CellPsf, ConstantPsf

OUTER, INNER = Box(x0=1000, y0=500, x1=1240, y1=740), Box(x0=1020, y0=520, x1=1220, y1=720)
OPTIONS = CellOptions(size=100, rim=24)


def stamp(sigma):
    return ConstantPsf.gaussian(sigma, 25).stamp


def coadd(band="r", *, psf=None, seed=1, level=4.0):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, np.sqrt(level), OUTER.shape).astype(np.float32)
    planes = PixelPlanes(
        image, np.full(OUTER.shape, level, np.float32), np.zeros(OUTER.shape, np.int32), unit="nJy"
    )
    return Coadd(
        planes=planes, box=OUTER, inner_box=INNER, band=band, skymap="s", tract=0, patch=3,
        wcs=make_tan_wcs(ra=10.0, dec=-5.0, scale=0.263, x=1100, y=600),
        psf=psf or ConstantPsf(stamp(2.0)),
    )  # fmt: skip


def plan(coadds, **kwargs):
    options = {"shear_bands": ["r"], "options": OPTIONS, **kwargs}
    return plan_cells(coadds, noise=NoiseSpectrumOptions(block=100, min_pixels=1000), **options)


def test_cells_tile_the_patch_and_keep_its_pixels():
    one = coadd()
    cells = plan({"r": one})
    hits = np.zeros(INNER.shape, int)
    for cut in cut_cells({"r": one}, cells, seed=[1]):
        hits[cut.box.slices(within=INNER)] += 1
        assert cut.images.shape == (1, 148, 148)
        assert not cut.lost.all()
        dx, dy = cut.box.x0 - cut.x0, cut.box.y0 - cut.y0
        inside = cut.images[0, dy : dy + 100, dx : dx + 100]
        np.testing.assert_array_equal(inside, one.planes.image[cut.box.slices(within=OUTER)])
        assert cut.noises.std() == pytest.approx(2.0, rel=0.05)
        np.testing.assert_allclose(cut.psfs[0], stamp(2.0), rtol=1e-6)
    assert (hits == 1).all()
    assert len(cells) == 4


def test_noise_is_the_same_in_every_run_and_another_in_every_cell():
    one = coadd()
    cells = plan({"r": one})
    first, again = (list(cut_cells({"r": one}, cells, seed=[1, 2])) for _ in range(2))
    np.testing.assert_array_equal(first[0].noises, again[0].noises)
    assert abs(np.corrcoef(first[0].noises.ravel(), first[1].noises.ravel())[0, 1]) < 0.03


def test_psf_is_the_mean_and_a_jump_drops_the_cell():
    stamps = np.array([[stamp(2.0)] * 3 + [stamp(2.06)] * 3] * 6)
    near = coadd(psf=CellPsf(stamps, 1000.0, 500.0, 40))
    cells = plan({"r": near})
    left, right = cells.psfs[0, 0], cells.psfs[1, 0]
    assert np.abs(left - right).max() > 0.0
    assert cells.size_change[0, 0] == pytest.approx(0.0, abs=1e-6)  # ends at x = 1120
    stamps[:, 3:] = stamp(2.6)
    far = coadd(psf=CellPsf(stamps, 1020.0, 500.0, 40))
    cells = plan({"r": far})
    assert cells.size_change[1, 0] > 0.1
    assert list(cells.in_use()) == [0, 2]
    assert "with a changing PSF" in cells.reasons()


def test_cell_without_psf_is_told():
    stamps = np.full((6, 6, 25, 25), np.nan, np.float32)
    stamps[:, :3] = stamp(2.0)
    cells = plan({"r": coadd(psf=CellPsf(stamps, 1000.0, 500.0, 40))})
    assert list(cells.in_use()) == [0, 2]
    assert "r: 2 without data or PSF" in cells.reasons()


def test_holes_are_filled_with_noise_and_sources_there_do_not_count():
    one = coadd()
    star = np.array([[1070.0], [570.0], [12.0]])
    rows, columns = np.mgrid[:240, :240]
    disc = np.hypot(columns - 70, rows - 70) <= 12
    one.planes.image[disc] = 1e6
    one.planes.image[100:130, 130:160] = np.nan
    one.planes.mask[100:130, 130:160] = int(MaskPlane.NO_DATA)
    one.planes.mask[30, :] |= int(MaskPlane.BAD)  # thin: was interpolated, keeps its value
    cells = plan({"r": one}, stars=star)
    for cut in cut_cells({"r": one}, cells, seed=[1]):
        assert np.isfinite(cut.images).all()
        assert np.abs(cut.images).max() < 6 * 2.0
        assert cut.images.std() == pytest.approx(2.0, rel=0.05)
    cut = next(iter(cut_cells({"r": one}, cells, seed=[1])))
    u, v = 1070 - cut.x0, 570 - cut.y0
    assert cut.lost[0, v, u]
    assert cut.lost[0, v + 18, u]  # within the distance that is kept from holes
    assert not cut.lost[0, v + 24, u]
    line = 500 + 30 - cut.y0
    assert cut.lost[0, line, 40]
    assert not cut.lost[0, line + 4, 40]


def test_bands_of_wider_psf_do_not_join_the_sum():
    coadds = {"i": coadd("i", seed=2), "r": coadd(), "z": coadd("z", psf=ConstantPsf(stamp(3.0)))}
    cells = plan(coadds, shear_bands=["r", "i", "z", "y"])
    cut = next(iter(cut_cells(coadds, cells, seed=[1])))
    assert cut.bands == ("i", "r", "z")
    assert set(cut.shear_bands) == {"r", "i"}


def test_faults_have_a_sentence():
    one = coadd()
    with pytest.raises(NoDataError, match=r"no coadd in a band that gives shapes \(g\); it has r"):
        plan({"r": one}, shear_bands=["g"])
    cells = plan({"r": one})
    with pytest.raises(DataError, match="planned with band r: no coadd of it"):
        next(cut_cells({}, cells, seed=[1]))


def test_published_radius_of_stars():
    radius = star_radius(np.array([10.0, 19.0]), pixel_scale=0.263)
    # 10^(0.4432 - 2.257 + 2.996) arcsec, and the least of 5.
    np.testing.assert_allclose(radius, [10**1.1822 / 0.263, 5 / 0.263])
