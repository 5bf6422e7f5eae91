"""Aperture-mass maps and their peaks (step mass_map)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.data.errors import MissingInputError
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.maps.aperture_mass import ApertureMassOptions, make_aperture_mass_map
from skymill.lensing.maps.convergence import (
    ConvergenceMap,
    ConvergenceOptions,
    make_convergence_map,
)
from skymill.lensing.maps.peaks import PeakOptions, find_peaks
from skymill.lensing.maps.rotation import RotationOptions, judge_peaks, make_rotated_maps
from skymill.qa.mass_figures import draw_convergence, draw_mass_map
from skymill.qa.mass_overlays import (
    Background,
    Contours,
    draw_overlay,
    mass_contours,
    read_background,
    read_contours,
)
from skymill.qa.pictures import decode_png
from skymill.tasks._options import options_field, to_options

__all__ = ["MassMapConfig", "MassMapConnections", "MassMapTask", "read_xray"]


class MassMapConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `MassMapTask`."""

    shearCatalog = cT.Input(
        doc="Calibrated shears.",
        name="shearCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    colorPicture = cT.Input(
        doc="Colour picture for the overlay.",
        name="exportColor",
        storageClass="SkymillPicture",
        dimensions=("skymap", "tract"),
        minimum=0,
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
    convergenceMap = cT.Output(
        doc="Convergence: Kaiser-Squires and Wiener filter, E and B, with their noise.",
        name="convergenceMap",
        storageClass="SkymillFits",
        dimensions=("instrument", "skymap", "tract"),
    )
    convergencePicture = cT.Output(
        doc="The convergence maps.",
        name="convergenceMapPicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )
    overlay = cT.Output(
        doc="Contours of mass (and X-rays) over the colour picture, or over the convergence.",
        name="massMapOverlay",
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
        doc="Only galaxies with a point redshift above it (that of the cluster plus a margin) or "
        "without one; 0 takes all.",
        default=0.0,
    )
    seed = Field(
        dtype=int, doc="Seed of the turned shapes, with the number of the tract.", default=1
    )
    xrayFile = Field(
        dtype=str, doc="FITS image of the X-rays, whose contours are laid over.", optional=True
    )
    map = options_field(ApertureMassOptions, "Grid, apertures, filter.")
    peaks = options_field(PeakOptions, "What counts as a peak.")
    rotation = options_field(RotationOptions, "Maps of shapes turned at random.")
    convergence = options_field(ConvergenceOptions, "Grid and regularisation of the convergence.")


class MassMapTask(PipelineTask):
    """Map the aperture mass and the convergence, and list the peaks."""

    ConfigClass = MassMapConfig
    _DefaultName = "massMap"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Run with a seed made of the tract, and with the X-rays read from their file."""
        inputs = butlerQC.get(inputRefs)
        inputs.setdefault("colorPicture", None)
        if self.config.xrayFile is not None:
            inputs["xray"] = read_xray(self.config.xrayFile)
        tract = int(butlerQC.quantum.dataId["tract"])
        butlerQC.put(self.run(**inputs, tract=tract), outputRefs)

    def run(
        self,
        shearCatalog: Table,
        colorPicture: bytes | None = None,
        xray: Contours | None = None,
        tract: int = 0,
    ) -> Struct:
        """Make the maps.

        Parameters
        ----------
        shearCatalog : astropy.table.Table
            Schema ``shearCatalog``.
        colorPicture : bytes, optional
            PNG with its place on the sky.
        xray : Contours, optional
            Contours of the X-rays.
        tract : int
            Part of the seed.

        Returns
        -------
        lsst.pipe.base.Struct
            ``massMap``, ``convergenceMap`` (HDUList), ``peaks`` (schema ``massMapPeaks``),
            ``picture``, ``convergencePicture``, ``overlay`` (PNG).
        """
        sample = self._select(shearCatalog)
        centre = None
        if self.config.centreRa is not None and self.config.centreDec is not None:
            centre = (self.config.centreRa, self.config.centreDec)
        rng = np.random.default_rng([self.config.seed, tract])
        mass_map = make_aperture_mass_map(
            sample, centre=centre, options=to_options(self.config.map, ApertureMassOptions)
        )
        peak_options = to_options(self.config.peaks, PeakOptions)
        peaks = find_peaks(mass_map, peak_options)
        rotation = to_options(self.config.rotation, RotationOptions)
        if rotation.n_rotations > 0:
            rotated = make_rotated_maps(
                sample, mass_map, rng=rng, options=rotation, peaks=peak_options
            )
            peaks = judge_peaks(peaks, mass_map, rotated)
        convergence = make_convergence_map(
            sample, rng=rng, centre=centre,
            options=to_options(self.config.convergence, ConvergenceOptions),
        )  # fmt: skip
        self.log.info("%d galaxies, %d peaks", len(sample), len(peaks))
        background = _background(colorPicture, convergence)
        contours = [mass_contours(mass_map), *([xray] if xray is not None else [])]
        return Struct(
            massMap=mass_map.to_hdulist(),
            peaks=peaks,
            picture=draw_mass_map(mass_map, peaks),
            convergenceMap=convergence.to_hdulist(),
            convergencePicture=draw_convergence(convergence),
            overlay=draw_overlay(background, contours, mark=centre),
        )

    def _select(self, shearCatalog: Table) -> ShearSample:
        """The galaxies to map."""
        use = np.asarray(shearCatalog["use"], bool)
        if self.config.minZ > 0:
            # Most of those without a redshift lie behind the cluster.
            z = np.asarray(shearCatalog["z_phot"])
            use &= np.isnan(z) | (z > self.config.minZ)
        table = shearCatalog[use]
        sample, _ = ShearSample.from_columns(
            ra=table["ra"], dec=table["dec"], g1=table["g1"], g2=table["g2"], weight=table["weight"]
        )
        return sample


def _background(picture: bytes | None, convergence: ConvergenceMap) -> Background:
    """The colour picture if it says where it is, else the convergence."""
    if picture is not None and decode_png(picture)[1] is not None:
        return read_background(picture)
    return Background(convergence.wiener_e, convergence.wcs)


def read_xray(path: str) -> Contours:
    """Contours of an X-ray image.

    Parameters
    ----------
    path : str
        FITS file.

    Returns
    -------
    Contours
        Its lines.

    Raises
    ------
    MissingInputError
        If there is no such file.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"massMap:xrayFile: there is no file {path}")
    with fits.open(path, memmap=False) as hdus:
        return read_contours(hdus, label="X-rays", what=path)
