"""Which model a source deserves: penalised chi-squared, by the rules of the Legacy Surveys."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skymill.model.sources import SourceType

__all__ = ["choice_variance", "select_model", "try_galaxies"]

#: Parameters of each model apart from the fluxes: what chi-squared must win for them.
_PENALTY = {
    SourceType.PSF: 2,
    SourceType.REX: 3,
    SourceType.EXP: 5,
    SourceType.DEV: 5,
    SourceType.SER: 6,
}
#: A source is real if its best model wins so much beyond its penalty.
_DETECTION = 25.0
#: A galaxy with ellipticity must win 3 sigma and its three parameters over a round one.
_GALAXY = 9.0 + 3.0
#: A free index must win so much over a fixed one.
_INDEX = 25.0
#: Sources that win more are tried as galaxies in any case.
_BRIGHT = 400.0


def try_galaxies(won: Mapping[SourceType, float]) -> bool:
    """Whether DEV, EXP and SER are worth a fit.

    Parameters
    ----------
    won : mapping
        Chi-squared that PSF and REX win over no source.

    Returns
    -------
    bool
        If the round galaxy is better than the point by more than its parameter, or the source is
        bright.
    """
    psf, rex = won.get(SourceType.PSF, 0.0), won.get(SourceType.REX, 0.0)
    return rex > psf + 1.0 or max(psf, rex) > _BRIGHT


def select_model(won: Mapping[SourceType, float], *, fraction: float = 0.01) -> SourceType | None:
    """The model that a source gets.

    Parameters
    ----------
    won : mapping
        Chi-squared that each model that was tried wins over no source.
    fraction : float
        Part of the chi-squared of the point source that a richer model must win: PSFs are not
        perfect.

    Returns
    -------
    SourceType or None
        None if no model is significant.

    References
    ----------
    Dey et al. 2019, AJ 157, 168, section 8.1.
    """
    if not won or max(won[kind] - _PENALTY[kind] for kind in won) < _DETECTION:
        return None
    if SourceType.REX not in won:
        if SourceType.PSF in won:
            return SourceType.PSF
        return max(won, key=lambda kind: won[kind])
    psf = won.get(SourceType.PSF, 0.0)
    margin = fraction * psf
    kept = SourceType.PSF
    if SourceType.PSF not in won or won[SourceType.REX] - psf > max(
        _PENALTY[SourceType.REX] - _PENALTY[SourceType.PSF], margin
    ):
        kept = SourceType.REX
    galaxies = {kind: won[kind] for kind in (SourceType.EXP, SourceType.DEV) if kind in won}
    if not galaxies:
        return kept
    best = max(galaxies, key=lambda kind: galaxies[kind])
    if galaxies[best] - won[kept] <= max(_GALAXY, margin):
        return kept
    kept = best
    if SourceType.SER in won and won[SourceType.SER] - won[kept] > _INDEX:
        kept = SourceType.SER
    return kept


def choice_variance(
    chosen: SourceType,
    won: Mapping[SourceType, float],
    fluxes: Mapping[SourceType, NDArray[np.float64]],
    variances: Mapping[SourceType, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Variance of the fluxes of a galaxy because its model may be the wrong one.

    The rules keep the simpler model where a richer one wins little, whatever their fluxes are. Each
    galaxy model that was tried is as probable as its chi-squared and its parameters make it
    (Akaike); the mean square of what they differ from the chosen one, and what their own variances
    are larger than its, is the variance.

    Parameters
    ----------
    chosen : SourceType
        The model that was chosen.
    won : mapping
        Chi-squared that each model wins over no source.
    fluxes, variances : mapping
        (n_band,) float64 [nanomaggy, nanomaggy2] of each.

    Returns
    -------
    (n_band,) float64 [nanomaggy2]
        In addition to that of the chosen model. 0 for points: a galaxy that is one by the rules is
        rather the error of the PSF.

    References
    ----------
    Buckland, Burnham & Augustin 1997, Biometrics 53, 603, section 2.
    """
    out = np.zeros_like(fluxes[chosen])
    if chosen == SourceType.PSF:
        return out
    kinds = [kind for kind in won if kind != SourceType.PSF]
    score = np.array([0.5 * won[kind] - _PENALTY[kind] for kind in kinds])
    weight = np.exp(score - score.max())
    wider = np.zeros_like(out)
    for kind, share in zip(kinds, weight / weight.sum(), strict=True):
        out += share * (fluxes[kind] - fluxes[chosen]) ** 2
        wider += share * (variances[kind] - variances[chosen])
    return out + np.maximum(wider, 0.0)
