"""Depth histograms and the summary of bricks against sums and medians done here."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.coadd.bricks import brick_at, brick_from_name
from skymill.data.errors import NoDataError
from skymill.qa.release_figures import (
    draw_brick_histograms,
    draw_brick_map,
    draw_color,
    draw_depth_histogram,
)
from skymill.release.finish.depth import depth_bins, depth_histogram
from skymill.release.finish.summary import merge_summaries, summarise_bricks, write_summary
from skymill.release.survey.bricks import brick_wcs, is_primary

from .conftest import SCALE, SIZE

PNG = b"\x89PNG"


class TestDepth:
    def test_sum_of_all_bricks(self, two_bricks, tmp_path):
        report = depth_histogram(two_bricks.folder, tmp_path, release="dr9")
        assert report.n_bricks == 2
        tables = [fits.getdata(two_bricks.path("depth-table", n)) for n in two_bricks.objects]
        summary = fits.getdata(tmp_path / "dr9-depth-summary.fits.gz")
        for name in ("counts_ptsrc_g", "counts_gal_z"):
            wanted = sum(np.asarray(t[name], np.int64) for t in tables)
            assert wanted.max() > 2**31  # A sum of 32 bits would have overflown.
            np.testing.assert_array_equal(summary[name], wanted)
        assert summary["depthlo"][1] == np.float32(20.1)
        bricks = fits.getdata(tmp_path / "dr9-depth.fits.gz", 1)
        assert list(bricks["brickname"]) == ["1801p000", "1803p000"]
        np.testing.assert_array_equal(bricks["counts_gal_r"][1], tables[1]["counts_gal_r"])
        bins = fits.getdata(tmp_path / "dr9-depth.fits.gz", 2)
        np.testing.assert_array_equal(bins["depthhi"], depth_bins()[1])
        assert draw_depth_histogram(report.low, report.high, report.counts)[:4] == PNG

    def test_bins_are_those_of_the_releases(self, shared_data):
        folder = shared_data / "cutouts" / "testcase3" / "reference" / "coadd"
        real = fits.getdata(folder / "legacysurvey-2447p120-depth.fits")
        low, high = depth_bins()
        np.testing.assert_array_equal(real["depthlo"], low)
        np.testing.assert_array_equal(real["depthhi"], high)

    def test_missing_bricks_and_bands(self, release, tmp_path):
        release.add_brick("1801p000")
        release.bands = "g"
        release.add_brick("1803p000")
        report = depth_histogram(release.folder, tmp_path, release="x", bricks=["1806p000"])
        assert report.absent["counts_gal_r"] == 1
        assert "no file" in report.problems[0].text
        release.path("depth-table", "1803p000").write_bytes(b"no table")
        report = depth_histogram(release.folder, tmp_path, release="x")
        assert (report.n_bricks, report.problems[0].where) == (1, "1803p000")

    def test_nothing(self, release, tmp_path):
        with pytest.raises(NoDataError, match="no table of depths"):
            depth_histogram(release.folder, tmp_path, release="x")


class TestSummary:
    def test_against_medians_done_here(self, two_bricks, tmp_path):
        release = two_bricks
        report = summarise_bricks(release.folder)
        assert not report.problems
        row = report.table[1]
        assert row["brickname"] == "1803p000"
        mine = release.objects["1803p000"]
        first = mine["brick_primary"]
        assert row["nobjs"] == first.sum()
        for kind in ("psf", "rex", "exp", "dev", "ser", "dup"):
            assert row[f"n{kind}"] == (mine["type"][first] == kind.upper().encode()).sum()
        assert row["psfsize_r"] == pytest.approx(np.median(mine["psfsize_r"][first]))
        # 5 / sqrt(400) = 0.25 nanomaggies and 5 / sqrt(100) = 0.5.
        assert row["psfdepth_g"] == pytest.approx(22.5 - 2.5 * np.log10(0.25), abs=1e-5)
        assert row["galdepth_g"] == pytest.approx(22.5 - 2.5 * np.log10(0.5), abs=1e-5)
        assert (row["trans_z"], row["cosky_r"]) == (pytest.approx(0.8), 0.25)
        assert row["ext_z"] == pytest.approx(-2.5 * np.log10(0.8))
        brick = brick_from_name("1803p000")
        y, x = np.mgrid[:SIZE, :SIZE]
        ra, dec = brick_wcs(brick, size=SIZE, scale=SCALE).pixel_to_sky(x=x.ravel(), y=y.ravel())
        inside = is_primary(brick, ra=ra, dec=dec)
        number = release.nexp["1803p000", "g"].ravel()[inside]
        assert row["nexp_g"] == int(np.median(number))
        assert list(row["nexphist_g"]) == [
            *((number == i).sum() for i in range(10)),
            (number >= 10).sum(),
        ]
        assert row["nexphist_g"].sum() == inside.sum()

    def test_parts_make_the_whole(self, two_bricks, tmp_path):
        third = brick_at(ra=190.1, dec=0.0).name
        two_bricks.add_brick(third)
        for prefix in ("180", "190", "200"):
            part = summarise_bricks(two_bricks.folder, prefix=prefix)
            write_summary(part.table, tmp_path / f"{prefix}.fits")
            assert not part.problems
        paths = sorted(tmp_path.glob("*.fits"))
        table = merge_summaries(paths).table
        assert sorted(table["brickname"]) == ["1801p000", "1803p000", third]
        brick = brick_from_name("1801p000")
        row = table[table["brickname"] == "1801p000"][0]
        assert (row["brickid"], row["ra1"], row["dec2"]) == (brick.index, brick.ra_low, 0.125)
        # On the equator a brick of 0.25 x 0.25 degrees.
        assert row["area"] == pytest.approx(0.0625, rel=1e-3)
        assert np.all(np.diff(table["brickid"]) > 0)
        doubled = merge_summaries([*paths, paths[0]])
        assert len(doubled.table) == 3
        assert len(doubled.problems) == 2
        write_summary(table, tmp_path / "all.fits.gz")
        again = Table.read(tmp_path / "all.fits.gz")
        assert again["nexphist_g"].shape == (3, 11)
        for kind in ("nexp", "psfdepth", "psfsize"):
            assert draw_brick_map(again, kind)[:4] == PNG
        assert draw_brick_histograms(again)[:4] == PNG

    def test_survey_primary(self, release, tmp_path):
        for dec in (0.0, 42.0):
            release.add_brick(brick_at(ra=180.0, dec=dec).name)
        write_summary(summarise_bricks(release.folder).table, tmp_path / "a.fits")
        south = merge_summaries([tmp_path / "a.fits"], survey_primary="south").table
        north = merge_summaries([tmp_path / "a.fits"], survey_primary="north").table
        assert south["survey_primary"].tolist() == [True, False]
        assert north["survey_primary"].tolist() == [False, True]

    def test_incomplete_bricks_are_told(self, two_bricks, tmp_path):
        two_bricks.path("tractor", "1801p000").unlink()
        report = summarise_bricks(two_bricks.folder, bricks=["1801p000", "1806p000"])
        texts = {p.where: p.text for p in report.problems}
        assert texts == {
            "1801p000": "it has coadds but no catalogue",
            "1806p000": "there is nothing of it",
        }
        assert list(report.table["brickname"]) == ["1803p000"]

    def test_empty_folder(self, release, tmp_path):
        write_summary(summarise_bricks(release.folder).table, tmp_path / "a.fits")
        with pytest.raises(NoDataError, match="no row"):
            merge_summaries([tmp_path / "a.fits"])

    def test_reference_coadds(self, shared_data, tmp_path):
        """The real coadds of a cut-out, beside their catalogue."""
        import shutil

        case = shared_data / "cutouts" / "testcase3" / "reference"
        coadd = tmp_path / "coadd" / "244" / "2447p120"
        shutil.copytree(case / "coadd", coadd)
        (tmp_path / "tractor" / "244").mkdir(parents=True)
        shutil.copy(case / "tractor-2025.fits", tmp_path / "tractor/244/tractor-2447p120.fits")
        from skymill.release.finish.folder import ReleaseFolder

        report = summarise_bricks(ReleaseFolder(tmp_path))
        row = report.table[0]
        assert (row["nobjs"], row["npsf"], row["ndev"]) == (2, 1, 1)
        assert (row["nexp_g"], row["nexp_r"], row["nexp_z"]) == (3, 2, 3)
        assert 21 < row["psfdepth_g"] < 27


def test_colours_of_any_number_of_bands():
    rng = np.random.default_rng(3)
    planes = {b: rng.normal(0, 1, (8, 9)).astype("f4") for b in "griz"}
    for bands in ("g", "gr", "grz", "griz"):
        picture = draw_color({b: planes[b] for b in bands})
        assert picture.shape == (8, 9, 3)
    with pytest.raises(NoDataError):
        draw_color({})
