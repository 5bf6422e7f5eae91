"""Certifying calibration frames twice replaces them."""

from lsst.daf.butler import Butler, DatasetType

from skymill.campaign.calibrations import certify_for_all_times


def test_certify_again_replaces(tmp_path):
    repo = str(tmp_path / "repo")
    Butler.makeRepo(repo)
    with Butler.from_config(repo, writeable=True) as butler:
        butler.registry.insertDimensionData(
            "instrument", {"name": "Toy", "detector_max": 2, "class_name": "x"}
        )
        butler.registry.insertDimensionData(
            "detector", *[{"instrument": "Toy", "id": i, "full_name": str(i)} for i in range(2)]
        )
        kind = DatasetType(
            "bias",
            ("instrument", "detector"),
            "StructuredDataDict",
            universe=butler.dimensions,
            isCalibration=True,
        )
        butler.registry.registerDatasetType(kind)
        for run in ("a", "b"):
            butler.collections.register(run)
            for detector in range(2):
                butler.put({"run": run}, kind, run=run, instrument="Toy", detector=detector)
    assert certify_for_all_times(repo, "a", "bias") == 2
    assert certify_for_all_times(repo, "b", "bias") == 2
    with Butler.from_config(repo) as butler:
        [*found] = butler.registry.queryDatasets("bias", collections="DECam/calib/certified")
        assert {ref.run for ref in found} == {"b"}
        assert len(found) == 2
