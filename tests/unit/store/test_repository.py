"""The verbs that fill a repository: each can be repeated, and says what is wrong."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
from astropy.table import Table
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, Timespan
from lsst.sphgeom import LonLat, UnitVector3d

from raw_decam import write_raw
from skymill.coadd.skymap import SkyMap
from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.instruments.decam.headers import make_wcs
from skymill.instruments.decam.reader import read_raw_ccd
from skymill.store import raws as raws_module
from skymill.store.curated import write_curated_calibrations
from skymill.store.raws import ingest_raws
from skymill.store.refcats import htm7_index, ingest_refcat
from skymill.store.repository import (
    INCLUDE,
    create_repository,
    include_configs,
    open_butler,
    storage_errors,
)
from skymill.store.skymap_config import make_sky_map
from skymill.store.skymaps import register_sky_map
from skymill.store.visits import define_visits

RAW = "DECam/raw/all"


def count(repo, name, collections=RAW):
    with open_butler(repo) as butler:
        return len(butler.query_datasets(name, collections=collections, explain=False))


def test_create_twice(tmp_path):
    assert create_repository(tmp_path / "repo")
    text = (tmp_path / "repo/butler.yaml").read_text()
    assert not create_repository(tmp_path / "repo")
    assert (tmp_path / "repo/butler.yaml").read_text() == text
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    with pytest.raises(ConfigError, match="no Butler repository; choose another place"):
        create_repository(tmp_path / "other")
    with pytest.raises(MissingInputError, match="no Butler repository at"):
        include_configs(tmp_path / "nothing")


def test_the_line_is_added_to_a_plain_repository(tmp_path):
    Butler.makeRepo(str(tmp_path / "repo"))
    assert include_configs(tmp_path / "repo")
    assert not include_configs(tmp_path / "repo")
    assert (tmp_path / "repo/butler.yaml").read_text().count(INCLUDE) == 1
    assert not list((tmp_path / "repo").glob(".butler*"))


@pytest.mark.parametrize("transfer", ["direct", "copy", "symlink", "move"])
def test_ingest_and_read(repo, tmp_path, transfer):
    pixels = write_raw(tmp_path / "a.fits.fz", 783028)
    report = ingest_raws(repo, [tmp_path / "a.fits.fz"], transfer=transfer)
    assert (report.files_new, report.datasets) == (1, 2)
    assert (tmp_path / "a.fits.fz").exists() == (transfer != "move")
    if transfer in ("copy", "move"):
        shutil.rmtree(tmp_path / "a.fits.fz", ignore_errors=True)
    with open_butler(repo) as butler:
        raw = butler.get("raw", instrument="DECam", exposure=783028, detector=25, collections=RAW)
        np.testing.assert_array_equal(raw.image, pixels)
        info = butler.get(
            "raw.info", instrument="DECam", exposure=783028, detector=26, collections=RAW
        )
        assert info.detector == 26
        record = butler.query_dimension_records("exposure", instrument="DECam")[0]
    assert (record.day_obs, record.observation_type, record.can_see_sky) == (
        20181011, "science", True,
    )  # fmt: skip
    begin = Time("2018-10-12T03:28:00", scale="utc").tai
    assert abs((record.timespan.begin - begin).to_value("s")) < 1e-3
    assert (record.timespan.end - record.timespan.begin).to_value("s") == pytest.approx(90)


def test_ingest_again_takes_only_what_is_new(repo, tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))
    assert ingest_raws(repo, [tmp_path]).datasets == 1
    write_raw(tmp_path / "b.fits.fz", 783029, (25,))
    report = ingest_raws(repo, [tmp_path])
    assert (report.datasets, report.files_new, report.files_known) == (1, 1, 1)
    # The same exposure with a further CCD.
    write_raw(tmp_path / "a.fits.fz", 783028, (25, 26))
    assert ingest_raws(repo, [tmp_path]).datasets == 1
    assert count(repo, "raw") == 3


def test_many_files_in_processes(repo, tmp_path):
    for number in range(783030, 783035):
        write_raw(tmp_path / f"{number}.fits.fz", number, (25,))
    assert ingest_raws(repo, [tmp_path], processes=2).datasets == 5
    assert define_visits(repo, processes=2).new == 5


def test_bad_files_are_named_and_good_ones_kept(repo, tmp_path):
    folder = tmp_path / "raws"
    folder.mkdir()
    write_raw(folder / "good.fits.fz", 783028, (25,))
    write_raw(folder / "short.fits.fz", 783029, (25,))
    (folder / "short.fits.fz").write_bytes((folder / "short.fits.fz").read_bytes()[:-9000])
    write_raw(folder / "other.fits.fz", 783030, (25,), camera="90prime")
    write_raw(folder / "filter.fits.fz", 783031, (25,), filter_name="q DECam c0099 1.0 1.0")
    (folder / "text.fits").write_text("no FITS at all")
    report = ingest_raws(repo, [folder])
    assert report.datasets == 1
    text = "\n".join(report.problems)
    for words in (
        "short.fits.fz is truncated", "other.fits.fz is a frame of 90prime",
        "DECam has no filter 'q DECam c0099", "text.fits is truncated or no FITS file",
    ):  # fmt: skip
        assert words in text
    assert len(report.problems) == 4
    with open_butler(repo) as butler:
        records = butler.query_dimension_records("exposure", instrument="DECam")
    assert [r.id for r in records] == [783028]
    with pytest.raises(DataError, match="no filter"):
        ingest_raws(repo, [folder / "filter.fits.fz"], fail_fast=True)


def test_same_number_from_another_night_is_refused(repo, tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))
    ingest_raws(repo, [tmp_path / "a.fits.fz"])
    write_raw(tmp_path / "b.fits.fz", 783028, (26,), kind="dome flat")
    report = ingest_raws(repo, [tmp_path / "b.fits.fz"])
    assert "another file with the same EXPNUM" in report.problems[0]
    assert count(repo, "raw") == 1


def test_ingest_needs_files_and_an_instrument(repo, tmp_path):
    with pytest.raises(MissingInputError, match="no file or folder"):
        ingest_raws(repo, [tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="no raw files"):
        ingest_raws(repo, [tmp_path / "empty"])
    with pytest.raises(ConfigError, match="transfer must be one of"):
        ingest_raws(repo, [tmp_path], transfer="teleport")
    create_repository(tmp_path / "bare")
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))
    with pytest.raises(ConfigError, match="register-instrument"):
        ingest_raws(tmp_path / "bare", [tmp_path / "a.fits.fz"])


def test_full_disk_is_one_sentence_and_leaves_nothing(repo, tmp_path, monkeypatch):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lsst.resources.file.shutil.copy", full, raising=False)
        patch.setattr("lsst.resources.file.shutil.copyfileobj", full, raising=False)
        patch.setattr("shutil.copy", full)
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(DataError, match="is full"):
            ingest_raws(repo, [tmp_path / "a.fits.fz"], transfer="copy")
    assert count(repo, "raw") == 0
    assert ingest_raws(repo, [tmp_path / "a.fits.fz"], transfer="copy").datasets == 1
    with pytest.raises(DataError, match="may not be written to"), storage_errors("here"):
        raise OSError(errno.EROFS, "read-only")
    assert raws_module.IngestReport().problems == []


def test_visits_have_the_regions_of_their_ccds(repo, tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))
    write_raw(tmp_path / "zero.fits.fz", 5, (25,), kind="zero")
    write_raw(tmp_path / "flat.fits.fz", 6, (25,), kind="dome flat")
    ingest_raws(repo, [tmp_path])
    report = define_visits(repo)
    assert (report.new, report.skipped) == (1, 2)
    raw = read_raw_ccd(tmp_path / "a.fits.fz", 25, pixels=False)
    with open_butler(repo) as butler:
        (record,) = butler.query_dimension_records("visit_detector_region", instrument="DECam")
        (visit,) = butler.query_dimension_records("visit", instrument="DECam")
    for x, y, inside in ((0, 0, True), (2047, 4095, True), (-240, 100, True), (-300, 100, False)):
        ra, dec = raw.wcs.pixel_to_sky(x=[x], y=[y])
        point = UnitVector3d(LonLat.fromDegrees(ra[0], dec[0]))
        assert record.region.contains(point) == inside
        assert visit.region.contains(point) == inside
    # A further CCD makes the visit larger; the rest stays.
    write_raw(tmp_path / "a.fits.fz", 783028, (25, 61))
    ingest_raws(repo, [tmp_path])
    again = define_visits(repo)
    assert (again.new, again.extended, again.known) == (0, 1, 0)
    assert define_visits(repo).known == 1
    with open_butler(repo) as butler:
        (visit,) = butler.query_dimension_records("visit", instrument="DECam")
    raw = read_raw_ccd(tmp_path / "a.fits.fz", 61, pixels=False)
    ra, dec = make_wcs(raw.header).pixel_to_sky(x=[1000], y=[2000])
    assert visit.region.contains(UnitVector3d(LonLat.fromDegrees(ra[0], dec[0])))


def test_define_visits_needs_raws(repo):
    write_curated_calibrations(repo)
    with open_butler(repo) as butler:
        raws_module._Ingest(butler, RAW, "direct")
    with pytest.raises(MissingInputError, match="run 'butler ingest-raws' first"):
        define_visits(repo)


def test_curated_calibrations_by_epoch(repo):
    assert write_curated_calibrations(repo) == 552
    assert write_curated_calibrations(repo) == 0
    with open_butler(repo) as butler:

        def find(date: str) -> str:
            begin = Time(date, scale="tai")
            ref = butler.find_dataset(
                "defects",
                instrument="DECam",
                detector=25,
                collections="DECam/calib",
                timespan=Timespan(begin, begin + TimeDelta(60, format="sec")),
            )
            return ref.run

        assert find("2012-11-01") == "DECam/calib/curated/19700101T000000Z"
        assert find("2013-05-01") == "DECam/calib/curated/20130115T013000Z"
        assert find("2022-05-01") == "DECam/calib/curated/20150105T011500Z"
        knots = butler.get(
            "linearizer", instrument="DECam", detector=32, collections="DECam/calib",
            timespan=Timespan(Time("2018-01-01", scale="tai"), Time("2018-01-02", scale="tai")),
        )  # fmt: skip
        assert list(knots["detector"]) == [32, 32]
        assert str(knots["delta"].unit) == "adu"
        camera = butler.get("camera", instrument="DECam", collections="DECam/calib/unbounded")
        assert len(camera) == 62
        chain = butler.collections.get_info("DECam/calib").children
    assert chain == ("DECam/calib/certified", "DECam/calib/curated", "DECam/calib/unbounded")


def test_sky_map_drives_spatial_joins(repo, tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,))
    ingest_raws(repo, [tmp_path])
    define_visits(repo)
    wcs = read_raw_ccd(tmp_path / "a.fits.fz", 25, pixels=False).wcs
    ra, dec = wcs.pixel_to_sky(x=[1023.5], y=[2047.5])
    sky_map = SkyMap.discrete("here", ra[0], dec[0], 0.3, tract_overlap=0.0, patch_inner=1000)
    assert register_sky_map(repo, sky_map)
    assert not register_sky_map(repo, sky_map)
    with open_butler(repo) as butler:
        found = butler.query_data_ids(
            ["visit", "detector", "patch"], where="skymap='here' AND instrument='DECam'"
        )
        stored = butler.get("skyMap", skymap="here", collections="skymaps")
    patches = {d["patch"] for d in found}
    assert stored.to_dict() == sky_map.to_dict()
    # The CCD covers 2048 x 4096 pixels of nearly the same scale, turned by 90 degrees.
    tract = sky_map.tracts[0]
    x, y = wcs.pixel_to_sky(x=[1023.5] * 2 + [5.0, 2040.0], y=[100.0, 4000.0] + [2047.5] * 2)
    px, py = tract.sky_to_pixel(ra=x, dec=y)
    assert set(tract.find_patch(x=px, y=py).tolist()) <= patches
    assert len(patches) < len(tract.patches)
    other = SkyMap.discrete("here", 1.0, 2.0, 0.1, tract_overlap=0.0)
    with pytest.raises(DataError, match="another sky map named 'here'"):
        register_sky_map(repo, other)


def test_bricks(repo):
    sky_map = make_sky_map(name="legacy", ra=10.0, dec=-9.0, radius=0.2, bricks=True)
    assert register_sky_map(repo, sky_map)
    with open_butler(repo) as butler:
        tracts = butler.query_dimension_records("tract", skymap="legacy")
        patches = butler.query_dimension_records("patch", skymap="legacy")
    assert len(tracts) == len(patches) == len(sky_map.tracts) > 1


def test_sky_map_words():
    plain = make_sky_map(name="m", ra=10.0, dec=-9.0, radius=0.7)
    assert (plain.tracts[0].n_x, plain.tracts[0].x) == (12, 24000)
    rubin = make_sky_map(
        settings=[
            "name=m", "skyMap.name=discrete", "skyMap['discrete'].raList=[10.0]",
            "skyMap['discrete'].decList=[-9.0]", "skyMap['discrete'].radiusList=[0.7]",
        ]
    )  # fmt: skip
    assert rubin == plain
    with pytest.raises(ConfigError, match="needs --ra, --radius"):
        make_sky_map(name="m", dec=1.0)
    with pytest.raises(ConfigError, match=r"the setting 'skyMap.foo=1' is not possible"):
        make_sky_map(settings=["name=m", "skyMap.foo=1"])


def gaia_rows(n=40, seed=3):
    rng = np.random.default_rng(seed)
    table = Table({"source_id": np.arange(n) + 1, "ra": rng.uniform(359, 361, n) % 360})
    table["dec"] = rng.uniform(-1, 1, n)
    table["ra_error"] = table["dec_error"] = np.full(n, 0.1)
    table["pmra"] = table["pmdec"] = np.zeros(n)
    table["phot_g_mean_mag"] = np.full(n, 18.0)
    return table


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv", "parquet"])
def test_refcat_formats(repo, tmp_path, suffix):
    path = tmp_path / f"gaia.{suffix}"
    table = gaia_rows()
    if suffix == "csv":
        table.write(path, format="ascii.csv")
    elif suffix == "parquet":
        import pyarrow.parquet as pq
        from lsst.daf.butler.formatters.parquet import astropy_to_arrow

        pq.write_table(astropy_to_arrow(table), path)
    else:
        table.write(path)
    report = ingest_refcat(repo, "gaia", [path])
    assert report.rows == 40
    with open_butler(repo) as butler:
        refs = butler.query_datasets("gaia", collections="refcats")
        shards = {int(r.dataId["htm7"]): butler.get(r) for r in refs}
    assert sum(len(s) for s in shards.values()) == 40
    for index, shard in shards.items():
        assert (htm7_index(ra=shard["ra"], dec=shard["dec"]) == index).all()
        # 18 mag Vega in G is 18.1136 AB: 10^(-0.4 (18.1136 - 31.4)) nJy.
        np.testing.assert_allclose(shard["phot_g_mean_flux"], 206640, rtol=2e-3)
        # Gaia DR3 positions are of 2016.0.
        assert shard["epoch"][0] == pytest.approx(57388.5, abs=1)


def test_refcat_again_adds_only_new_rows(repo, tmp_path):
    gaia_rows(30)[:20].write(tmp_path / "a.fits")
    first = ingest_refcat(repo, "gaia", [tmp_path / "a.fits"])
    again = ingest_refcat(repo, "gaia", [tmp_path / "a.fits"])
    assert (again.shards_new, again.shards_known) == (0, first.shards_new)
    gaia_rows(30)[10:].write(tmp_path / "b.fits")
    report = ingest_refcat(repo, "gaia", [tmp_path / "b.fits"])
    assert report.shards_extended > 0
    with open_butler(repo) as butler:
        refs = butler.query_datasets("gaia", collections="refcats")
        ids = np.concatenate([butler.get(r)["id"] for r in refs])
    assert sorted(ids) == list(range(1, 31))


def test_one_type_for_each_band(repo, tmp_path):
    table = Table({"object_id": [1], "raj2000": [10.0], "dej2000": [-9.0]})
    for band in "vgr":
        table[f"{band}_psf"], table[f"e_{band}_psf"] = [17.0], [0.01]
    table["r_psf"] = [99.0]
    table.write(tmp_path / "sm.csv", format="ascii.csv")
    ingest_refcat(repo, "sm_dr4", [tmp_path / "sm.csv"])
    with open_butler(repo) as butler:
        names = {t.name for t in butler.registry.queryDatasetTypes("sm_dr4_*")}
        shard = butler.get(butler.query_datasets("sm_dr4_r", collections="refcats")[0])
    assert names == {"sm_dr4_v", "sm_dr4_g", "sm_dr4_r"}
    assert np.isnan(shard["r_flux"][0])
    # A colour term needs the neighbour.
    assert shard["g_flux"][0] > 0


def test_refcat_without_a_needed_column(repo, tmp_path):
    table = gaia_rows()
    table.remove_column("dec")
    table.write(tmp_path / "a.fits")
    with pytest.raises(DataError, match=r"a\.fits: the catalogue has no column for 'dec'"):
        ingest_refcat(repo, "gaia", [tmp_path / "a.fits"])
    table = gaia_rows()
    table.rename_column("dec", "declination")
    table.write(tmp_path / "b.fits")
    report = ingest_refcat(repo, "gaia", [tmp_path / "b.fits"], columns={"dec": "declination"})
    assert report.rows == 40
    table.remove_column("phot_g_mean_mag")
    table.write(tmp_path / "c.fits")
    with pytest.raises(DataError, match="no flux or magnitude"):
        ingest_refcat(repo, "gaia2", [tmp_path / "c.fits"], catalogue="gaia",
                      columns={"dec": "declination"})  # fmt: skip
    with pytest.raises(DataError, match="for band i"):
        ingest_refcat(repo, "gaia3", [tmp_path / "b.fits"], catalogue="ps1", bands=["i"],
                      columns={"dec": "declination"})  # fmt: skip
    with pytest.raises(ConfigError, match="no column map 'foo'"):
        ingest_refcat(repo, "x", [tmp_path / "b.fits"], catalogue="foo")
    (tmp_path / "d.fits").write_bytes((tmp_path / "b.fits").read_bytes()[:6000])
    with pytest.raises(DataError, match=r"d\.fits cannot be read as a table"):
        ingest_refcat(repo, "gaia", [tmp_path / "d.fits"])


def test_real_catalogues(repo, shared_data):
    gaia = ingest_refcat(repo, "gaia", [shared_data / "refcats/gaia_dr2_cosmos.fits.gz"])
    assert gaia.rows == 41326
    ps1 = ingest_refcat(repo, "ps1", [shared_data / "refcats/ps1_cosmos_i21p5.fits.gz"])
    assert ps1.rows == 127496
    with open_butler(repo) as butler:
        shard = butler.get(butler.query_datasets("ps1", collections="refcats")[0])
        star = butler.get(butler.query_datasets("gaia", collections="refcats")[0])
    assert set(shard.colnames) >= {f"{b}_flux" for b in "grizy"}
    assert 57000 < star["epoch"][0] < 57400
