"""The options of measuring a patch, which its measurement and its forced photometry share."""

from __future__ import annotations

from lsst.pex.config import Config

from skymill.measure.aperture import ApertureOptions
from skymill.measure.centroid import CentroidOptions
from skymill.measure.kron import KronOptions
from skymill.measure.moments import MomentsOptions
from skymill.measure.objects import FlatObjectOptions, ObjectOptions
from skymill.model.galaxy import GalaxyOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["ObjectConfig"]


class ObjectConfig(Config):
    """How the sources of a patch are measured."""

    aperture = options_field(ApertureOptions, "Circles.")
    moments = options_field(MomentsOptions, "Adaptive moments.")
    centroid = options_field(CentroidOptions, "Centroids.")
    kron = options_field(KronOptions, "Kron apertures.")
    galaxy = options_field(GalaxyOptions, "Galaxy models.")
    objects = options_field(FlatObjectOptions, "Star or galaxy, shear shapes.")

    def object_options(self) -> ObjectOptions:
        """The options as the science takes them.

        Returns
        -------
        ObjectOptions
            Those of each measurement.
        """
        flat = to_options(self.objects, FlatObjectOptions)
        return ObjectOptions(
            aperture=to_options(self.aperture, ApertureOptions),
            moments=to_options(self.moments, MomentsOptions),
            centroid=to_options(self.centroid, CentroidOptions),
            kron=to_options(self.kron, KronOptions),
            galaxy=to_options(self.galaxy, GalaxyOptions),
            star_flux_ratio=flat.star_flux_ratio,
            do_shear_shape=flat.do_shear_shape,
        )
