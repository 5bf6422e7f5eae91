"""The isr and cp tasks without a repository: switches, run(), pairs of flats, pipelines."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from lsst.pipe.base import NoWorkFound, Pipeline

from skymill.data.errors import MissingInputError
from skymill.data.images import Box, ExposureInfo, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.instruments.camera import Amplifier
from skymill.instruments.raw import RawCcd
from skymill.tasks.cp_bfk_measure import CpBfkMeasureTask, pair_flats
from skymill.tasks.cp_bias_combine import CpBiasCombineTask
from skymill.tasks.cp_flat_combine import CpFlatCombineTask
from skymill.tasks.cp_flat_measure import CpFlatMeasureTask
from skymill.tasks.cp_flat_normalize import CpFlatNormalizeTask
from skymill.tasks.cp_fringe_combine import CpFringeCombineTask
from skymill.tasks.isr import IsrConfig, IsrConnections, IsrTask
from skymill.tasks.isr_for_crosstalk_sources import IsrForCrosstalkSourcesTask

NY, HALF = 64, 32
Z = "z DECam SDSS c0004 9260.0 1520.0"


def make_raw(rng, level=1000.0, physical_filter=Z):
    boxes = {
        "B": (Box(x0=20, y0=0, x1=20 + HALF, y1=NY), Box(x0=0, y0=0, x1=20, y1=NY), 0),
        "A": (
            Box(x0=20 + HALF, y0=0, x1=20 + 2 * HALF, y1=NY),
            Box(x0=20 + 2 * HALF, y0=0, x1=40 + 2 * HALF, y1=NY),
            HALF,
        ),
    }
    amps = tuple(
        Amplifier(
            name=name, data_box=data, overscan_box=over, gain=4.0, read_noise=6.0,
            box=Box(x0=x, y0=0, x1=x + HALF, y1=NY), saturation=40000.0,
            readout_corner="UL" if x == 0 else "UR",
        )
        for name, (data, over, x) in boxes.items()
    )  # fmt: skip
    image = rng.normal(2000, 1.5, (NY, 40 + 2 * HALF))
    image[:, 20 : 20 + 2 * HALF] += rng.poisson(4.0 * level, (NY, 2 * HALF)) / 4.0
    info = ExposureInfo(
        instrument="DECam", visit=12, detector=35, physical_filter=physical_filter, band="z",
        exposure_time=30.0, mjd_mid=58000.0,
    )  # fmt: skip
    return RawCcd(
        image=np.rint(image).astype(np.uint16), amplifiers=amps, header=fits.Header(), info=info
    )


def planes(value, shape=(NY, 2 * HALF), unit="adu"):
    return PixelPlanes(
        np.full(shape, value, np.float32), np.full(shape, 1e-4, np.float32),
        np.zeros(shape, np.int32), unit=unit,
    )  # fmt: skip


def test_isr_runs_with_everything():
    rng = np.random.default_rng(1)
    knots = np.arange(0.0, 65536.0, 64.0)
    pattern = planes(0.0, unit="")
    pattern.image[:] = 0.01 * np.sin(np.arange(2 * HALF) / 3.0)
    result = IsrTask(config=IsrConfig()).run(
        make_raw(rng), bias=planes(2.0), flat=planes(0.5, unit=""), fringe=pattern,
        newBFKernel=PixelPlanes(
            np.full((3, 3), -1e-8, np.float32), np.zeros((3, 3), np.float32),
            np.zeros((3, 3), np.int32),
        ),
        crosstalk=Table({
            "victim": [35, 35], "victim_amp": ["A", "B"], "source": [35, 40],
            "source_amp": ["B", "A"], "coefficient": [1e-3, 1e-3], "onset": [4e4, 4e4],
        }),
        crosstalkSources={}, linearizer=Table({
            "amp": ["A", "B"], "adu": [knots, knots], "delta": [0 * knots, 0 * knots],
            "max_valid": [4e4, 4e4],
        }),
        defects=Table({"x0": [5], "y0": [0], "nx": [1], "ny": [NY]}),
    ).outputExposure  # fmt: skip
    assert result.info.detector == 35
    # (1000 - 2) adu x 4 / 0.5, less 1e-3 in amplifier A
    assert np.median(result.planes.image[:, :HALF]) == pytest.approx(7984, abs=15)
    assert np.median(result.planes.image[:, HALF:]) == pytest.approx(7976, abs=15)
    assert (result.planes.mask[:, 5] & int(MaskPlane.BAD)).all()


def test_switches_remove_their_inputs_and_keep_others():
    full = IsrConnections(config=IsrConfig())
    assert "crosstalkSources" in full.inputs
    assert "newBFKernel" not in full.prerequisiteInputs
    config = IsrConfig()
    config.doBias = config.doCrosstalk = config.doFringe = False
    config.doBrighterFatter = True
    few = IsrConnections(config=config)
    assert "crosstalkSources" not in few.inputs
    assert few.prerequisiteInputs == {"flat", "newBFKernel", "linearizer", "defects"}
    config.planesOnly = True
    assert IsrConnections(config=config).outputExposure.storageClass == "SkymillPlanes"


def test_missing_calibration_is_a_sentence_unless_it_is_not_needed():
    connections = IsrConnections(config=IsrConfig())
    inputs = {"bias": (connections.bias, []), "fringe": (connections.fringe, [])}
    with pytest.raises(MissingInputError, match=r"cpBias.yaml.*isr:doBias=False"):
        connections.adjustQuantum(inputs, {}, "isr", {"physical_filter": Z})
    del inputs["bias"]
    with pytest.raises(MissingInputError, match="doFringe=False"):
        connections.adjustQuantum(inputs, {}, "isr", {"physical_filter": Z})
    connections.adjustQuantum(inputs, {}, "isr", {"physical_filter": "r"})


def test_fringes_only_in_their_filters_and_a_dead_ccd_is_no_work():
    rng = np.random.default_rng(2)
    task = IsrTask(config=IsrConfig())
    raw = make_raw(rng, physical_filter="r DECam SDSS c0002 6415.0 1480.0")
    pattern = planes(1.0, unit="")
    pattern.image[::2] = 0
    task.run(raw, fringe=pattern)
    assert task.metadata["fringe_amplitude"] == 0.0
    with pytest.raises(NoWorkFound, match="BAD"):
        task.run(raw, defects=Table({"x0": [0], "y0": [0], "nx": [99], "ny": [99]}))


def test_crosstalk_source_task_trims_and_measures_the_noise():
    raw = make_raw(np.random.default_rng(3))
    out = IsrForCrosstalkSourcesTask().run(raw).outputExposure
    assert out.shape == (NY, 2 * HALF)
    assert out.unit == "adu"
    assert np.median(out.image) == pytest.approx(1000, abs=3)
    assert np.sqrt(out.variance[0, 0]) == pytest.approx(1.5, rel=0.1)


def test_combining_tasks():
    bias = CpBiasCombineTask().run(iter([planes(1.0), planes(3.0)]), 2).outputData
    np.testing.assert_allclose(bias.image, 2.0, atol=1.01)
    measure, levels = CpFlatMeasureTask(), []
    for exposure, lamp in ((1, 100.0), (2, 200.0)):
        for detector, response in ((35, 1.2), (36, 0.8)):
            level = measure.run(planes(lamp * response), exposure, detector).outputLevel
            levels.append(level)
    scales = CpFlatNormalizeTask().run(levels).outputScales
    assert scales["exposure"]["2"] == pytest.approx(2 * scales["exposure"]["1"])
    flat = (
        CpFlatCombineTask()
        .run(iter([planes(120.0), planes(240.0)]), list(scales["exposure"].values()))
        .outputData
    )
    np.testing.assert_allclose(flat.image, 1.2, rtol=1e-6)
    fringe = CpFringeCombineTask().run(iter([planes(50.0, unit="electron")] * 2), 2).outputData
    np.testing.assert_allclose(fringe.image, 0.0, atol=1e-6)


def test_flats_pair_with_their_neighbours_in_level():
    levels = {"a": 100.0, "b": 200.0, "c": 101.0, "d": 203.0, "e": 206.0}
    assert pair_flats(levels, 0.05) == [("a", "c"), ("b", "d")]
    rng = np.random.default_rng(4)
    pair = [
        PixelPlanes(
            rng.poisson(2e4, (200, 200)).astype(np.float32), np.ones((200, 200), np.float32),
            np.zeros((200, 200), np.int32),
        )
        for _ in range(2)
    ]  # fmt: skip
    kernel = CpBfkMeasureTask().run([pair]).outputData
    assert kernel.shape == (17, 17)
    assert np.isfinite(kernel.image).all()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cpBias", "cpBiasCombine"), ("cpFlat", "cpFlatCombine"), ("cpBfk", "cpBfkMeasure"),
        ("cpFringe", "cpFringeCombine"), ("cpSky", "cpSkyCombine"), ("ingredients/frames", "isr"),
    ],
)  # fmt: skip
def test_pipelines_make_a_graph(name, label):
    pipeline = Pipeline.from_uri(f"resource://skymill/pipelines/{name}.yaml")
    graph = pipeline.to_graph()
    assert label in graph.tasks
    assert "raw" in graph.dataset_types
