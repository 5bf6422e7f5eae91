"""Calibrations that many repositories share."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.time import Time
from lsst.daf.butler import CollectionType, DatasetType, Timespan
from lsst.daf.butler.script import exportCalibs

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.images import PixelPlanes
from skymill.store.repository import open_butler
from skymill.store.shared_calibrations import import_calibrations

SPAN = Timespan(Time("2018-01-01", scale="tai"), Time("2019-01-01", scale="tai"))


def certify(repo, detector):
    run = f"DECam/calib/bias/{detector}"
    with open_butler(repo, run=run) as butler:
        butler.registry.registerDatasetType(
            DatasetType(
                "bias",
                ["instrument", "detector"],
                "SkymillPlanes",
                universe=butler.dimensions,
                isCalibration=True,
            )
        )
        butler.collections.register("DECam/calib/certified", CollectionType.CALIBRATION)
        ones = np.full((4, 5), float(detector), np.float32)
        planes = PixelPlanes(ones, ones, ones.astype(np.int32), unit="adu")
        ref = butler.put(planes, "bias", instrument="DECam", detector=detector)
        butler.registry.certify("DECam/calib/certified", [ref], SPAN)


def export(repo, folder):
    shutil.rmtree(folder, ignore_errors=True)
    exportCalibs(str(repo), str(folder), ("DECam/calib/certified",), (), "copy")


@pytest.mark.parametrize("transfer", ["direct", "copy"])
def test_import_again_takes_only_what_is_new(repo, template, tmp_path, transfer):
    certify(repo, 25)
    export(repo, tmp_path / "shared")
    other = tmp_path / "other"
    shutil.copytree(template, other)
    assert import_calibrations(other, tmp_path / "shared", transfer=transfer) == 1
    assert import_calibrations(other, tmp_path / "shared", transfer=transfer) == 0
    certify(repo, 26)
    export(repo, tmp_path / "shared")
    assert import_calibrations(other, tmp_path / "shared", transfer=transfer) == 1
    with open_butler(other) as butler:
        for detector in (25, 26):
            planes = butler.get(
                "bias",
                instrument="DECam",
                detector=detector,
                collections="DECam/calib",
                timespan=SPAN,
            )
            assert planes.image[0, 0] == detector


def test_what_is_wrong(repo, tmp_path):
    with pytest.raises(MissingInputError, match="no export of calibrations"):
        import_calibrations(repo, tmp_path)
    (tmp_path / "export.yaml").write_text("a: [1")
    with pytest.raises(DataError, match=r"export\.yaml is not readable"):
        import_calibrations(repo, tmp_path)
    (tmp_path / "export.yaml").write_text("a: 1")
    with pytest.raises(DataError, match="no entry 'data'"):
        import_calibrations(repo, tmp_path)
    with pytest.raises(ConfigError, match="transfer must be one of"):
        import_calibrations(repo, tmp_path, transfer="move")
