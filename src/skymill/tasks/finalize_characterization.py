"""The final PSF and aperture corrections of the CCDs of one visit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from astropy.table import Table, vstack
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

from skymill.calibrate.final_psf import FinalPsfOptions, fit_final_psf, psf_row
from skymill.data.images import Exposure
from skymill.data.tables import load_schema
from skymill.psf.fit import PsfFitOptions
from skymill.tasks._options import options_field, to_options

__all__ = [
    "FinalizeCharacterizationConfig",
    "FinalizeCharacterizationConnections",
    "FinalizeCharacterizationTask",
]


class FinalizeCharacterizationConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit")
):
    """Datasets of `FinalizeCharacterizationTask`."""

    calexps = cT.Input(
        doc="The calibrated CCDs of the visit.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    isolatedStarSources = cT.Input(
        doc="Sources of the isolated stars, of every tract that the visit touches.",
        name="isolated_star_sources",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
        multiple=True,
        deferLoad=True,
    )
    psfApCorrCatalog = cT.Output(
        doc="The final PSF and aperture corrections, one row a CCD.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )
    starTable = cT.Output(
        doc="The stars against the final PSF.",
        name="finalized_src_table",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )


class FinalizeCharacterizationConfig(
    PipelineTaskConfig, pipelineConnections=FinalizeCharacterizationConnections
):
    """Options of `FinalizeCharacterizationTask`."""

    stars = options_field(FinalPsfOptions, "Choice of the isolated stars.")
    psf = options_field(PsfFitOptions, "Fit of the PSF.")


class FinalizeCharacterizationTask(PipelineTask):
    """Fit the final PSF of each CCD of a visit to its isolated stars."""

    ConfigClass = FinalizeCharacterizationConfig
    _DefaultName = "finalizeCharacterization"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the stars, go through the CCDs one at a time, write the tables."""
        inputs = butlerQC.get(inputRefs)
        tables = [handle.get() for handle in inputs["isolatedStarSources"]]
        visit = int(butlerQC.quantum.dataId["visit"])
        handles = sorted(inputs["calexps"], key=lambda h: int(h.dataId["detector"]))
        exposures = (handle.get() for handle in handles)
        butlerQC.put(self.run(visit, exposures, tables), outputRefs)

    def run(self, visit: int, exposures: Iterable[Exposure], tables: list[Table]) -> Struct:
        """Fit the PSF of each CCD.

        Parameters
        ----------
        visit : int
            The visit.
        exposures : iterable of Exposure
            The CCDs, one at a time.
        tables : list of astropy.table.Table
            Sources of isolated stars.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psfApCorrCatalog``, ``starTable``.
        """
        stars_config = to_options(self.config.stars, FinalPsfOptions)
        psf_config = to_options(self.config.psf, PsfFitOptions)
        mine = [t[np.asarray(t["visit"]) == visit] for t in tables]
        sources = vstack(mine, metadata_conflicts="silent") if mine else Table()
        rows, stars = [], []
        for exposure in exposures:
            detector = exposure.info.detector
            final = fit_final_psf(
                exposure,
                sources[np.asarray(sources["detector"]) == detector],
                rng=np.random.default_rng([visit, detector, 1]),
                options=stars_config,
                psf_options=psf_config,
            )
            rows.append(psf_row(visit, detector, final, max_order=psf_config.order))
            stars.append(final.stars)
            self.log.info(
                "visit %d detector %d: PSF from %d isolated stars%s", visit, detector,
                final.n_used, "" if final.refitted else " (too few: first PSF kept)",
            )  # fmt: skip
        if not rows:
            raise NoWorkFound(f"visit {visit} has no calibrated CCD")
        catalogue = load_schema("finalized_psf_ap_corr_catalog").apply(Table(rows))
        return Struct(psfApCorrCatalog=catalogue, starTable=vstack(stars))
