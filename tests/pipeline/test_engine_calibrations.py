"""Certifying calibration frames twice replaces them."""

from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan

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
        butler.collections.register("made", CollectionType.CHAINED)
        butler.collections.redefine_chain("made", ["a"])
    assert certify_for_all_times(repo, "made", "bias") == 2
    assert certify_for_all_times(repo, "made", "bias") == 0
    with Butler.from_config(repo, writeable=True) as butler:
        butler.collections.redefine_chain("made", ["b", "a"])
    assert certify_for_all_times(repo, "made", "bias") == 2
    with Butler.from_config(repo) as butler:
        for detector in range(2):
            ref = butler.find_dataset(
                "bias",
                instrument="Toy",
                detector=detector,
                collections="DECam/calib/certified",
                timespan=Timespan(None, None),
            )
            assert ref.run == "b"
