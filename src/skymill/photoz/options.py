"""Options of the photometric redshifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import ConfigError
from skymill.data.options import check_choice, check_range, option, parse_band_values
from skymill.photoz.priors import PRIOR_NAMES

__all__ = ["AB_CORRECTIONS", "PhotozOptions", "parse_filters", "parse_zero_points"]

#: Steps from a survey's published magnitudes to AB [mag]; those of SDSS after its page on flux
#: calibration (u_AB = u - 0.04, z_AB = z + 0.02).
AB_CORRECTIONS = {"sdss": {"u": -0.04, "z": 0.02}}


def parse_filters(entries: tuple[str, ...]) -> dict[str, str]:
    """Names of filter curves written as ``band=name``.

    Parameters
    ----------
    entries : tuple of str
        For example ``("g=BASS-g", "z=MzLS-z")``.

    Returns
    -------
    dict of str to str
        Name of the curve by band.

    Raises
    ------
    ConfigError
        If an entry is malformed.
    """
    out = {}
    for entry in entries:
        band, _, name = (word.strip() for word in entry.partition("="))
        if not band or not name:
            raise ConfigError(f"a filter is written band=curve, as g=BASS-g; got {entry!r}")
        out[band] = name
    return out


def parse_zero_points(entries: tuple[str, ...]) -> dict[str, float]:
    """Magnitudes written as ``band=value``.

    Parameters
    ----------
    entries : tuple of str
        For example ``("u=-0.04", "z=0.02")``.

    Returns
    -------
    dict of str to float [mag]
        By band.

    Raises
    ------
    ConfigError
        If an entry is malformed or not finite.
    """
    return parse_band_values(entries, form="a zero point is written band=mag, as u=-0.04")


@dataclass(frozen=True, kw_only=True)
class PhotozOptions:
    """Templates, prior, grid and errors of the photometric redshifts."""

    camera: str = option("decam", "Camera whose filter curves are used")
    filters: tuple[str, ...] = option(
        (), "Other curves of speclite for single bands, as g=BASS-g; the rest are the camera's"
    )
    zero_points: tuple[str, ...] = option(
        (), "Added to the magnitudes before the fit, as u=-0.04; take the place of ab_corrections"
    )
    ab_corrections: bool = option(
        True, "Put catalogues whose survey is known to be off AB on it (sdss: u -0.04, z +0.02)"
    )
    prior: str = option("ngvs", "Prior: ngvs, hdfn or flat")
    prior_band: str = option("i", "Band of the prior's magnitude")
    prior_cut: float = option(
        0.01, "Where p(z|T, m) is below this fraction of a flat one, it is zero"
    )
    likelihood: str = option(
        "profile", "profile: at the best brightness, as BPZ does; marginal: integrated over it"
    )
    n_interpolate: int = option(2, "Mixtures between neighbouring templates")
    z_min: float = option(0.01, "First redshift of the grid")
    z_max: float = option(3.0, "Last redshift of the grid")
    dz: float = option(0.002, "Step of the grid")
    min_mag_err: float = option(
        0.03, "Added in quadrature to every error, for the templates' imperfection", unit="mag"
    )
    smoothing: float = option(0.0212, "Standard deviation of the smoothing of p(z)")
    odds_width: float = option(0.1, "Half width over (1+z) of the interval of the odds")
    bin_width: float = option(0.02, "Width of the bins in which p(z) is kept")

    def __post_init__(self) -> None:
        check_choice(self, "prior", PRIOR_NAMES)
        check_choice(self, "likelihood", ("marginal", "profile"))
        check_range(self, "n_interpolate", low=0, high=20)
        check_range(self, "prior_cut", low=0.0, high=0.5)
        check_range(self, "z_min", low=0.0, low_open=True)
        check_range(self, "z_max", low=0.1, high=10.0)
        check_range(self, "dz", low=1e-4, high=0.1)
        check_range(self, "min_mag_err", low=0.0, high=1.0)
        check_range(self, "smoothing", low=0.0, high=0.5)
        check_range(self, "odds_width", low=0.0, low_open=True)
        parse_filters(self.filters)
        parse_zero_points(self.zero_points)
        if self.z_max - self.z_min < 10 * self.dz:
            raise ConfigError(
                f"the redshift grid needs 10 steps: z_min = {self.z_min}, z_max = {self.z_max}, "
                f"dz = {self.dz}"
            )
        if self.bin_width < self.dz:
            raise ConfigError(f"bin_width must be >= dz = {self.dz}; got {self.bin_width}")

    @property
    def z(self) -> NDArray[np.float64]:
        """The grid of redshifts."""
        return np.arange(self.z_min, self.z_max + 0.5 * self.dz, self.dz)

    def zero_point(self, band: str) -> float:
        """What is added to the magnitudes of a band [mag].

        Parameters
        ----------
        band : str
            Name of the band.

        Returns
        -------
        float
            From ``zero_points``, else the known correction of the camera's survey, else 0.
        """
        known = AB_CORRECTIONS.get(self.camera, {}) if self.ab_corrections else {}
        return parse_zero_points(self.zero_points).get(band, known.get(band, 0.0))
