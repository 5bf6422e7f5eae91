"""Galaxy profiles as sums of Gaussians.

The mixtures were fitted by least squares to the exponential profile, smoothly truncated between 3
and 4 half-light radii, and to the de Vaucouleurs profile, truncated between 6 and 8 (the choice
of Hogg & Lang 2013, PASP 125, 719). The flux within any radius is right to 0.3 % and 0.7 % of the
total. Components much narrower than any PSF were joined into one of the same flux.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEV", "EXP", "Profile"]


@dataclass(frozen=True, eq=False)
class Profile:
    """A round profile of unit flux and unit half-light radius.

    Parameters
    ----------
    amplitudes : (n,) float64
        Fluxes of the Gaussians; they add up to 1.
    variances : (n,) float64
        Their variances in half-light radii squared.
    """

    amplitudes: NDArray[np.float64]
    variances: NDArray[np.float64]


def _profile(amplitudes: list[float], variances: list[float]) -> Profile:
    total = np.array(amplitudes)
    return Profile(amplitudes=total / total.sum(), variances=np.array(variances))


EXP = _profile(
    [1.7667709e-02, 8.7400351e-02, 3.5498789e-01, 5.4252633e-01],
    [3.0227e-02, 1.23009190e-01, 4.21547736e-01, 1.42890865e00],
)
DEV = _profile(
    [4.9690470e-02, 9.5961060e-02, 2.0270700e-01, 3.2100255e-01, 3.2950550e-01],
    [2.3156e-03, 1.81138534e-02, 1.07672138e-01, 7.01098389e-01, 5.95003200e00],
)
