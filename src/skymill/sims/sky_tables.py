"""Facts about the real sky: colours of galaxies and stars, counts, motions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

__all__ = [
    "BANDS",
    "GalaxyColours",
    "StarFacts",
    "galaxy_colours",
    "ps1_to_decam",
    "star_facts",
]

Float64Array = NDArray[np.float64]

#: Bands of the simulated sky, in the order of every magnitude array.
BANDS = ("u", "g", "r", "i", "z", "Y")


@dataclass(frozen=True)
class GalaxyColours:
    """AB colours of the CWW and Kinney templates through the DECam filters.

    Parameters
    ----------
    redshift : (nz,) float64
        Grid.
    template : tuple of str
        Names, from early to late: El Sbc Scd Im SB3 SB2.
    minus_i : (n_template, nz, 6) float64 [mag]
        Magnitude in each of `BANDS` minus that in i.
    """

    redshift: Float64Array
    template: tuple[str, ...]
    minus_i: Float64Array

    def colours(self, template: Float64Array, redshift: Float64Array) -> Float64Array:
        """Colours of galaxies between two templates.

        Parameters
        ----------
        template : (n,) float64
            Position in the sequence of templates; 1.3 is 30 % of the way from Sbc to Scd in flux.
        redshift : (n,) float64
            Redshifts.

        Returns
        -------
        (n, 6) float64 [mag]
            Magnitude in each of `BANDS` minus that in i.
        """
        low = np.clip(np.floor(template).astype(int), 0, len(self.template) - 2)
        weight = np.clip(template - low, 0.0, 1.0)[:, None]
        step = self.redshift[1] - self.redshift[0]
        at = np.clip(redshift / step, 0.0, self.redshift.size - 1.001)
        k = at.astype(int)
        f = (at - k)[:, None]
        pair = []
        for t in (low, low + 1):
            pair.append((1.0 - f) * self.minus_i[t, k] + f * self.minus_i[t, k + 1])
        flux = (1.0 - weight) * 10 ** (-0.4 * pair[0]) + weight * 10 ** (-0.4 * pair[1])
        flux /= flux[:, 3:4]
        return np.asarray(-2.5 * np.log10(flux))


@dataclass(frozen=True)
class StarFacts:
    """The stellar locus in Pan-STARRS1 and Gaia magnitudes, and star counts at b = 42 deg.

    Parameters
    ----------
    locus : astropy.table.Table
        ``g_i``, ``g_r``, ``r_i``, ``i_z``, ``z_y``, ``gaia_g_r``, ``g_r_scatter``.
    i_edges, g_i_edges : float64 [mag]
        Edges of the counts.
    per_deg2 : (n_i, n_g_i) float64
        Stars per square degree and bin.
    proper_motion_quantiles : (41,) float64 [mas/yr]
        Quantiles of the total proper motion from 0 to 0.995.
    """

    locus: Table
    i_edges: Float64Array
    g_i_edges: Float64Array
    per_deg2: Float64Array
    proper_motion_quantiles: Float64Array


@functools.cache
def galaxy_colours() -> GalaxyColours:
    """The colours of galaxies, read once."""
    path = resources.files("skymill.sims") / "tables" / "galaxy_colours.npz"
    with path.open("rb") as stream, np.load(stream) as data:
        return GalaxyColours(
            redshift=data["redshift"].astype(np.float64),
            template=tuple(str(t) for t in data["template"]),
            minus_i=data["minus_i"].astype(np.float64),
        )


@functools.cache
def star_facts() -> StarFacts:
    """The facts about stars, read once."""
    folder = resources.files("skymill.sims") / "tables"
    locus = Table.read(str(folder / "stellar_locus.ecsv"))
    with (folder / "star_counts.npz").open("rb") as stream, np.load(stream) as data:
        return StarFacts(
            locus=locus,
            i_edges=data["i_edges"].astype(np.float64),
            g_i_edges=data["g_i_edges"].astype(np.float64),
            per_deg2=data["per_deg2"].astype(np.float64),
            proper_motion_quantiles=data["proper_motion_quantiles"].astype(np.float64),
        )


def ps1_to_decam(ps1: Float64Array) -> Float64Array:
    """DECam magnitudes of stars from Pan-STARRS1 ones.

    Colour terms of obs_decam (averages over the Pickles atlas, S. Huang) for g r i z; for Y the
    z - y slope of z carried on; for u the mean relation u = g + 0.40 + 1.6 (g - i) - 0.28 (g - i)^2
    of halo and disk stars, a stand-in for the metallicity-dependent truth.

    Parameters
    ----------
    ps1 : (n, 5) float64 [mag]
        PS1 g r i z y.

    Returns
    -------
    (n, 6) float64 [mag]
        DECam `BANDS`.
    """
    g, r, i, z, y = ps1.T
    gr, ri, iz, zy = g - r, r - i, i - z, z - y
    g_i = np.clip(g - i, 0.0, 3.5)
    return np.stack(
        [
            g + 0.40 + 1.6 * g_i - 0.28 * g_i**2,
            g + 0.006388 + 0.045875 * gr - 0.004484 * gr**2,
            r - 0.006775 - 0.187304 * ri + 0.018928 * ri**2,
            i + 0.0012204 - 0.282956 * iz - 0.011321 * iz**2,
            z - 0.0087868 - 0.5204795 * zy - 0.057955 * zy**2,
            y - 0.05 * zy,
        ],
        axis=1,
    )
