"""The tasks of step1's end and step2 on simulated catalogues, without a repository."""

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from lsst.pipe.base import NoWorkFound

from skymill.calibrate.visit_table import flux_scale_of, wcs_of
from skymill.coadd.skymap import SkyMap
from skymill.data.errors import NoDataError
from skymill.data.images import Exposure, ExposureInfo, PixelPlanes
from skymill.data.tables import load_schema
from skymill.tasks.calibrate import CalibrateConfig, CalibrateTask
from skymill.tasks.consolidate_pre_source_table import ConsolidatePreSourceTableTask
from skymill.tasks.consolidate_visit_summary import ConsolidateVisitSummaryTask
from skymill.tasks.isolated_star_association import IsolatedStarAssociationTask
from skymill.tasks.jointcal import JointcalConfig, JointcalTask
from skymill.tasks.transform_pre_source_table import TransformPreSourceTableTask
from skymill.tasks.transform_source_table import TransformSourceTableTask
from skymill.tasks.update_visit_summary import UpdateVisitSummaryConfig, UpdateVisitSummaryTask

sys.path.insert(0, str(Path(__file__).parents[1] / "calibrate"))
from joint_survey import SHAPE, make_survey


def plain(config):
    """Without colour terms: the references hold one band, that of the camera."""
    config.applyColorTerms = False
    return config


def make_shard(references):
    n = len(references)
    return load_schema("refcat").apply(
        Table(
            {
                "id": references.id, "ra": references.ra, "dec": references.dec,
                "ra_err": references.error, "dec_err": references.error,
                "pm_ra": np.zeros(n), "pm_dec": np.zeros(n), "pm_ra_err": np.zeros(n),
                "pm_dec_err": np.zeros(n), "parallax": np.zeros(n), "epoch": np.full(n, 57000.0),
                "r_flux": references.flux, "r_flux_err": references.flux_err,
                "phot_g_mean_flux": references.flux, "phot_g_mean_flux_err": references.flux_err,
                "is_star": np.ones(n, bool),
            }
        )
    )  # fmt: skip


def make_sources(part, row):
    """A source table as it is measured: electrons, no sky positions."""
    n, mean = len(part), float(row["photoCalibMean"])
    table = load_schema("src").empty()
    out = {c: np.zeros(n, table[c].dtype) for c in table.colnames}
    for name in ("id", "x", "y", "x_err", "y_err", "snr"):
        out[name] = np.asarray(part[name])
    out["psfFlux"], out["psfFluxErr"] = part["psfFlux"] / mean, part["psfFluxErr"] / mean
    out["ixx"] = out["iyy"] = np.full(n, 3.0)
    return Table(out)


@pytest.fixture(scope="module")
def calibrated():
    """Three visits of four CCDs through calibrate and transformPreSourceTable."""
    survey = make_survey(21, n_star=700, n_visit=3)
    shard = make_shard(survey.references)
    visits = {}
    for summary, sources in zip(survey.summaries, survey.tables, strict=True):
        ccds = []
        for row in summary:
            part = sources[sources["detector"] == row["detector"]]
            exposure = Exposure(
                planes=PixelPlanes(
                    np.zeros(SHAPE, "f4"), np.ones(SHAPE, "f4"), np.zeros(SHAPE, "i4")
                ),
                info=ExposureInfo(
                    instrument="DECam", visit=int(row["visit"]), detector=int(row["detector"]),
                    physical_filter="r DECam", band="r", exposure_time=90.0, mjd_mid=57001.0,
                ),
                wcs=wcs_of(row).shifted(dx=60.0, dy=-80.0),
                aperture_correction={"ap12Flux": 1.02},
                summary={"fwhm": 3.9, "nPsfStar": 33.0},
            )  # fmt: skip
            result = CalibrateTask(config=plain(CalibrateConfig())).run(
                exposure, ["sky"], make_sources(part, row), [shard], [shard]
            )
            scaled = TransformPreSourceTableTask().run(
                result.outputCat, result.outputExposure.photo_calib
            )
            ccds.append((result, scaled.outputCatalog))
        visits[int(summary["visit"][0])] = ccds
    return survey, shard, visits


@pytest.fixture(scope="module")
def joint(calibrated):
    _, shard, visits = calibrated
    tables, summaries = [], []
    for ccds in visits.values():
        joined = ConsolidatePreSourceTableTask().run([t for _, t in ccds])
        tables.append(joined.outputCatalog)
        parts = [vars(r.outputExposure) for r, _ in ccds]
        summaries.append(ConsolidateVisitSummaryTask().run(parts).visitSummary)
    return (
        tables,
        summaries,
        JointcalTask(config=plain(JointcalConfig())).run(tables, summaries, [shard], [shard]),
    )


