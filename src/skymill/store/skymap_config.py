"""A sky map from options, or from the settings of Rubin's register-skymap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lsst.pex.config import Config, ConfigChoiceField, Field, ListField

from skymill.coadd.skymap import SkyMap
from skymill.data.errors import ConfigError, MissingInputError

__all__ = ["DiscreteMapConfig", "SkyMapConfig", "make_sky_map"]


class DiscreteMapConfig(Config):
    """Tracts around given positions."""

    raList = ListField(dtype=float, default=[], doc="Right ascensions of the centres [deg].")
    decList = ListField(dtype=float, default=[], doc="Declinations of the centres [deg].")
    radiusList = ListField(dtype=float, default=[], doc="Radii to cover [deg].")
    patchInnerDimensions = ListField(
        dtype=int, default=[4000, 4000], length=2, doc="Inner size of a patch [pixel]."
    )
    patchBorder = Field(dtype=int, default=100, doc="Border of a patch [pixel].")
    tractOverlap = Field(dtype=float, default=1.0, doc="Added to each radius [deg].")
    pixelScale = Field(dtype=float, default=0.263, doc="Width of a pixel [arcsec].")
    projection = Field(dtype=str, default="TAN", doc="Projection; only TAN.")
    rotation = Field(dtype=float, default=0.0, doc="Rotation [deg]; only 0.")


class SkyMapConfig(Config):
    """The settings of a sky map, under the names of Rubin's MakeSkyMapConfig."""

    name = Field(dtype=str, default="", doc="Name of the map.")
    skyMap = ConfigChoiceField(
        doc="Kind of map.", typemap={"discrete": DiscreteMapConfig}, default="discrete"
    )


def _from_config(config: SkyMapConfig) -> SkyMap:
    chosen = config.skyMap["discrete"]
    inner = list(chosen.patchInnerDimensions)
    if inner[0] != inner[1]:
        raise ConfigError(f"patchInnerDimensions must be two equal numbers; got {inner}")
    if chosen.projection != "TAN" or chosen.rotation != 0.0:
        raise ConfigError(
            "only projection TAN without rotation is possible; got "
            f"{chosen.projection} rotated by {chosen.rotation} deg"
        )
    lists = [list(chosen.raList), list(chosen.decList), list(chosen.radiusList)]
    if not lists[0] or len({len(v) for v in lists}) != 1:
        raise ConfigError(
            "raList, decList and radiusList must be equally long and not empty; got "
            f"{len(lists[0])}, {len(lists[1])} and {len(lists[2])} numbers"
        )
    return SkyMap.discrete(
        config.name,
        *lists,
        tract_overlap=chosen.tractOverlap,
        pixel_scale=chosen.pixelScale,
        patch_inner=inner[0],
        patch_border=chosen.patchBorder,
    )


def _apply(config: SkyMapConfig, settings: Sequence[str], files: Sequence[str]) -> None:
    for file in files:
        try:
            config.load(file)
        except OSError as err:
            raise MissingInputError(f"the settings {file} cannot be read: {err}") from err
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"a setting has the form NAME=VALUE; got {setting!r}")
        try:
            text = value if value[:1] in "'\"[(" or _is_number(value) else repr(value)
            config.loadFromString(f"config.{key} = {text}")
        except Exception as err:
            raise ConfigError(f"the setting {setting!r} is not possible: {err}") from err


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_sky_map(
    *,
    name: str | None = None,
    ra: float | None = None,
    dec: float | None = None,
    radius: float | None = None,
    bricks: bool = False,
    settings: Sequence[str] = (),
    files: Sequence[str] = (),
    **geometry: Any,
) -> SkyMap:
    """A sky map from the words of the command line.

    Parameters
    ----------
    name : str, optional
        Name of the map.
    ra, dec, radius : float [deg], optional
        Position, and how far around it the map reaches.
    bricks : bool
        The Legacy Surveys' bricks instead of one tract.
    settings, files : sequence of str
        Settings as ``NAME=VALUE`` and files of them, as of Rubin's register-skymap.
    **geometry : object
        ``patch_inner``, ``patch_border`` [pixel], ``pixel_scale`` [arcsec], ``tract_overlap``
        [deg]; None for the default.

    Returns
    -------
    SkyMap
        The map.

    Raises
    ------
    ConfigError
        If something is missing or contradicts.
    """
    given = {k: v for k, v in geometry.items() if v is not None}
    if settings or files:
        config = SkyMapConfig()
        _apply(config, settings, files)
        if name is not None:
            config.name = name
        discrete = config.skyMap["discrete"]
        if ra is not None:
            discrete.raList = [ra]
        if dec is not None:
            discrete.decList = [dec]
        if radius is not None:
            discrete.radiusList = [radius]
        _need(name=config.name or None)
        return _from_config(config)
    _need(name=name, ra=ra, dec=dec, radius=radius)
    if bricks:
        scale = {k: v for k, v in given.items() if k == "pixel_scale"}
        if "patch_inner" in given:
            scale["width"] = given["patch_inner"]
        return SkyMap.bricks(str(name), ra=ra, dec=dec, radius_deg=radius, **scale)
    return SkyMap.discrete(str(name), float(ra or 0), float(dec or 0), float(radius or 0), **given)


def _need(**words: object) -> None:
    missing = [f"--{k}" for k, v in words.items() if v is None]
    if missing:
        raise ConfigError(f"a sky map needs {', '.join(missing)} as well")
