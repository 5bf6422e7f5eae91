"""Reference catalogues: which dataset type and flux column serve a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skymill.data.errors import ConfigError

__all__ = ["ASTROMETRY_FIELD", "Reference", "find_reference", "parse_photometry"]

#: (dataset type, flux column without ``_flux``).
Reference = tuple[str, str]

#: The column of the astrometric catalogue that stands for every band.
ASTROMETRY_FIELD = "phot_g_mean"

#: SkyMapper has one dataset type for each band, and DECam's u is tied to its v.
_KNOWN: dict[str, dict[str, Reference]] = {
    "gaia": dict.fromkeys("ugrizYy", ("gaia", ASTROMETRY_FIELD)),
    "ps1": {"g": ("ps1", "g"), "r": ("ps1", "r"), "i": ("ps1", "i"), "z": ("ps1", "z")}
    | {"Y": ("ps1", "y"), "y": ("ps1", "y")},
    "sm_dr4": {"u": ("sm_dr4_v", "v")} | {b: (f"sm_dr4_{b}", b) for b in "griz"},
    "sdss": {"u": ("sdss", "u")},
}


def find_reference(catalogue: str, band: str) -> Reference:
    """The dataset type and flux column of a catalogue for a band.

    Parameters
    ----------
    catalogue : str
        ``ps1``, ``sm_dr4``, ``sdss``, ``gaia``, or any catalogue of your own: its dataset type
        is its name and its column that of the band.
    band : str
        Band of the images.

    Returns
    -------
    tuple of str
        Dataset type; column without ``_flux``.

    Raises
    ------
    ConfigError
        If a known catalogue does not have the band.
    """
    known = _KNOWN.get(catalogue)
    if known is None:
        return catalogue, band
    if band not in known:
        raise ConfigError(
            f"reference catalogue {catalogue} has no band {band}; it has {', '.join(known)}"
        )
    return known[band]


def parse_photometry(value: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """The photometric catalogue of each band.

    Parameters
    ----------
    value : mapping or sequence of str
        ``{band: catalogue}``, or ``["CATALOGUE,BAND", ...]`` as the published pipeline has it.

    Returns
    -------
    dict of str to str
        Catalogue of each band.

    Raises
    ------
    ConfigError
        If an entry is not ``CATALOGUE,BAND`` or a band comes twice.
    """
    if isinstance(value, Mapping):
        return {str(band): str(name) for band, name in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"photometry must be {{band: catalogue}} or a list; got {value!r}")
    result: dict[str, str] = {}
    for entry in value:
        words = [word.strip() for word in str(entry).split(",")]
        if len(words) != 2 or not all(words):
            raise ConfigError(f"photometry must be written CATALOGUE,BAND; got {entry!r}")
        if words[1] in result:
            raise ConfigError(f"photometry names band {words[1]} twice")
        result[words[1]] = words[0]
    return result
