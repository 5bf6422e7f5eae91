"""A toy repository and pipeline: quanta that sleep, fail, hang or die on demand."""

import os
import signal
import time
from pathlib import Path

import lsst.pipe.base.connectionTypes as ct
from lsst.daf.butler import Butler, DatasetType
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
)

import skymill  # noqa: F401  (as every task of ours does: it repairs zipfile in run-qbb)

STORAGE = "StructuredDataDict"
DETECTOR = ("instrument", "detector")


class ToyFirstConnections(PipelineTaskConnections, dimensions=DETECTOR):
    raw = ct.Input(doc="in", name="toyRaw", storageClass=STORAGE, dimensions=DETECTOR)
    out = ct.Output(doc="out", name="toyA", storageClass=STORAGE, dimensions=DETECTOR)


class ToyConfig(PipelineTaskConfig, pipelineConnections=ToyFirstConnections):
    seconds = Field(dtype=float, default=0.0, doc="Duration of a quantum.")
    busy = Field(dtype=bool, default=False, doc="Compute instead of sleep.")
    fail_on = ListField(dtype=int, default=[], doc="Detectors that raise.")
    nothing_on = ListField(dtype=int, default=[], doc="Detectors without work.")
    hang_on = ListField(dtype=int, default=[], doc="Detectors that never end.")
    die_on = ListField(dtype=int, default=[], doc="Detectors that kill their worker.")
    die_marker = Field(dtype=str, default="", doc="Die only while this file is absent.")
    memory_on = ListField(dtype=int, default=[], doc="Detectors that take 3 GB.")


class ToyFirstTask(PipelineTask):
    ConfigClass = ToyConfig
    _DefaultName = "toyFirst"

    def runQuantum(self, butlerQC, inputRefs, outputRefs):
        detector = butlerQC.quantum.dataId["detector"]
        outputs = self.run(butlerQC.get(inputRefs.raw), detector)
        butlerQC.put(outputs, outputRefs)

    def run(self, raw, detector):
        config = self.config
        self.log.info("toy work on detector %d", detector)
        if detector in config.fail_on:
            raise ValueError(f"detector {detector} has no stars")
        if detector in config.nothing_on:
            raise NoWorkFound("nothing here")
        if detector in config.die_on and not (
            config.die_marker and Path(config.die_marker).exists()
        ):
            if config.die_marker:
                Path(config.die_marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if detector in config.memory_on:
            bytearray(3 << 30)
        while detector in config.hang_on:
            time.sleep(0.05)
        end = time.monotonic() + config.seconds
        while config.busy and time.monotonic() < end:
            pass
        time.sleep(max(0.0, end - time.monotonic()))
        return Struct(out={"value": raw["value"] + 1, "pid": os.getpid()})


class ToySecondConnections(PipelineTaskConnections, dimensions=DETECTOR):
    one = ct.Input(doc="in", name="toyA", storageClass=STORAGE, dimensions=DETECTOR)
    out = ct.Output(doc="out", name="toyB", storageClass=STORAGE, dimensions=DETECTOR)


class ToySecondConfig(PipelineTaskConfig, pipelineConnections=ToySecondConnections):
    pass


class ToySecondTask(PipelineTask):
    ConfigClass = ToySecondConfig
    _DefaultName = "toySecond"

    def run(self, one):
        return Struct(out={"value": one["value"] * 2, "pid": os.getpid()})


class ToySumConnections(PipelineTaskConnections, dimensions=("instrument",)):
    many = ct.Input(doc="in", name="toyB", storageClass=STORAGE, dimensions=DETECTOR, multiple=True)
    out = ct.Output(doc="out", name="toySum", storageClass=STORAGE, dimensions=("instrument",))


class ToySumConfig(PipelineTaskConfig, pipelineConnections=ToySumConnections):
    pass


class ToySumTask(PipelineTask):
    ConfigClass = ToySumConfig
    _DefaultName = "toySum"

    def run(self, many):
        return Struct(out={"value": sum(one["value"] for one in many), "n": len(many)})


PIPELINE = """
description: a toy
tasks:
  toyFirst: {class: engine_toy.ToyFirstTask}
  toySecond: {class: engine_toy.ToySecondTask}
  toySum: {class: engine_toy.ToySumTask}
subsets:
  one: [toyFirst]
  two: [toyFirst, toySecond]
"""


def make_repo(root, n_detectors=6, registry=None):
    """A repository with ``n_detectors`` toyRaw in ``toy/raw``; its path and the pipeline."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    repo = root / "repo"
    config = None
    if registry is not None:
        from lsst.daf.butler import Config

        config = Config({"registry": {"db": registry}})
    Butler.makeRepo(str(repo), config=config)
    with Butler.from_config(str(repo), writeable=True) as butler:
        butler.registry.insertDimensionData(
            "instrument",
            {"name": "Toy", "detector_max": n_detectors, "class_name": "engine_toy.Toy"},
        )
        butler.registry.insertDimensionData(
            "detector",
            *[{"instrument": "Toy", "id": i, "full_name": f"d{i}"} for i in range(n_detectors)],
        )
        kind = DatasetType("toyRaw", DETECTOR, STORAGE, universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        butler.collections.register("toy/raw")
        for i in range(n_detectors):
            butler.put({"value": i}, kind, run="toy/raw", instrument="Toy", detector=i)
    pipeline = root / "toy.yaml"
    pipeline.write_text(PIPELINE)
    return repo, pipeline


def read_all(repo, name, collections):
    """``{detector: value}`` of every dataset of a type; fails on duplicates."""
    with Butler.from_config(str(repo)) as butler:
        found = {}
        for ref in butler.query_datasets(name, collections=collections, explain=False):
            key = ref.dataId.get("detector", -1)
            assert key not in found
            found[key] = butler.get(ref)["value"]
    return found


if __name__ == "__main__":
    import sys

    make_repo(sys.argv[1], int(sys.argv[2]))
