"""Steps from the magnitudes of a reference catalogue to those of a camera."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

__all__ = ["CatalogueTerm", "ColourTerm", "find_colour_term"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ColourTerm:
    """Step from the reference's system to the instrument's.

    ``m_instrument = m_reference + c0 + c1 colour + c2 colour^2`` within a range of colour.

    Parameters
    ----------
    c0, c1, c2 : float [mag]
        Coefficients.
    low, high : float [mag]
        Range of colour in which the term holds; stars outside do not serve.
    """

    c0: float
    c1: float
    c2: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def magnitude_offset(self, colour: Float64Array) -> Float64Array:
        """What to add to the reference's magnitude.

        Parameters
        ----------
        colour : (n,) float64 [mag]
            Colours in the reference's system.

        Returns
        -------
        (n,) float64 [mag]
            Offset; NaN outside the range.
        """
        inside = (colour >= self.low) & (colour <= self.high)
        return np.where(inside, self.c0 + colour * (self.c1 + colour * self.c2), np.nan)

    def slope(self, colour: Float64Array) -> Float64Array:
        """Change of the offset for one magnitude of colour.

        Parameters
        ----------
        colour : (n,) float64 [mag]
            Colours in the reference's system.

        Returns
        -------
        (n,) float64
            Derivative.
        """
        return self.c1 + 2.0 * self.c2 * colour


@dataclass(frozen=True)
class CatalogueTerm:
    """The colour term of one band of a camera against one catalogue.

    Parameters
    ----------
    primary, secondary : str
        The catalogue's band that stands for the camera's, and the one subtracted for the colour.
    term : ColourTerm
        The polynomial.
    """

    primary: str
    secondary: str
    term: ColourTerm

    def transform(
        self,
        flux: Float64Array,
        flux_err: Float64Array,
        secondary: Float64Array,
        secondary_err: Float64Array,
    ) -> tuple[Float64Array, Float64Array]:
        """Fluxes in the camera's system.

        Parameters
        ----------
        flux, flux_err, secondary, secondary_err : (n,) float64 [nJy]
            Fluxes in the catalogue's two bands. An unknown error (NaN) stays unknown.

        Returns
        -------
        flux, flux_err : (n,) float64 [nJy]
            NaN where the colour is unknown or out of the range of the term.
        """
        good = (flux > 0) & (secondary > 0)
        a, b = np.where(good, flux, 1.0), np.where(good, secondary, 1.0)
        colour = np.where(good, -2.5 * np.log10(a / b), np.nan)
        factor = 10.0 ** (-0.4 * self.term.magnitude_offset(colour))
        slope = self.term.slope(colour)
        relative = np.hypot((1.0 + slope) * flux_err / a, slope * np.nan_to_num(secondary_err) / b)
        return flux * factor, flux * factor * relative


@functools.cache
def _facts() -> dict[str, dict[str, dict[str, CatalogueTerm]]]:
    path = resources.files("skymill.calibrate") / "tables" / "colour_terms.yaml"
    read = yaml.safe_load(path.read_text(encoding="utf-8"))

    def pack(row: dict[str, float | str]) -> CatalogueTerm:
        numbers = {name: float(row[name]) for name in ("c0", "c1", "c2", "low", "high")}
        return CatalogueTerm(str(row["primary"]), str(row["secondary"]), ColourTerm(**numbers))

    return {
        camera: {
            catalogue: {str(band): pack(row) for band, row in bands.items()}
            for catalogue, bands in catalogues.items()
        }
        for camera, catalogues in read.items()
    }


def find_colour_term(catalogue: str, band: str, *, camera: str = "decam") -> CatalogueTerm | None:
    """The known colour term of a band.

    Parameters
    ----------
    catalogue : str
        Name of the reference catalogue; ``ps1_dr2`` and ``sdss_dr12_r`` are those of ``ps1`` and
        ``sdss``.
    band : str
        Band of the camera.
    camera : str
        Camera, in any case.

    Returns
    -------
    CatalogueTerm or None
        None where no term is known: the catalogue's magnitudes are then taken as they are.
    """
    catalogues = _facts().get(camera.lower(), {})
    for name in (catalogue, catalogue.split("_")[0]):
        if name in catalogues:
            return catalogues[name].get(band)
    return None
