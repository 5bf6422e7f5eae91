"""What the tasks that compare with reference catalogues share."""

from __future__ import annotations

import dataclasses
from typing import Any

from lsst.pex.config import Config, Field
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.colour_terms import CatalogueTerm
from skymill.calibrate.reference import ReferenceOptions
from skymill.calibrate.synthetic import choose_colour_term
from skymill.tasks._options import options_field, to_options

__all__ = ["ReferencesConfig", "reference_catalogue"]


def reference_catalogue(doc: str, name: str) -> Any:
    """The connection to the shards of a reference catalogue.

    Parameters
    ----------
    doc : str
        What it serves for.
    name : str
        Dataset type, or a template of the connections.

    Returns
    -------
    lsst.pipe.base.connectionTypes.PrerequisiteInput
        The connection; that there is no shard is told by the science, with its own words.
    """
    return cT.PrerequisiteInput(
        doc=doc,
        name=name,
        storageClass="SkymillTable",
        dimensions=("htm7",),
        deferLoad=True,
        multiple=True,
        minimum=0,
    )


class ReferencesConfig(Config):
    """Which stars of an astrometric and a photometric catalogue serve, and their magnitudes."""

    applyColorTerms = Field[bool](
        doc="Turn the photometric catalogue's magnitudes into the camera's, where that is known.",
        default=True,
    )
    camera = Field[str](doc="Camera whose colour terms are used.", default="decam")
    astrometryRefField = Field[str](
        doc="Flux of the astrometric catalogue; empty: astrometryReferences.flux_field.",
        default="",
    )
    photometryRefField = Field[str](
        doc="Flux of the photometric catalogue; empty: photometryReferences.flux_field.",
        default="",
    )
    astrometryReferences = options_field(ReferenceOptions, "Reference stars of the astrometry.")
    photometryReferences = options_field(ReferenceOptions, "Reference stars of the photometry.")

    def photometric_catalogue(self) -> str:
        """Dataset type of the photometric catalogue."""
        raise NotImplementedError

    def colour_term(self, band: str) -> CatalogueTerm | None:
        """The colour term of the photometric catalogue in a band, known or computed, if wanted."""
        if not self.applyColorTerms:
            return None
        return choose_colour_term(self.photometric_catalogue(), band, camera=self.camera)

    def references(self) -> tuple[ReferenceOptions, ReferenceOptions]:
        """Choice of the astrometric and the photometric stars, with their flux fields."""
        return (
            dataclasses.replace(
                to_options(self.astrometryReferences, ReferenceOptions),
                flux_field=self.astrometryRefField or self.astrometryReferences.flux_field,
            ),
            dataclasses.replace(
                to_options(self.photometryReferences, ReferenceOptions),
                flux_field=self.photometryRefField or self.photometryReferences.flux_field,
            ),
        )

    def setDefaults(self) -> None:
        """The published choice: Gaia's G, and no photometric reference fainter than 22 mag."""
        super().setDefaults()
        self.astrometryReferences.flux_field = "phot_g_mean"
        self.photometryReferences.mag_max = 22.0
