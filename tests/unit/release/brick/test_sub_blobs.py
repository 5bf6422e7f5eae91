"""Parts of a huge blob hold each pixel and each source once."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from brick_scenes import grid

from skymill.data.errors import DataError, MissingInputError
from skymill.model.blob import BlobFit
from skymill.model.sources import Sources
from skymill.release.brick.blobs import StartSources, blob_jobs
from skymill.release.brick.clusters import cluster_mask
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.reference_sources import ReferenceMasks, empty_references
from skymill.release.brick.sub_blobs import MARGIN, divide_blobs, own_sources


def scene() -> np.ndarray:
    blobs = np.full((700, 600), -1, np.int32)
    blobs[10:690, 10:590] = 0
    blobs[300:320, 200:230] = -1
    blobs[0:5, 0:5] = 1
    return blobs


def test_every_pixel_of_a_large_blob_is_in_one_part() -> None:
    blobs = scene()
    found = divide_blobs(blobs, larger_than=10_000)
    np.testing.assert_array_equal(found.whole(found.numbers), blobs)
    np.testing.assert_array_equal(found.divided(), blobs == 0)
    assert found.parent.tolist() == [0, 1] + [0] * 8  # 3 x 3 parts.
    assert found.is_part(0)
    assert not found.is_part(1)
    for number in np.flatnonzero(found.parent == 0):
        rows, columns = np.nonzero(found.numbers == number)
        assert max(np.ptp(rows), np.ptp(columns)) < 256
    whole = divide_blobs(blobs, larger_than=0)
    np.testing.assert_array_equal(whole.numbers, blobs)
    assert not whole.divided().any()
    cluster = np.zeros(blobs.shape, bool)
    cluster[400, 300] = True
    touched = divide_blobs(blobs, larger_than=0, touching=cluster)
    np.testing.assert_array_equal(touched.numbers, found.numbers)


def test_parts_are_fitted_with_a_margin_and_keep_their_own_sources() -> None:
    own = grid(700)
    blobs = np.pad(scene(), ((0, 0), (0, 100)), constant_values=-1)
    rng = np.random.default_rng(4)
    x, y = rng.uniform(15, 585, 400), rng.uniform(15, 195, 400)
    division = divide_blobs(blobs, larger_than=10_000)
    numbers = division.numbers[np.rint(y).astype(int), np.rint(x).astype(int)].astype(np.int64)
    ra, dec = own.wcs.pixel_to_sky(x=x, y=y)
    start = StartSources(
        x, y, np.full(400, -1), numbers, Sources.create(ra=ra, dec=dec, flux=np.ones((400, 1)))
    )
    none = np.zeros(own.shape, bool)
    jobs = list(
        blob_jobs(own, division, start, empty_references(), ReferenceMasks(none, none, none))
    )
    # All blobs see one mask: a copy for each would fill the memory on a whole brick.
    assert len({id(blob.avoid.base) for blob, _ in jobs if blob.avoid is not None}) == 1
    kept: list[int] = []
    for blob, index in jobs:
        _, columns = np.nonzero(division.numbers == blob.id)
        assert blob.x0 == max(0, columns.min() - MARGIN)
        assert blob.mask.shape[1] <= np.ptp(columns) + 1 + 2 * MARGIN
        assert len(blob.sources) == index.size > (numbers == blob.id).sum()
        fit = BlobFit(
            id=blob.id, sources=blob.sources, origin=np.arange(index.size),
            forced_keep=np.zeros(index.size, bool), chi2_first=1.0, chi2_last=1.0, n_pixel=1,
            n_image=1, image_index=np.zeros(1, np.int64), background=np.zeros(1),
        )  # fmt: skip
        mine = own_sources(fit, blob.id, numbers[index], division, own)
        kept += index[mine.origin].tolist()
        # Sources of the residuals belong to the part that they lie in.
        fit.origin[:] = -1
        again = own_sources(fit, blob.id, numbers[index], division, own)
        assert len(again.sources) == (numbers == blob.id).sum()
    assert sorted(kept) == list(range(400))


def test_pixels_within_a_star_cluster(tmp_path) -> None:
    own = grid(80)
    words = {"survey_dir": str(tmp_path), "out_dir": "x", "brick": "1867p255"}
    assert not cluster_mask(own, BrickOptions(**words)).any()
    ra, dec = own.wcs.pixel_to_sky(x=np.array([20.0]), y=np.array([30.0]))
    path = tmp_path / "NGC-star-clusters.fits"
    Table({"ra": ra, "dec": dec, "majax": [2 * 10.0 * 0.262 / 60.0]}).write(path)
    mask = cluster_mask(own, BrickOptions(**words))
    # A circle of 10 pixels.
    assert mask.sum() == pytest.approx(np.pi * 100, abs=10)
    assert mask[30, 20]
    Table({"ra": ra, "dec": dec}).write(path, overwrite=True)
    with pytest.raises(DataError, match="lacks the column radius"):
        cluster_mask(own, BrickOptions(**words))
    with pytest.raises(MissingInputError, match="no table of star clusters"):
        cluster_mask(own, BrickOptions(clusters_path="/none.fits", **words))
