"""The butler subcommands as a user types them; what counts is the repository afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler

sys.path.insert(0, str(Path(__file__).parents[1]))
from raw_decam import write_raw

BIN = Path(sys.executable).parent
INPUTS = (
    "DECam/raw/all,DECam/calib,DECam/calib/certified,"
    "DECam/calib/curated/19700101T000000Z,DECam/calib/unbounded"
)


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(BIN / str(words[0])), *map(str, words[1:])],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert code == 0 or "Traceback" not in text, text
    return text


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """The seed's first commands, on a plain repository."""
    folder = tmp_path_factory.mktemp("seed")
    repo = folder / "repo/repo"
    repo.parent.mkdir()
    run("butler", "create", repo)
    run("butler", "register-instrument", repo, "skymill.instruments.decam.DarkEnergyCamera")
    text = run("butler", "write-curated-calibrations", repo, "DECam")
    assert "552 curated calibrations" in text
    (folder / "raws").mkdir()
    write_raw(folder / "raws/c4d_a.fits.fz", 783028)
    write_raw(folder / "raws/c4d_b.fits", 783029, compressed=False)
    text = run("butler", "ingest-raws", repo, folder / "raws", "--transfer", "direct")
    assert "4 new raw datasets from 2 files" in text
    run("butler", "define-visits", repo, "DECam")
    return repo


def test_the_repository_is_filled(repo):
    with Butler.from_config(str(repo)) as butler:
        assert len(butler.query_datasets("raw", collections="DECam/raw/all")) == 4
        assert len(butler.query_dimension_records("visit", instrument="DECam")) == 2
        assert len(butler.query_datasets("crosstalk", collections="DECam/calib")) == 62
        # The registry call of the seed, in the spelling of today.
        found = butler.registry.queryDatasets(
            "raw", dataId={"instrument": "DECam"}, collections="DECam/raw/all"
        )
        assert len(list(found)) == 4


def test_queries(repo):
    text = run("butler", "query-collections", repo, "DECam/*")
    for name in ("DECam/raw/all", "DECam/calib/certified", "CALIBRATION", "DECam/calib/unbounded"):
        assert name in text
    text = run(
        "butler", "query-datasets", repo, "--collections", "DECam/raw/all",
        "--where", "instrument='DECam' AND detector=25 AND exposure=783028", "raw",
    )  # fmt: skip
    assert text.count("783028") >= 1
    assert "783029" not in text


def test_again_changes_nothing(repo):
    text = run("butler", "ingest-raws", repo, repo.parent.parent / "raws")
    assert "0 new raw datasets from 0 files; 2 files were there already" in text
    assert "2 were there already" in run("butler", "define-visits", repo, "DECam")
    assert "there already" in run("butler", "write-curated-calibrations", repo)


def test_sky_map_and_reference_catalogue(repo, tmp_path):
    words = ("--name", "A85_skymap", "--ra", 10.458, "--dec", -9.303, "--radius", 0.7)
    assert "1 tracts, 144 patches registered" in run("butler", "register-skymap", repo, *words)
    rng = np.random.default_rng(1)
    table = Table({"id": np.arange(50), "ra": rng.uniform(10, 11, 50)})
    table["dec"] = rng.uniform(-10, -9, 50)
    table["gmag"], table["e_gmag"] = np.full(50, 18.0), np.full(50, 0.02)
    table.write(tmp_path / "ps1.fits")
    assert "50 rows" in run("butler", "ingest-refcat", repo, "ps1", tmp_path / "ps1.fits")
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("ps1", collections="refcats")
        assert sum(len(butler.get(r)) for r in refs) == 50
        assert len(butler.query_dimension_records("patch", skymap="A85_skymap")) == 144


