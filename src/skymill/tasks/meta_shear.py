"""Shears calibrated by the response of metadetection (step meta_lensing)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import MissingInputError
from skymill.shear.meta_calibration import MetaCalibrationOptions, calibrate_metadetection
from skymill.shear.metadetect import MetadetectOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["MetaShearConfig", "MetaShearConnections", "MetaShearTask"]


class MetaShearConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `MetaShearTask`."""

    inputCatalog = cT.Input(
        doc="Calibrated objects of all versions.",
        name="metaCalibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    shearCatalog = cT.Output(
        doc="Calibrated shears in sky axes.",
        name="metaShearCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    response = cT.Output(
        doc="Response to shear with its errors.",
        name="metaResponse",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class MetaShearConfig(PipelineTaskConfig, pipelineConnections=MetaShearConnections):
    """Options of `MetaShearTask`."""

    responseCatalogs = ListField[str](
        dtype=str,
        doc="Files (parquet, schema metaCalibratedCatalog) of other clusters: the response is then "
        "measured on all together.",
        default=[],
    )
    band = Field[str](dtype=str, doc="Band of the column mag.", default="r")
    shear = options_field(MetaCalibrationOptions, "Weights, nodes, jackknife.")
    metadetect = options_field(MetadetectOptions, "Weights and applied shear, as in meta_4b.")


class MetaShearTask(PipelineTask):
    """Measure the response, selection included, and calibrate the unsheared shapes with it."""

    ConfigClass = MetaShearConfig
    _DefaultName = "metaShear"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the catalogue, and those of other clusters."""
        others = [_read(Path(name)) for name in self.config.responseCatalogs]
        butlerQC.put(self.run(**butlerQC.get(inputRefs), others=others), outputRefs)

    def run(self, inputCatalog: Table, others: Sequence[Table] = ()) -> Struct:
        """Calibrate the shears.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``metaCalibratedCatalog``.
        others : sequence of astropy.table.Table
            The same of other clusters, for the response.

        Returns
        -------
        lsst.pipe.base.Struct
            ``shearCatalog``: schema ``shearCatalog``; ``response``: schema ``metaResponse``.
        """
        table, response = calibrate_metadetection(
            inputCatalog,
            others=others,
            band=self.config.band,
            options=to_options(self.config.shear, MetaCalibrationOptions),
            detect=to_options(self.config.metadetect, MetadetectOptions),
        )
        last = response[-1]
        self.log.info(
            "%d of %d galaxies used; response %s at sizes %s from %d clusters, error %.1f per "
            "cent; mean shear %.4f +- %.4f, %.4f +- %.4f; rejected: %s",
            int(table["use"].sum()), len(table), np.round(response["r"][:-1], 3),
            np.round(response["size_ratio"][:-1], 2), last["n_cluster"],
            100 * last["r_err"] / last["r"], last["g1"], last["g1_err"], last["g2"],
            last["g2_err"], table.meta["cuts"],
        )  # fmt: skip
        return Struct(shearCatalog=table, response=response)


def _read(path: Path) -> Table:
    if not path.is_file():
        raise MissingInputError(
            f"there is no catalogue {path} to measure the response on; it is "
            "metadetect_processing/NAME_meta.parquet of another cluster"
        )
    return read_catalogue(path)
