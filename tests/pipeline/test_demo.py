"""The small demonstration from nothing to its report, and every table that it wrote."""

import json

import numpy as np
import pytest
from lsst.daf.butler import Butler

from skymill.data.tables import load_schema, schema_names
from skymill.demo.run import DemoOptions, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, DemoOptions(size="small", seed=7), say=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def summary(demo):
    return json.loads((demo / "report" / "summary.json").read_text())


def tables(demo):
    """Every table of the repository with the name of its dataset type."""
    butler = Butler.from_config(str(demo / "repo" / "repo"))
    try:
        for dataset_type in butler.registry.queryDatasetTypes(...):
            if dataset_type.storageClass_name != "SkymillTable":
                continue
            refs = butler.query_datasets(
                dataset_type.name, collections="*", find_first=False, explain=False, limit=None
            )
            for ref in refs[:3]:
                yield dataset_type.name, butler.get(ref)
    finally:
        butler.close()


def test_the_cluster_is_found_and_weighed(summary):
    # Two CCDs at 7 galaxies per square arcminute: the full demo has S/N 8 and 25 %.
    assert summary["peak"]["snr"] > 3.0
    assert summary["peak"]["offset_arcmin"] < 2.0
    assert abs(summary["mass"]["deviation_sigma"]) < 3.0
    assert summary["mass"]["relative_error"] < 0.6


def test_positions_and_fluxes_repeat(summary):
    assert summary["astrometry"]["relative_mas"] < 20.0
    assert summary["photometry"]["repeatability_mmag"] < 15.0
    truth = summary["photometry"]["against_truth"]["r"]
    assert abs(truth["zero_point_error_mmag"]) < 40.0


def test_every_step_has_its_time_and_the_page_its_pictures(demo, summary):
    assert {"process_ccd_s", "coadd_3a_s", "mass_fit_s", "total_s"} <= set(summary["timing"])
    page = (demo / "report" / "index.html").read_text()
    for name in ("overlay.jpg", "mass_map.png", "psf.png", "red_sequence.png", "null_tests.png"):
        assert f'src="{name}"' in page
        assert (demo / "report" / name).stat().st_size > 5000
    # The page can be sent by mail.
    assert sum(p.stat().st_size for p in (demo / "report").iterdir()) < 4e6


def test_every_table_follows_its_schema(demo):
    known = set(schema_names())
    seen = set()
    for name, table in tables(demo):
        schema = name if name in known else {"icSrc": "src"}.get(name, "refcat")
        assert load_schema(schema).problems(table) == [], name
        seen.add(name)
    assert {"src", "visitSummary", "finalVisitSummary", "objectTable_tract", "massFit"} <= seen


def test_no_object_without_flags_or_errors(demo):
    objects = dict(tables(demo))["objectTable_tract"]
    for band in ("g", "r", "i"):
        for kind in ("psfFlux", "cModelFlux", "kronFlux"):
            flux, err = (np.asarray(objects[f"{band}_{kind}{e}"]) for e in ("", "Err"))
            flags = np.asarray(objects[f"{band}_{kind}_flags"])
            measured = np.isfinite(flux) & np.isfinite(err) & (err > 0)
            assert np.all(measured | (flags != 0)), (band, kind)
