"""Calibrated shears (step shear_calibration)."""

from __future__ import annotations

from astropy.table import Table
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.shear.calibration import CalibrateShearOptions, calibrate_shears
from skymill.tasks._options import options_field, to_options

__all__ = ["CalibrateShearConfig", "CalibrateShearConnections", "CalibrateShearTask"]


class CalibrateShearConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")
):
    """Datasets of `CalibrateShearTask`."""

    inputCatalog = cT.Input(
        doc="Calibrated catalogue.",
        name="calibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    photoz = cT.Input(
        doc="Photometric redshifts.",
        name="photoz",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="Calibrated shears in sky axes.",
        name="shearCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class CalibrateShearConfig(PipelineTaskConfig, pipelineConnections=CalibrateShearConnections):
    """Options of `CalibrateShearTask`."""

    shear = options_field(CalibrateShearOptions, "Method, cuts and biases.")


class CalibrateShearTask(PipelineTask):
    """Turn distortions into shears with weights."""

    ConfigClass = CalibrateShearConfig
    _DefaultName = "calibrateShear"

    def run(self, inputCatalog: Table, photoz: Table) -> Struct:
        """Calibrate the shears of the galaxies.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``calibratedCatalog``.
        photoz : astropy.table.Table
            Schema ``photoz``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``shearCatalog``.
        """
        options = to_options(self.config.shear, CalibrateShearOptions)
        galaxies = inputCatalog[inputCatalog["is_galaxy"]]
        table = calibrate_shears(galaxies, photoz, options=options)
        self.log.info(
            "%d of %d galaxies used, responsivity %.4f, mean m %.4f; rejected: %s",
            int(table["use"].sum()), len(table), table.meta["responsivity"],
            table.meta["mean_m"], table.meta["cuts"],
        )  # fmt: skip
        return Struct(outputCatalog=table)
