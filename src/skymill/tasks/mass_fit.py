"""The cluster's mass (step mass_fit)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.data.errors import ConfigError
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.cosmology import CosmologyOptions
from skymill.lensing.maps.peaks import best_peak, distinct_peaks
from skymill.lensing.masses.halo_fit import HaloFitOptions, LensPosition, fit_halos
from skymill.lensing.masses.halo_profiles import HaloOptions
from skymill.lensing.masses.mass_fit import MassFitOptions, fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions
from skymill.photoz.storage import match_pz
from skymill.qa.mass_figures import draw_halo_fit, draw_mass_fit
from skymill.tasks._options import options_field, to_options

__all__ = ["MassFitConfig", "MassFitConnections", "MassFitTask"]


class MassFitConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `MassFitTask`."""

    shearCatalog = cT.Input(
        doc="Calibrated shears.",
        name="shearCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    photoz = cT.Input(
        doc="Redshifts with p(z).",
        name="photoz",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    peaks = cT.Input(
        doc="Peaks of the mass map.",
        name="massMapPeaks",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    massFit = cT.Output(
        doc="Mass with its errors.",
        name="massFit",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    profile = cT.Output(
        doc="Shear profile.",
        name="massProfile",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    picture = cT.Output(
        doc="Profile and bootstrap.",
        name="massFitPicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )
    halos = cT.Output(
        doc="Halos fitted together, with free concentrations.",
        name="massHalos",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    halosPicture = cT.Output(
        doc="Distributions of the parameters of the halos.",
        name="massHalosPicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )


class MassFitConfig(PipelineTaskConfig, pipelineConnections=MassFitConnections):
    """Options of `MassFitTask`."""

    zLens = Field(dtype=float, doc="Redshift of the cluster; must be set.", default=-1.0)
    centreRa = Field(
        dtype=float, doc="Centre [deg]; the highest E-mode peak if unset.", optional=True
    )
    centreDec = Field(
        dtype=float, doc="Centre [deg]; the highest E-mode peak if unset.", optional=True
    )
    seed = Field(dtype=int, doc="Seed of the bootstrap, with the number of the tract.", default=1)
    nHalos = Field(
        dtype=int,
        doc="Halos of the joint fit: the centre, and the highest further peaks of the mass map.",
        default=1,
        check=lambda n: n >= 1,
    )
    haloSeparation = Field(
        dtype=float, doc="Least distance of two of these peaks [arcmin].", default=3.0
    )
    maxFalse = Field(
        dtype=float,
        doc="Further peaks must have a smaller mean number of noise peaks as high.",
        default=0.1,
    )
    joint = options_field(HaloFitOptions, "Priors and sampling of the joint fit.")
    sources = options_field(SourceOptions, "Radial range, redshifts, members among the sources.")
    halo = options_field(HaloOptions, "Concentration, truncation, miscentring.")
    fit = options_field(MassFitOptions, "Search, errors, profile.")
    cosmology = options_field(CosmologyOptions, "The universe.")


class MassFitTask(PipelineTask):
    """Fit an NFW halo to the shear around the cluster's centre."""

    ConfigClass = MassFitConfig
    _DefaultName = "massFit"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Run with a seed made of the tract."""
        inputs = butlerQC.get(inputRefs)
        tract = int(butlerQC.quantum.dataId["tract"])
        butlerQC.put(self.run(**inputs, tract=tract), outputRefs)

    def run(self, shearCatalog: Table, photoz: Table, peaks: Table, tract: int = 0) -> Struct:
        """Fit the mass.

        Parameters
        ----------
        shearCatalog, photoz, peaks : astropy.table.Table
            Schemas ``shearCatalog``, ``photoz``, ``massMapPeaks``.
        tract : int
            Part of the seed.

        Returns
        -------
        lsst.pipe.base.Struct
            ``massFit``, ``profile``, ``halos`` (schemas ``massFit``, ``massProfile``,
            ``massHalos``), ``picture``, ``halosPicture`` (PNG).
        """
        if self.config.zLens <= 0:
            raise ConfigError("massFit needs the cluster's redshift: set massFit:zLens")
        table = shearCatalog[np.asarray(shearCatalog["use"], bool)]
        pz, z_grid = match_pz(photoz, table)
        sample, _ = ShearSample.from_columns(
            ra=table["ra"],
            dec=table["dec"],
            g1=table["g1"],
            g2=table["g2"],
            weight=table["weight"],
            z=table["z_phot"],
            pz=pz,
            z_grid=z_grid,
            mag=table["mag"],
            keep_unknown_z=True,
        )
        if self.config.centreRa is not None and self.config.centreDec is not None:
            centre = (float(self.config.centreRa), float(self.config.centreDec))
        else:
            centre = best_peak(peaks)
        rng = np.random.default_rng([self.config.seed, tract])
        sources = to_options(self.config.sources, SourceOptions)
        halo = to_options(self.config.halo, HaloOptions)
        cosmology = to_options(self.config.cosmology, CosmologyOptions)
        fit = fit_nfw_mass(
            sample, z_lens=self.config.zLens, centre=centre, rng=rng, sources=sources, halo=halo,
            options=to_options(self.config.fit, MassFitOptions), cosmology=cosmology,
        )  # fmt: skip
        row = fit.table[0]
        self.log.info("M200 = %.3e +- %.1e Msun", row["m200"], row["m200_err"])
        halos = fit_halos(
            sample, self._lenses(centre, peaks), rng=rng, sources=sources,
            halo=replace(halo, miscentring_mpc=0.0), cosmology=cosmology,
            options=to_options(self.config.joint, HaloFitOptions),
        )  # fmt: skip
        drawn = len(halos.chain) or len(halos.bootstrap)
        return Struct(
            massFit=fit.table, profile=fit.profile, picture=draw_mass_fit(fit),
            halos=halos.table, halosPicture=draw_halo_fit(halos) if drawn else b"",
        )  # fmt: skip

    def _lenses(self, centre: tuple[float, float], peaks: Table) -> list[LensPosition]:
        """The centre and the highest peaks away from it that noise hardly makes."""
        wanted = self.config.nHalos - 1
        lenses = [LensPosition(*centre, self.config.zLens)]
        if wanted:
            unlikely = peaks[~(np.asarray(peaks["n_false"]) > self.config.maxFalse)]
            away = distinct_peaks(
                unlikely, number=wanted, separation_arcmin=self.config.haloSeparation, taken=centre
            )
            lenses += [LensPosition(*place, self.config.zLens) for place in away]
        return lenses
