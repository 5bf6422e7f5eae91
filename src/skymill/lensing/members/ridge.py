"""The ridge of red galaxies in the space of colours: predicted by a template, fitted to members."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from skymill.data.errors import DataError
from skymill.photoz.spectra import load_filters, make_model_fluxes

__all__ = ["Ridge", "choose_colour", "expected_colour", "predict_ridge"]

Float64Array = NDArray[np.float64]

#: Bands whose neighbours may bracket the break.
_ORDER = "griz"
#: A band that a galaxy lacks has this error [mag]: it says nothing.
_NO_BAND = 1e3
#: Prior of the slope of a colour with magnitude, and its width.
_SLOPE, _SLOPE_WIDTH = -0.02, 0.02
#: How far real galaxies are from the template [mag], and how many galaxies the prior scatter is
#: worth.
_TEMPLATE_WIDTH, _SCATTER_WEIGHT = 0.08, 10.0


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Colours of red members as straight lines of their magnitude.

    Parameters
    ----------
    bands : tuple of str
        From blue to red; the colours are those of neighbours.
    reference : str
        Band of the magnitude.
    pivot : float [mag]
        Magnitude at which ``colour`` stands.
    colour, slope, scatter : (n_band - 1,) float64 [mag, 1, mag]
        Colour at the pivot, its change with magnitude, its intrinsic standard deviation.
    """

    bands: tuple[str, ...]
    reference: str
    pivot: float
    colour: Float64Array
    slope: Float64Array
    scatter: Float64Array

    @property
    def n_colours(self) -> int:
        """Number of colours."""
        return len(self.bands) - 1

    def index(self, blue: str, red: str) -> int:
        """Where the colour of two neighbours stands.

        Parameters
        ----------
        blue, red : str
            Neighbours.

        Returns
        -------
        int
            Index into ``colour``.

        Raises
        ------
        DataError
            If they are not neighbours.
        """
        for k, pair in enumerate(pairwise(self.bands)):
            if pair == (blue, red):
                return k
        raise DataError(f"{blue} and {red} are not neighbours among {', '.join(self.bands)}")

    def line(self, magnitude: Float64Array) -> Float64Array:
        """Colours of the ridge.

        Parameters
        ----------
        magnitude : (n,) float64 [mag]
            In the reference band.

        Returns
        -------
        (n_band - 1, n) float64 [mag]
            Colours.
        """
        return self.colour[:, None] + self.slope[:, None] * (magnitude - self.pivot)

    def chi2(self, mag: Float64Array, err: Float64Array) -> Float64Array:
        """Distance of galaxies from the ridge in units of the errors and of the scatter.

        Parameters
        ----------
        mag, err : (n_band, n) float64 [mag]
            Magnitudes and errors; NaN where a galaxy lacks a band.

        Returns
        -------
        (n,) float64
            Chi-square of all colours. Of a galaxy that lacks bands it is the value of the same
            probability; NaN without a colour or without the reference band.
        """
        known = np.isfinite(mag) & np.isfinite(err) & (err > 0)
        magnitude = mag[self.bands.index(self.reference)]
        seen = known[self.bands.index(self.reference)] & (known.sum(axis=0) > 1)
        level = np.where(seen, magnitude, self.pivot)
        colour = -np.diff(np.where(known, mag, level), axis=0)
        variance = np.where(known, err, _NO_BAND) ** 2
        n, k = mag.shape[1], self.n_colours
        covariance = np.zeros((n, k, k))
        i = np.arange(k)
        covariance[:, i, i] = (variance[:-1] + variance[1:] + self.scatter[:, None] ** 2).T
        # Two colours share the band between them.
        covariance[:, i[:-1], i[1:]] = covariance[:, i[1:], i[:-1]] = -variance[1:-1].T
        residual = (colour - self.line(level)).T
        value = np.einsum("ni,ni->n", residual, _solve(covariance, residual))
        fewer = seen & (known.sum(axis=0) < len(self.bands))
        probability = chi2_distribution.sf(value[fewer], known[:, fewer].sum(axis=0) - 1)
        value[fewer] = chi2_distribution.isf(np.maximum(probability, 1e-300), k)
        return np.where(seen, value, np.nan)

    def refine(
        self, mag: Float64Array, err: Float64Array, weight: Float64Array, *, prior: Ridge
    ) -> Ridge:
        """Fit the ridge to weighted galaxies.

        Parameters
        ----------
        mag, err : (n_band, n) float64 [mag]
            Magnitudes and errors; NaN where a galaxy lacks a band.
        weight : (n,) float64
            Probability of membership.
        prior : Ridge
            What the fit is drawn to: colours within 0.08 mag, slopes within 0.02, the scatter with
            the weight of ten galaxies.

        Returns
        -------
        Ridge
            The maximum of the posterior, given the present scatter.
        """
        x = mag[self.bands.index(self.reference)] - self.pivot
        colour, slope, scatter = self.colour.copy(), self.slope.copy(), self.scatter.copy()
        for k in range(self.n_colours):
            y, variance = mag[k] - mag[k + 1], err[k] ** 2 + err[k + 1] ** 2
            use = np.isfinite(y) & np.isfinite(variance) & np.isfinite(x) & (weight > 0)
            x_, y_, v = x[use], y[use], variance[use]
            w = weight[use] / (v + scatter[k] ** 2)
            design = np.array([[w.sum(), (w * x_).sum()], [(w * x_).sum(), (w * x_**2).sum()]])
            right = np.array([(w * y_).sum(), (w * x_ * y_).sum()])
            precision = np.array([_TEMPLATE_WIDTH**-2, _SLOPE_WIDTH**-2])
            design[np.diag_indices(2)] += precision
            right += precision * (prior.colour[k], prior.slope[k])
            colour[k], slope[k] = np.linalg.solve(design, right)
            # One step of the scatter: what of each residual is intrinsic, on average.
            share = scatter[k] ** 2 / (v + scatter[k] ** 2)
            residual = y_ - colour[k] - slope[k] * x_
            own = share**2 * residual**2 + share * v
            total = _SCATTER_WEIGHT * prior.scatter[k] ** 2 + np.sum(weight[use] * own)
            scatter[k] = np.sqrt(total / (_SCATTER_WEIGHT + weight[use].sum()))
        return replace(self, colour=colour, slope=slope, scatter=scatter)


