"""Bright neighbours: which blobs, originals kept, order and repetition without effect."""

import numpy as np
import pytest
from astropy.io import fits

from skymill.coadd.bricks import brick_at, brick_from_name
from skymill.release.finish.checksums import verify_checksums
from skymill.release.finish.neighbours import mark_neighbours, neighbours_of, ring

BRIGHT = 2


def mask_of(release, name):
    with fits.open(release.path("maskbits", name)) as hdus:
        return np.array(hdus[-1].data), hdus[-1].header.copy()


@pytest.fixture
def pair(two_bricks):
    """A blob of 1803p000 reaches over its western edge into a bright mask of 1801p000."""
    release = two_bricks
    for name in release.blobs:
        release.blobs[name][:] = -1
    # East is left: the eastern neighbour's western edge is at its right.
    release.blobs["1803p000"][10:20, 40:60] = 7
    release.blobs["1803p000"][30:40, 40:60] = 8
    release.blobs["1803p000"][22:26, 5:10] = 9
    release.mask["1801p000"][10:20, :5] |= BRIGHT
    for name in release.blobs:
        release.write_masks(name)
        release.write_sums(name)
    return release


def test_neighbours_of():
    names = {b.name for b in neighbours_of(brick_from_name("1801p000"))}
    assert len(names) == 8
    assert {"1803p000", "1798p000"} <= names
    wrap = {b.name for b in neighbours_of(brick_at(ra=0.1, dec=0.0))}
    assert brick_at(ra=359.9, dec=0.0).name in wrap
    assert len(neighbours_of(brick_at(ra=0.0, dec=90.0))) > 8


def test_ring():
    area = np.zeros((5, 6), bool)
    area[1:3, 2:4] = True
    assert ring(area).sum() == 12
    assert not ring(np.zeros((3, 3), bool)).any()
    assert not ring(np.ones((3, 3), bool)).any()


def test_the_blob_that_reaches_over_the_edge(pair, tmp_path):
    backup = tmp_path / "backup"
    results, problems = mark_neighbours(pair.folder, backup)
    assert not problems
    by_name = {r.brick: r for r in results}
    assert by_name["1801p000"].n_blobs == 0
    found = by_name["1803p000"]
    assert (found.n_blobs, found.n_pixels) == (1, 200)
    bits, header = mask_of(pair, "1803p000")
    blob = pair.blobs["1803p000"] == 7
    np.testing.assert_array_equal(bits, pair.mask["1803p000"] | np.where(blob, BRIGHT, 0))
    assert header["BRNEIGHB"]
    assert header["CTYPE1"] == "RA---TAN"
    np.testing.assert_array_equal(mask_of(pair, "1801p000")[0], pair.mask["1801p000"])
    mine = pair.objects["1803p000"]
    x, y = np.rint(mine["bx"]).astype(int), np.rint(mine["by"]).astype(int)
    table = fits.getdata(pair.path("tractor", "1803p000"))
    np.testing.assert_array_equal(table["maskbits"], np.where(blob[y, x], BRIGHT, 0))
    assert found.n_objects == blob[y, x].sum() > 0
    np.testing.assert_array_equal(table["flux_r"], mine["flux_r"])
    kept = backup / pair.path("maskbits", "1803p000").relative_to(pair.root)
    assert not np.any(fits.getdata(kept) & BRIGHT)
    # The bricks' own lists of checksums know the new files.
    report = verify_checksums(pair.folder)
    assert (report.changed, report.missing, report.unlisted) == ([], [], [])


def test_repetition_changes_nothing(pair, tmp_path):
    mark_neighbours(pair.folder, tmp_path / "backup")
    before = {p: p.read_bytes() for p in pair.root.rglob("*.f*") if p.is_file()}
    results, _ = mark_neighbours(pair.folder, tmp_path / "backup")
    assert {r.brick: r.n_pixels for r in results}["1803p000"] == 200
    assert {p: p.read_bytes() for p in before} == before


def test_marks_do_not_spread_from_brick_to_brick(release, tmp_path):
    """A blob marked in the second brick is no bright mask for the third."""
    for name in ("1801p000", "1803p000", "1806p000"):
        release.add_brick(name)
        release.blobs[name][:] = 0
    release.mask["1801p000"][10:20, :5] |= BRIGHT
    for name in release.blobs:
        release.write_masks(name)
    for name in ("1803p000", "1806p000"):  # One after the other: the worst order.
        results, problems = mark_neighbours(release.folder, tmp_path / "b", bricks=[name])
        assert not problems
        assert results[0].n_blobs == (1 if name == "1803p000" else 0)


def test_a_brick_that_was_made_again(pair, tmp_path):
    mark_neighbours(pair.folder, tmp_path / "backup")
    pair.blobs["1803p000"][:] = -1
    pair.write_masks("1803p000")
    pair._write_table("tractor", "1803p000", pair.objects["1803p000"], fits.Header())
    results, _ = mark_neighbours(pair.folder, tmp_path / "backup")
    assert sum(r.n_blobs for r in results) == 0
    assert not np.any(mask_of(pair, "1803p000")[0] & BRIGHT)


def test_faults_of_one_brick_do_not_stop_the_others(pair, tmp_path):
    pair.path("blobs", "1801p000").unlink()
    results, problems = mark_neighbours(
        pair.folder, tmp_path / "b", bricks=["1801p000", "1803p000", "1900p000", "x"]
    )
    assert [r.brick for r in results] == ["1803p000"]
    texts = {p.where: p.text for p in problems}
    assert "no map of blobs" in texts["1801p000"]
    assert "maskbits" in texts["1900p000"]
    assert "region of its own" in texts["x"]


def test_a_lost_backup(pair, tmp_path):
    mark_neighbours(pair.folder, tmp_path / "b")
    _, problems = mark_neighbours(pair.folder, tmp_path / "other")
    assert "backup" in problems[0].text
