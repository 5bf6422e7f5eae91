"""The brighter-fatter kernel of one CCD, from pairs of flats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lsst.pex.config import Field
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.detrend.brighter_fatter import flat_pair_covariance, kernel_from_covariance

__all__ = ["CpBfkMeasureConfig", "CpBfkMeasureConnections", "CpBfkMeasureTask"]

_UNUSED = UNUSABLE | MaskPlane.SUSPECT | MaskPlane.INTRP


class CpBfkMeasureConnections(PipelineTaskConnections, dimensions=("instrument", "detector")):
    """Datasets of `CpBfkMeasureTask`."""

    inputExps = cT.Input(
        doc="Linear flats before the division by the flat field [electron].",
        name="cpFlatProc",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    outputData = cT.Output(
        doc="Kernel [1/electron].",
        name="bfk",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )


class CpBfkMeasureConfig(PipelineTaskConfig, pipelineConnections=CpBfkMeasureConnections):
    """Options of `CpBfkMeasureTask`."""

    maxLag = Field(dtype=int, doc="Half width of the kernel [pixel].", default=8)
    maxLevelDifference = Field(
        dtype=float, doc="Largest relative difference of the levels of a pair.", default=0.05
    )


def pair_flats(levels: Mapping[Any, float], max_difference: float) -> list[tuple[Any, Any]]:
    """Pairs of neighbours in level, each flat in one pair at most.

    Parameters
    ----------
    levels : dict of key to float
        Level of each flat.
    max_difference : float
        Largest relative difference within a pair.

    Returns
    -------
    list of (key, key)
        The pairs, faintest first.
    """
    order = sorted(levels, key=lambda k: levels[k])
    pairs, i = [], 0
    while i + 1 < len(order):
        a, b = order[i], order[i + 1]
        if levels[b] - levels[a] <= max_difference * levels[b]:
            pairs.append((a, b))
            i += 2
        else:
            i += 1
    return pairs


class CpBfkMeasureTask(PipelineTask):
    """Covariances of pairs of flats of equal level, and the potential that makes them."""

    ConfigClass = CpBfkMeasureConfig
    _DefaultName = "cpBfkMeasure"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the levels, then pair after pair."""
        groups: dict[str, dict[Any, float]] = {}
        for handle in butlerQC.get(inputRefs)["inputExps"]:
            image = handle.get(component="image")
            kind = str(handle.dataId.get("physical_filter", ""))
            groups.setdefault(kind, {})[handle] = float(np.median(image[::7, ::7]))
        limit = self.config.maxLevelDifference
        pairs = [p for g in groups.values() for p in pair_flats(g, limit)]
        if not pairs:
            raise NoWorkFound(f"no two flats have levels within {limit:.0%}; no kernel is made")

        def read() -> Iterator[Sequence[PixelPlanes]]:
            for pair in pairs:
                yield [handle.get() for handle in pair]

        butlerQC.put(self.run(read()), outputRefs)

    def run(self, inputExps: Iterable[Sequence[PixelPlanes]]) -> Struct:
        """Measure the kernel.

        Parameters
        ----------
        inputExps : iterable of (PixelPlanes, PixelPlanes) [electron]
            Pairs of flats of equal level.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputData`` : PixelPlanes, the kernel as a small image.
        """
        means, covariances = [], []
        for first, second in inputExps:
            usable = ((first.mask | second.mask) & np.int32(int(_UNUSED))) == 0
            mean, covariance = flat_pair_covariance(
                first.image, second.image, usable=usable, max_lag=self.config.maxLag
            )
            means.append(mean)
            covariances.append(covariance)
        kernel = kernel_from_covariance(means, covariances).astype(np.float32)
        self.metadata["n_pairs"] = len(means)
        return Struct(
            outputData=PixelPlanes(
                kernel, np.zeros_like(kernel), np.zeros(kernel.shape, np.int32), unit=""
            )
        )
