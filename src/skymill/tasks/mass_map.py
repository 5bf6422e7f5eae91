"""Aperture-mass maps and their peaks (step mass_map)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.lensing.aperture_mass import ApertureMassOptions, make_aperture_mass_map
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.peaks import PeakOptions, find_peaks
from skymill.qa.mass_figures import draw_mass_map
from skymill.tasks._options import options_field, to_options

__all__ = ["MassMapConfig", "MassMapConnections", "MassMapTask"]


class MassMapConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `MassMapTask`."""

    shearCatalog = cT.Input(
        doc="Calibrated shears.",
        name="shearCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    massMap = cT.Output(
        doc="E mode, B mode, variance.",
        name="massMap",
        storageClass="SkymillFits",
        dimensions=("instrument", "skymap", "tract"),
    )
    peaks = cT.Output(
        doc="Peaks of every aperture.",
        name="massMapPeaks",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    picture = cT.Output(
        doc="Signal to noise of the best aperture.",
        name="massMapPicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )


class MassMapConfig(PipelineTaskConfig, pipelineConnections=MassMapConnections):
    """Options of `MassMapTask`."""

    centreRa = Field(
        dtype=float, doc="Middle of the map [deg]; of the catalogue if unset.", optional=True
    )
    centreDec = Field(
        dtype=float, doc="Middle of the map [deg]; of the catalogue if unset.", optional=True
    )
    minZ = Field(
        dtype=float,
        doc="Only galaxies with a point redshift above it (that of the cluster plus a margin); 0 "
        "takes all.",
        default=0.0,
    )
    map = options_field(ApertureMassOptions, "Grid, apertures, filter.")
    peaks = options_field(PeakOptions, "What counts as a peak.")


class MassMapTask(PipelineTask):
    """Map the aperture mass and list its peaks."""

    ConfigClass = MassMapConfig
    _DefaultName = "massMap"

    def run(self, shearCatalog: Table) -> Struct:
        """Make the maps.

        Parameters
        ----------
        shearCatalog : astropy.table.Table
            Schema ``shearCatalog``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``massMap`` (HDUList), ``peaks`` (schema ``massMapPeaks``), ``picture`` (PNG).
        """
        use = np.asarray(shearCatalog["use"], bool)
        if self.config.minZ > 0:
            use &= np.asarray(shearCatalog["z_phot"]) > self.config.minZ
        table = shearCatalog[use]
        sample, _ = ShearSample.from_columns(
            ra=table["ra"], dec=table["dec"], g1=table["g1"], g2=table["g2"], weight=table["weight"]
        )
        centre = None
        if self.config.centreRa is not None and self.config.centreDec is not None:
            centre = (self.config.centreRa, self.config.centreDec)
        mass_map = make_aperture_mass_map(
            sample, centre=centre, options=to_options(self.config.map, ApertureMassOptions)
        )
        peaks = find_peaks(mass_map, to_options(self.config.peaks, PeakOptions))
        self.log.info("%d galaxies, %d peaks", len(sample), len(peaks))
        return Struct(
            massMap=mass_map.to_hdulist(), peaks=peaks, picture=draw_mass_map(mass_map, peaks)
        )
