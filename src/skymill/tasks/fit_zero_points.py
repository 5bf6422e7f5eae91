"""Zero points of the catalogue's bands (step photometric_calibration)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astropy.table import Table
from lsst.pex.config import DictField, Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.catalogue_export import apply_zero_points, bands_of
from skymill.calibrate.extinction import COEFFICIENTS, survey_of
from skymill.calibrate.foreign_stars import compare_photometry
from skymill.calibrate.stellar_locus import StellarLocusOptions
from skymill.calibrate.zero_points import ZeroPointOptions, fit_zero_points
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import reference_catalogue

__all__ = ["FitZeroPointsConfig", "FitZeroPointsConnections", "FitZeroPointsTask"]


class FitZeroPointsConnections(
    PipelineTaskConnections,
    dimensions=("instrument", "skymap", "tract"),
    defaultTemplates={"photoRefCat": "ps1", "compareRefCat": "sdss"},
):
    """Datasets of `FitZeroPointsTask`."""

    inputCatalog = cT.Input(
        doc="Catalogue without extinction.",
        name="dereddenedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    references = reference_catalogue("Reference catalogue.", "{photoRefCat}")
    comparison = reference_catalogue(
        "Another catalogue to compare the result with.", "{compareRefCat}"
    )
    outputCatalog = cT.Output(
        doc="Calibrated catalogue.",
        name="calibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    zeroPoints = cT.Output(
        doc="Zero point of each band.",
        name="zeroPoints",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    zeroPointStars = cT.Output(
        doc="Residuals of the matched stars.",
        name="zeroPointStars",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    comparedStars = cT.Output(
        doc="Differences of the calibrated stars from the other catalogue.",
        name="photometryComparisonStars",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    compared = cT.Output(
        doc="Mean difference of each band from the other catalogue.",
        name="photometryComparison",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.doCompare:
            del self.comparison
            del self.compared
            del self.comparedStars


class FitZeroPointsConfig(PipelineTaskConfig, pipelineConnections=FitZeroPointsConnections):
    """Options of `FitZeroPointsTask`."""

    survey = Field(
        dtype=str,
        doc="Survey of the reference, whose colour terms and extinction coefficients are used: "
        + ", ".join(COEFFICIENTS)
        + ". Empty: by the name of the catalogue; one of your own is in the camera's system.",
        default="",
    )
    bandMap = DictField(
        keytype=str,
        itemtype=str,
        doc="The reference's band for a band of ours, where they differ.",
        default={"Y": "y"},
    )
    applyColorTerms = Field(
        dtype=bool,
        doc="Turn the reference's magnitudes into the camera's, where that is known; "
        "zeroPoint.colour_terms replace the known ones.",
        default=True,
    )
    camera = Field(dtype=str, doc="Camera of the colour terms and filters.", default="decam")
    doCompare = Field(
        dtype=bool,
        doc="Compare the result with the catalogue connections.compareRefCat; nothing is changed.",
        default=False,
    )
    zeroPoint = options_field(ZeroPointOptions, "Stars, match, colour terms.")
    locus = options_field(StellarLocusOptions, "Stellar locus of all bands.")


class FitZeroPointsTask(PipelineTask):
    """Compare stars with the reference and with the stellar locus, all bands together."""

    ConfigClass = FitZeroPointsConfig
    _DefaultName = "fitZeroPoints"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the shards of the reference catalogue, then run."""
        inputs = butlerQC.get(inputRefs)
        for name in ("references", "comparison"):
            inputs[name] = [handle.get() for handle in inputs.get(name, [])]
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(
        self,
        inputCatalog: Table,
        references: Sequence[Table] = (),
        comparison: Sequence[Table] = (),
    ) -> Struct:
        """Fit and apply the zero points.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``dereddenedCatalog``.
        references : sequence of astropy.table.Table
            Shards of the reference catalogue.
        comparison : sequence of astropy.table.Table
            Shards of the catalogue to compare with.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``calibratedCatalog``; ``zeroPoints`` and ``zeroPointStars``:
            schemas of these names; with ``doCompare`` ``compared`` and ``comparedStars`` of the
            same two.
        """
        found = fit_zero_points(
            inputCatalog[inputCatalog["is_star"]],
            references,
            bands=bands_of(inputCatalog),
            survey=self.config.survey or survey_of(str(self.config.connections.photoRefCat)),
            band_map=dict(self.config.bandMap),
            name=self.config.connections.photoRefCat,
            options=to_options(self.config.zeroPoint, ZeroPointOptions),
            locus=to_options(self.config.locus, StellarLocusOptions),
            camera=self.config.camera if self.config.applyColorTerms else "",
            locus_camera=self.config.camera if self.config.applyColorTerms else "",
        )
        table = found.table
        for row in table:
            if row["message"]:
                self.log.warning("band %s stays as it is: %s", row["band"], row["message"])
        offsets = {str(r["band"]): float(r["offset"]) for r in table}
        out = Struct(
            outputCatalog=apply_zero_points(inputCatalog, offsets),
            zeroPoints=table,
            zeroPointStars=found.stars,
        )
        if self.config.doCompare:
            catalogue = str(self.config.connections.compareRefCat)
            other = compare_photometry(
                out.outputCatalog[out.outputCatalog["is_star"]],
                comparison,
                bands=bands_of(inputCatalog),
                survey=survey_of(catalogue),
                name=catalogue,
                camera=self.config.camera,
                options=to_options(self.config.zeroPoint, ZeroPointOptions),
            )
            out.compared, out.comparedStars = other.table, other.stars
        return out
