"""Photometric redshifts (step photo_z)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT
from numpy.typing import NDArray

from skymill.calibrate.catalogue_export import bands_of, catalogue_fluxes
from skymill.calibrate.match import match_sky
from skymill.data.catalogue_files import find_column, read_catalogue
from skymill.data.errors import ConfigError
from skymill.data.tables import load_schema
from skymill.photoz.estimate import PhotozOptions, estimate_photoz
from skymill.photoz.metrics import MetricOptions, measure_photoz
from skymill.photoz.training import TrainingOptions, train_zero_points, zero_point_entries
from skymill.tasks._options import options_field, to_options

__all__ = ["PhotoZConfig", "PhotoZConnections", "PhotoZTask"]


class PhotoZConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `PhotoZTask`."""

    inputCatalog = cT.Input(
        doc="Calibrated catalogue.",
        name="calibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="Redshifts with p(z).",
        name="photoz",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    metrics = cT.Output(
        doc="Photometric against spectroscopic redshifts.",
        name="photozMetrics",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.specCatalog:
            del self.metrics


class PhotoZConfig(PipelineTaskConfig, pipelineConnections=PhotoZConnections):
    """Options of `PhotoZTask`."""

    bands = ListField(
        dtype=str, doc="Bands; empty takes all of u, g, r, i, z, Y in the catalogue.", default=[]
    )
    galaxiesOnly = Field(dtype=bool, doc="Leave out stars and unclassified objects.", default=True)
    photoz = options_field(PhotozOptions, "Templates, prior, grid.")
    specCatalog = Field(
        dtype=str,
        doc="File with spectroscopic redshifts (columns ra, dec [deg] and z or z_spec), for the "
        "metrics and the training; empty for none.",
        default="",
    )
    specRadius = Field(dtype=float, doc="Of a match with a spectrum [arcsec].", default=0.5)
    trainZeroPoints = Field(
        dtype=bool,
        doc="Train the zero points of the templates on half of the spectra; the metrics are those "
        "of the other half.",
        default=False,
    )
    training = options_field(TrainingOptions, "Training of the zero points.")
    metrics = options_field(MetricOptions, "Samples and outliers of the metrics.")
    seed = Field(dtype=int, doc="Seed of the choice of the halves.", default=1)

    def validate(self) -> None:
        """Training needs spectra."""
        super().validate()
        if self.trainZeroPoints and not self.specCatalog:
            raise ConfigError("trainZeroPoints needs specCatalog: a file with ra, dec and z")


class PhotoZTask(PipelineTask):
    """Fit templates to the galaxies' fluxes."""

    ConfigClass = PhotoZConfig
    _DefaultName = "photoZ"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the spectroscopic redshifts, then run."""
        inputs = butlerQC.get(inputRefs)
        if self.config.specCatalog:
            inputs["spectra"] = read_catalogue(self.config.specCatalog)
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(self, inputCatalog: Table, spectra: Table | None = None) -> Struct:
        """Estimate the redshifts.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``calibratedCatalog``.
        spectra : astropy.table.Table, optional
            Positions ``ra``, ``dec`` and redshifts ``z`` or ``z_spec``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``photoz``; with spectra ``metrics``: ``photozMetrics``.
        """
        bands = self._bands(bands_of(inputCatalog))
        keep = np.asarray(inputCatalog["is_galaxy"], bool) | (not self.config.galaxiesOnly)
        if not keep.any():
            raise NoWorkFound("the catalogue has no galaxy")
        galaxies = inputCatalog[keep]
        flux, err = catalogue_fluxes(galaxies, bands)
        options = to_options(self.config.photoz, PhotozOptions)
        truth = np.full(len(galaxies), np.nan)
        if spectra is not None:
            truth = self._truth(galaxies, spectra)
        graded = truth
        if self.config.trainZeroPoints:
            options, graded = self._train(flux, err, truth, bands, options)
        table = estimate_photoz(flux, err, bands=bands, options=options)
        table.add_column(np.asarray(galaxies["ID"]).astype(str), name="ID", index=0)
        if table.meta["bands_absent"]:
            self.log.warning("measured nowhere, and left out: %s", table.meta["bands_absent"])
        self.log.info(
            "%d galaxies, %d without an estimate", len(table), int(np.isnan(table["z_phot"]).sum())
        )
        if spectra is None:
            return Struct(outputCatalog=load_schema("photoz").apply(table))
        table["spec_z"] = truth
        metrics = measure_photoz(
            table, graded, options=to_options(self.config.metrics, MetricOptions)
        )
        return Struct(outputCatalog=load_schema("photoz").apply(table), metrics=metrics)

    def _bands(self, available: list[str]) -> list[str]:
        bands = list(self.config.bands) or [b for b in "ugrizY" if b in available]
        missing = [b for b in bands if b not in available]
        if missing or len(bands) < 2:
            raise ConfigError(
                f"photo-z need at least 2 bands of the catalogue ({', '.join(available)}); got "
                f"{', '.join(bands) or 'none'}; set bands"
            )
        return bands

    def _truth(self, galaxies: Table, spectra: Table) -> NDArray[np.float64]:
        """Spectroscopic redshift of each galaxy, NaN without one."""
        z, ra, dec = (
            find_column(spectra, names, meaning=what, option="specCatalog")
            for names, what in (
                (["z_spec", "z"], "spectroscopic redshift"),
                (["ra"], "right ascension"),
                (["dec"], "declination"),
            )
        )
        pairs = match_sky(
            galaxies["ra"], galaxies["dec"], ra, dec, radius_arcsec=self.config.specRadius
        )
        truth = np.full(len(galaxies), np.nan)
        truth[pairs.first] = np.where(z[pairs.second] > 0, z[pairs.second], np.nan)
        self.log.info("%d galaxies have a spectroscopic redshift", int(np.isfinite(truth).sum()))
        return truth

    def _train(
        self,
        flux: NDArray[np.float64],
        err: NDArray[np.float64],
        truth: NDArray[np.float64],
        bands: list[str],
        options: PhotozOptions,
    ) -> tuple[PhotozOptions, NDArray[np.float64]]:
        """Options with trained zero points, and the redshifts that did not train them."""
        half = np.random.default_rng(self.config.seed).random(len(truth)) < 0.5
        trained = train_zero_points(
            flux, err, np.where(half, truth, np.nan), bands=bands, photoz=options,
            options=to_options(self.config.training, TrainingOptions),
        )  # fmt: skip
        entries = zero_point_entries(trained)
        self.log.info("trained zero points: %s", ", ".join(entries))
        return dataclasses.replace(options, zero_points=entries), np.where(half, np.nan, truth)