def test_one_clear_sentence(repo, tmp_path):
    write_raw(tmp_path / "short.fits.fz", 783040, (25,))
    (tmp_path / "short.fits.fz").write_bytes((tmp_path / "short.fits.fz").read_bytes()[:-9000])
    text = run("butler", "ingest-raws", repo, tmp_path / "short.fits.fz", code=1)
    assert "short.fits.fz is truncated" in text
    text = run("butler", "ingest-raws", tmp_path / "none", tmp_path / "short.fits.fz", code=1)
    assert "no Butler repository" in text
    text = run("butler", "register-skymap", repo, "--name", "x", code=1)
    assert "a sky map needs --ra, --dec, --radius as well" in text
    text = run("butler", "define-visits", repo, "HSC", code=1)
    assert "no instrument 'HSC'" in text


def test_step0_runs_on_these_frames(repo):
    pipeline = "resource://skymill/pipelines/ingredients/frames.yaml#isrForCrosstalkSources"
    run(
        "pipetask", "run", "-b", repo, "-p", pipeline, "-i", INPUTS,
        "-o", "DECam/processing/xtalksources_r", "-d", "instrument='DECam' AND band='r'",
        "--register-dataset-types",
    )  # fmt: skip
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("overscanRaw", collections="DECam/processing/xtalksources_r")
        assert len(refs) == 4
        planes = butler.get(refs[0])
    assert planes.shape == (4096, 2048)


def test_certify_export_and_import(repo, tmp_path):
    """Calibrations of one repository serve another, as for many clusters."""
    from skymill.data.images import PixelPlanes
    from skymill.store.repository import open_butler

    with open_butler(repo, run="DECam/calib/bias/run1") as butler:
        from lsst.daf.butler import DatasetType

        butler.registry.registerDatasetType(
            DatasetType(
                "bias", ["instrument", "detector"], "SkymillPlanes",
                universe=butler.dimensions, isCalibration=True,
            )
        )  # fmt: skip
        ones = np.ones((8, 6), np.float32)
        planes = PixelPlanes(ones, ones, ones.astype(np.int32), unit="adu")
        butler.put(planes, "bias", instrument="DECam", detector=25)
    run(
        "butler", "certify-calibrations", repo, "DECam/calib/bias/run1", "DECam/calib/certified",
        "bias", "--begin-date", "2018-01-01", "--end-date", "2019-01-01",
    )  # fmt: skip
    run("butler", "export-calibs", "--transfer", "copy", repo, tmp_path / "shared",
        "DECam/calib/certified")  # fmt: skip
    other = tmp_path / "other"
    run("skymill", "init", other)
    assert "1 calibrations imported" in run(
        "butler", "import-calibrations", other, tmp_path / "shared"
    )
    assert "there already" in run("butler", "import-calibrations", other, tmp_path / "shared")
    text = run("butler", "import-calibrations", other, tmp_path, code=1)
    assert "no export of calibrations" in text
    with Butler.from_config(str(other)) as butler:
        from astropy.time import Time
        from lsst.daf.butler import Timespan

        inside = Timespan(Time("2018-10-12"), Time("2018-10-13"))
        found = butler.get(
            "bias", instrument="DECam", detector=25, collections="DECam/calib", timespan=inside
        )
        assert found.unit == "adu"
        outside = Timespan(Time("2020-10-12"), Time("2020-10-13"))
        assert butler.find_dataset(
            "bias", instrument="DECam", detector=25, collections="DECam/calib", timespan=outside
        ) is None  # fmt: skip


def test_init_can_be_repeated(tmp_path):
    words = ("--name", "m", "--ra", 10, "--dec", -9, "--radius", 0.1, "--tract-overlap", 0)
    first = run("skymill", "init", tmp_path / "repo", *words)
    assert "created" in first
    again = run("skymill", "init", tmp_path / "repo", *words)
    assert again.count("there already") == 3
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        names = {t.name for t in butler.registry.queryDatasetTypes(...)}
    assert {"raw", "camera", "skyMap", "overscanRaw", "postISRCCD", "bias"} <= names
    shutil.rmtree(tmp_path / "repo")