def _solve(matrix: Float64Array, right: Float64Array) -> Float64Array:
    """Solve (n, k, k) systems for (n, k) right sides."""
    return np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0], np.float64)


def choose_colour(z: float, bands: list[str]) -> tuple[str, str]:
    """The two bands that bracket the 4000 Angstrom break.

    Parameters
    ----------
    z : float
        Redshift.
    bands : list of str
        Bands at hand.

    Returns
    -------
    blue, red : str
        Names of the bands.

    Raises
    ------
    DataError
        If there are less than two of g, r, i and z.
    """
    known = [b for b in _ORDER if b in bands]
    if len(known) < 2:
        raise DataError(
            f"a red sequence needs two of the bands g, r, i, z; the catalogue has "
            f"{', '.join(bands) or 'none'}"
        )
    # The break lies between g and r up to z = 0.36, then between r and i, then i and z.
    gap = 1 + int(np.searchsorted([0.36, 0.75], z, side="right"))
    first = max(sum(_ORDER.index(b) < gap for b in known), 1)
    first = min(first, len(known) - 1)
    return known[first - 1], known[first]


def expected_colour(z: float, blue: str, red: str, *, camera: str = "decam") -> float:
    """Colour of the elliptical template.

    Parameters
    ----------
    z : float
        Redshift.
    blue, red : str
        Bands.
    camera : str
        Whose filters.

    Returns
    -------
    float [mag]
        blue - red.
    """
    return float(_template_colours(z, (blue, red), camera)[0])


def _template_colours(z: float, bands: tuple[str, ...], camera: str) -> Float64Array:
    model = make_model_fluxes(
        load_filters(camera, bands), z=np.array([z]), templates=("El_B2004a",), n_interpolate=0
    )
    magnitude = -2.5 * np.log10(model.flux[:, 0, 0].astype(np.float64))
    return np.asarray(-np.diff(magnitude), np.float64)


def predict_ridge(
    z: float, bands: tuple[str, ...], *, key: tuple[str, str], reference: str, pivot: float,
    camera: str = "decam",
) -> Ridge:  # fmt: skip
    """The ridge of the elliptical template, with usual slopes and scatters.

    Parameters
    ----------
    z : float
        Redshift.
    bands : tuple of str
        From blue to red.
    key : (blue, red)
        The colour over the break, whose scatter is the larger: 0.05 mag, 0.03 of the others.
    reference : str
        Band of the magnitude.
    pivot : float [mag]
        Magnitude of the template's colours.
    camera : str
        Whose filters.

    Returns
    -------
    Ridge
        Before any galaxy is looked at.
    """
    colour = _template_colours(z, bands, camera)
    pairs = list(pairwise(bands))
    return Ridge(
        bands=bands,
        reference=reference,
        pivot=pivot,
        colour=colour,
        slope=np.array([_SLOPE if pair == key else 0.5 * _SLOPE for pair in pairs]),
        scatter=np.array([0.05 if pair == key else 0.03 for pair in pairs]),
    )
