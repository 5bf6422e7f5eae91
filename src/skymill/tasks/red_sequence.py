"""The cluster's red sequence (step red_sequence)."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import ConfigError
from skymill.lensing.cosmology import Cosmology, CosmologyOptions
from skymill.lensing.members.purity import grade_members
from skymill.lensing.members.red_sequence import RedSequenceOptions, find_red_sequence
from skymill.qa.red_sequence_figures import draw_red_sequence
from skymill.tasks._options import options_field, to_options

__all__ = ["RedSequenceConfig", "RedSequenceConnections", "RedSequenceTask"]


class RedSequenceConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `RedSequenceTask`."""

    inputCatalog = cT.Input(
        doc="Calibrated catalogue.",
        name="calibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    redSequence = cT.Output(
        doc="Galaxies on the sequence.",
        name="redSequence",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    densityMap = cT.Output(
        doc="Density of the members.",
        name="redSequenceMap",
        storageClass="SkymillFits",
        dimensions=("instrument", "skymap", "tract"),
    )
    grades = cT.Output(
        doc="Purity and completeness against spectroscopy.",
        name="redSequenceGrades",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    picture = cT.Output(
        doc="Colours, magnitudes and density of the members.",
        name="redSequencePicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.specCatalog:
            del self.grades


class RedSequenceConfig(PipelineTaskConfig, pipelineConnections=RedSequenceConnections):
    """Options of `RedSequenceTask`."""

    zLens = Field(dtype=float, doc="Redshift of the cluster; must be set.", default=-1.0)
    centreRa = Field(dtype=float, doc="Centre [deg]; must be set.", optional=True)
    centreDec = Field(dtype=float, doc="Centre [deg]; must be set.", optional=True)
    specCatalog = Field(
        dtype=str,
        doc="File with spectroscopic redshifts (columns ra, dec [deg] and z or z_spec): purity and "
        "completeness are measured; empty for none.",
        default="",
    )
    sequence = options_field(RedSequenceOptions, "Colour, regions, widths.")
    cosmology = options_field(CosmologyOptions, "The universe.")


class RedSequenceTask(PipelineTask):
    """Find the sequence, its candidates and their density."""

    ConfigClass = RedSequenceConfig
    _DefaultName = "redSequence"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the spectroscopic redshifts, then run."""
        inputs = butlerQC.get(inputRefs)
        if self.config.specCatalog:
            inputs["spectra"] = read_catalogue(self.config.specCatalog)
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(self, inputCatalog: Table, spectra: Table | None = None) -> Struct:
        """Find the red sequence.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``calibratedCatalog``.
        spectra : astropy.table.Table, optional
            Positions ``ra``, ``dec`` and redshifts ``z`` or ``z_spec``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``redSequence`` (schema ``redSequence``), ``densityMap`` (HDUList), ``picture`` (PNG);
            with spectra ``grades`` (schema ``redSequenceGrades``).
        """
        c = self.config
        if c.zLens <= 0 or c.centreRa is None or c.centreDec is None:
            raise ConfigError(
                "redSequence needs the cluster's redshift and centre: set redSequence:zLens, "
                "redSequence:centreRa and redSequence:centreDec"
            )
        galaxies = inputCatalog[np.asarray(inputCatalog["is_galaxy"], bool)]
        found = find_red_sequence(
            galaxies,
            z=c.zLens,
            centre=(c.centreRa, c.centreDec),
            options=to_options(c.sequence, RedSequenceOptions),
            cosmology=Cosmology(to_options(c.cosmology, CosmologyOptions)),
        )
        meta = found.table.meta
        self.log.info(
            "%s - %s = %.3f, richness %.1f +- %.1f (%.1f sigma)",
            meta["blue"], meta["red"], meta["colour_at_middle"], meta["richness"],
            meta["richness_err"], meta["significance"],
        )  # fmt: skip
        picture = draw_red_sequence(found.table, found.density, found.ridge, catalogue=galaxies)
        out = Struct(redSequence=found.table, densityMap=found.density, picture=picture)
        if spectra is not None:
            out.grades = grade_members(
                found.table, spectra, z=c.zLens, centre=(c.centreRa, c.centreDec),
                radius_arcmin=meta["radius_arcmin"],
            )  # fmt: skip
        return out