def test_calibrate_writes_valid_tables_and_passes_the_background_on(calibrated):
    survey, _, visits = calibrated
    for visit, ccds in visits.items():
        for result, scaled in ccds:
            load_schema("src").validate(result.outputCat)
            load_schema("srcMatch").validate(result.matches)
            load_schema("preSourceTable").validate(scaled)
            assert result.outputBackground == ["sky"]
            summary = result.outputExposure.summary
            assert summary["fwhm"] == 3.9
            assert summary["nAstrometry"] == result.outputCat["calib_astrometry_used"].sum()
            assert summary["astromOffsetMean"] < 0.05
            detector = result.outputExposure.info.detector
            truth = survey.truth_scale[visit, detector](np.array([512.0]), np.array([1024.0]))[0]
            # 25 stars of 20 mmag and the vignetting within the CCD (10 mmag).
            assert summary["zeroPoint"] == pytest.approx(truth, abs=0.03)


def test_a_ccd_without_reference_shards_fails_with_one_sentence(calibrated):
    _, shard, visits = calibrated
    result, _ = visits[0][0]
    with pytest.raises(NoDataError, match="ingest one that covers this part of the sky"):
        CalibrateTask().run(result.outputExposure, [], result.outputCat, [], [shard])


def test_names_of_the_configuration():
    config = CalibrateConfig()
    config.connections.astrometryRefCat = "gaia_dr3"
    config.connections.photometryRefCat = "sm_dr4_g"
    config.photometryRefField = "g_psf"
    config.validate()
    connections = config.connections.ConnectionsClass(config=config)
    assert connections.photoRefCat.name == "sm_dr4_g"
    assert connections.astromRefCat.name == "gaia_dr3"
    assert config.references()[0].flux_field == "phot_g_mean"
    assert config.references()[1].flux_field == "g_psf"
    assert config.references()[1].mag_max == 22.0


def test_visit_summary_and_jointcal(joint):
    _, summaries, result = joint
    for summary in summaries:
        load_schema("visitSummary").validate(summary)
        assert summary["fwhm"].tolist() == [3.9] * 4
        assert summary["nPsfStar"].tolist() == [33] * 4
    assert sorted(result.outputWcs) == sorted(result.outputPhotoCalib) == [0, 1, 2]
    load_schema("jointcalSkyWcsCatalog").validate(result.outputWcs[0])
    load_schema("jointcalPhotoCalibCatalog").validate(result.outputPhotoCalib[0])
    assert result.astrometry.scatter < 20.0
    assert result.photometry.scatter < 15.0


def test_final_summary_and_sources(calibrated, joint):
    survey, _, visits = calibrated
    _, summaries, result = joint
    config = UpdateVisitSummaryConfig()
    config.psf_provider = "input_summary"
    final = (
        UpdateVisitSummaryTask(config=config)
        .run(summaries[1], [result.outputWcs[1]], [result.outputPhotoCalib[1]])
        .output_summary
    )
    load_schema("finalVisitSummary").validate(final)
    assert len(final) == 4
    row = final[2]
    truth = survey.truth_scale[1, 2](np.array([100.0]), np.array([1900.0]))[0]
    scale = flux_scale_of(row, shape=SHAPE).scale(x=100.0, y=1900.0)
    assert -2.5 * np.log10(scale) + 31.4 == pytest.approx(truth, abs=0.02)
    sources = TransformSourceTableTask().run(visits[1][2][0].outputCat, final, 2).outputCatalog
    load_schema("sourceTable").validate(sources)
    with pytest.raises(NoWorkFound):
        TransformSourceTableTask().run(visits[1][2][0].outputCat, final, 50)
    with pytest.raises(NoWorkFound):
        UpdateVisitSummaryTask(config=config).run(
            summaries[1], [result.outputWcs[0]], [result.outputPhotoCalib[0]]
        )


def test_isolated_stars_of_a_tract(joint):
    tables, _, _ = joint
    skymap = SkyMap.discrete("test", 0.02, -30.0, 0.3, patch_inner=1000)
    tract = skymap.tracts[0].index if hasattr(skymap.tracts[0], "index") else 0
    result = IsolatedStarAssociationTask().run([("r", t) for t in tables], skymap, tract)
    stars, sources = result.isolated_star_cat, result.isolated_star_sources
    load_schema("isolated_star_cat").validate(stars)
    load_schema("isolated_star_sources").validate(sources)
    assert stars["nsource"].sum() == len(sources)
    assert stars["nsource"].max() <= 3
    k = int(np.argmax(stars["nsource"]))
    first, count = int(stars["source_cat_index"][k]), int(stars["nsource"][k])
    assert (sources["obj_index"][first : first + count] == k).all()
    far = SkyMap.discrete("far", 90.0, 30.0, 0.3, patch_inner=1000)
    with pytest.raises(NoWorkFound):
        IsolatedStarAssociationTask().run([("r", t) for t in tables], far, tract)
