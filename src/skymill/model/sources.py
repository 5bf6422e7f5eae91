"""Sources of a release as columns: type, position, fluxes and shape."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError

__all__ = ["N_MODEL", "FitBit", "SourceType", "Sources"]

Float64Array = NDArray[np.float64]

#: Models of the column ``dchisq``: PSF, REX, DEV, EXP, SER.
N_MODEL = 5


class SourceType(enum.IntEnum):
    """Model of a source; the names are those of the column ``type``."""

    PSF = 0
    REX = 1
    EXP = 2
    DEV = 3
    SER = 4


class FitBit(enum.IntFlag):
    """Bits of the column ``fitbits`` that the fit of a blob sets."""

    FORCED_POINTSOURCE = 1 << 0
    FIT_BACKGROUND = 1 << 1
    HIT_RADIUS_LIMIT = 1 << 2
    HIT_SERSIC_LIMIT = 1 << 3
    FROZEN = 1 << 4
    WALKER = 1 << 10
    RUNNER = 1 << 11
    ITERATIVE = 1 << 13


#: Place of each type in ``dchisq``.
DCHISQ_PLACE = {
    SourceType.PSF: 0,
    SourceType.REX: 1,
    SourceType.DEV: 2,
    SourceType.EXP: 3,
    SourceType.SER: 4,
}


@dataclass
class Sources:
    """Columns of n sources.

    Parameters
    ----------
    kind : (n,) int8
        `SourceType`.
    ra, dec : (n,) float64 [deg]
        ICRS positions.
    flux : (n, n_band) float64 [nanomaggy]
        Total fluxes.
    radius : (n,) float64 [arcsec]
        Half-light radius of the major axis; 0 for points.
    e1, e2 : (n,) float64
        Ellipticity (1 - q) / (1 + q) times the cosine and sine of twice the position angle, North
        through East.
    sersic : (n,) float64
        Index of the profile: 1 for REX and EXP, 4 for DEV, 0 for points.
    ra_ivar, dec_ivar : (n,) float64 [1 / deg2]
        Inverse variance, of ra times cos dec and of dec; 0 if not fitted. The same for the other
        parameters, with the inverse square of their units.
    dchisq : (n, 5) float64
        Chi-squared that the models PSF, REX, DEV, EXP, SER win over no source; 0 if not tried.
    fitbits : (n,) int32
        `FitBit`.
    pm_ra, pm_dec : (n,) float64 [mas/yr]
        Proper motion, the first times cos dec; 0 if unknown. Each exposure sees the source at its
        own time.
    epoch : (n,) float64 [d]
        MJD of ``ra`` and ``dec``; used where the source moves.
    """

    kind: NDArray[np.int8]
    ra: Float64Array
    dec: Float64Array
    flux: Float64Array
    radius: Float64Array
    e1: Float64Array
    e2: Float64Array
    sersic: Float64Array
    ra_ivar: Float64Array
    dec_ivar: Float64Array
    flux_ivar: Float64Array
    radius_ivar: Float64Array
    e1_ivar: Float64Array
    e2_ivar: Float64Array
    sersic_ivar: Float64Array
    dchisq: Float64Array
    fitbits: NDArray[np.int32]
    pm_ra: Float64Array
    pm_dec: Float64Array
    epoch: Float64Array

    @classmethod
    def create(
        cls,
        *,
        ra: ArrayLike,
        dec: ArrayLike,
        flux: ArrayLike,
        kind: ArrayLike | None = None,
        radius: ArrayLike | None = None,
        e1: ArrayLike | None = None,
        e2: ArrayLike | None = None,
        sersic: ArrayLike | None = None,
        pm_ra: ArrayLike | None = None,
        pm_dec: ArrayLike | None = None,
        epoch: ArrayLike | None = None,
    ) -> Sources:
        """Sources without errors; points unless ``kind`` says otherwise.

        Parameters
        ----------
        ra, dec : (n,) float [deg]
            Positions.
        flux : (n, n_band) float [nanomaggy]
            Fluxes.
        kind, radius, e1, e2, sersic, pm_ra, pm_dec, epoch : (n,), optional
            See `Sources`; the index follows from the type where it is omitted.

        Returns
        -------
        Sources
            The columns.

        Raises
        ------
        DataError
            If the lengths differ.
        """
        ra_ = np.atleast_1d(np.asarray(ra, np.float64))
        n = ra_.size
        flux_ = np.atleast_2d(np.asarray(flux, np.float64))
        if n == 0:
            flux_ = flux_.reshape(0, flux_.shape[-1] if flux_.ndim == 2 else 0)
        if flux_.shape[0] != n:
            raise DataError(f"{n} sources need {n} rows of fluxes; got shape {flux_.shape}")
        kind_ = np.zeros(n, np.int8) if kind is None else np.array(kind, np.int8).reshape(n)
        if sersic is None:
            sersic = np.array([0.0, 1.0, 1.0, 4.0, 2.0])[kind_]

        def column(values: ArrayLike | None) -> Float64Array:
            if values is None:
                return np.zeros(n)
            return np.array(values, np.float64).reshape(n)

        zeros = {f.name: np.zeros(n) for f in fields(cls) if f.name.endswith("_ivar")}
        zeros["flux_ivar"] = np.zeros_like(flux_)
        return cls(
            kind=kind_,
            ra=ra_.copy(),
            dec=column(dec),
            flux=flux_.copy(),
            radius=column(radius),
            e1=column(e1),
            e2=column(e2),
            sersic=column(sersic),
            dchisq=np.zeros((n, N_MODEL)),
            fitbits=np.zeros(n, np.int32),
            pm_ra=column(pm_ra),
            pm_dec=column(pm_dec),
            epoch=column(epoch),
            **zeros,
        )

    def __len__(self) -> int:
        return int(self.ra.size)

    def position_at(self, mjd: float) -> tuple[Float64Array, Float64Array]:
        """Positions at a time.

        Parameters
        ----------
        mjd : float [d]
            When; NaN leaves the positions as they are.

        Returns
        -------
        ra, dec : (n,) float64 [deg]
            ICRS positions.
        """
        if not np.isfinite(mjd) or not (self.pm_ra.any() or self.pm_dec.any()):
            return self.ra, self.dec
        years = np.where(self.epoch > 0, (mjd - self.epoch) / 365.25, 0.0)
        ra = self.ra + self.pm_ra * years / 3.6e6 / np.cos(np.radians(self.dec))
        return ra, self.dec + self.pm_dec * years / 3.6e6

    def at(self, index: ArrayLike) -> Sources:
        """Some of the sources, copied.

        Parameters
        ----------
        index : array of int or bool
            Which ones.

        Returns
        -------
        Sources
            Their rows.
        """
        chosen = np.asarray(index)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Sources(**{f.name: getattr(self, f.name)[chosen].copy() for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: list[Sources]) -> Sources:
        """One set of columns from several.

        Parameters
        ----------
        parts : list of Sources
            At least one; the same bands.

        Returns
        -------
        Sources
            All rows in order.
        """
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The columns by name, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Sources:
        """The inverse of `to_arrays`.

        Parameters
        ----------
        arrays : dict
            Columns by name; others are ignored.

        Returns
        -------
        Sources
            The columns.

        Raises
        ------
        DataError
            If a column is missing.
        """
        missing = [f.name for f in fields(cls) if f.name not in arrays]
        if missing:
            raise DataError(f"the sources lack the column {', '.join(missing)}")
        return cls(**{f.name: np.asarray(arrays[f.name]) for f in fields(cls)})
