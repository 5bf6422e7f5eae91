"""The typed settings of a cluster: ``cluster.yaml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from skymill.campaign.references import Reference, find_reference, parse_photometry
from skymill.data.errors import ConfigError, MissingInputError, SkymillError
from skymill.engine.sites import Limits, LocalSite, Site, SlurmSite
from skymill.instruments.decam.facts import FILTERS

__all__ = ["Cluster", "Cuts", "Paths", "Resources", "Shear", "SkyMapSettings", "load_cluster"]

#: Bands of the camera's filters. The band of the filter Y is y.
_BANDS = tuple(dict.fromkeys(f.band for f in FILTERS if f.wavelength))


def _band(name: Any) -> Any:
    return "y" if name == "Y" else name


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Paths(_Model):
    """Where the input is; relative paths start at the folder of ``cluster.yaml``."""

    raws: Path = Field(default=Path("raws"), description="Folder of raw science frames.")
    refcats: Path = Field(
        default=Path("refcats"), description="Folder with a file or folder for each catalogue."
    )
    calibs: Path | None = Field(
        default=None, description="Exported calibration collection shared by many clusters."
    )
    zeros: Path | None = Field(default=None, description="Folder of raw zero (bias) frames.")
    flats: Path | None = Field(default=None, description="Folder of raw dome flats.")
    dust: Path | None = Field(default=None, description="Folder of the SFD dust maps.")


class Cuts(_Model):
    """Which detectors and visits are good for lensing (published values)."""

    fwhm_pixel: float = Field(default=6.4, gt=0, description="Largest mean FWHM [pixel].")
    ellipticity: float = Field(default=0.33, gt=0, le=1, description="Largest mean ellipticity.")
    lensing_fwhm_pixel: float = Field(default=4.4, gt=0, description="In the lensing band.")
    lensing_ellipticity: float = Field(default=0.13, gt=0, le=1, description="In the lensing band.")
    max_distance_deg: float = Field(
        default=1.5, gt=0, description="Largest distance of a detector from the centre [deg]."
    )
    min_detectors: int = Field(
        default=11, ge=1, description="Good detectors that a visit needs (published: > 10)."
    )


class SkyMapSettings(_Model):
    """The tract around the centre (published geometry: 12 x 12 patches of 4000 pixels)."""

    name: str | None = Field(default=None, description="Name; <cluster>_skymap by default.")
    radius_deg: float = Field(default=0.7, gt=0, le=5, description="Radius to cover [deg].")
    tract_overlap_deg: float | None = Field(
        default=None, ge=0, description="Margin around the radius [deg]; published 1.0."
    )
    patch_inner: int = Field(default=4000, ge=100, description="Side without border [pixel].")
    patch_border: int = Field(default=100, ge=0, description="Border of a patch [pixel].")
    pixel_scale: float = Field(default=0.263, gt=0, description="Pixel scale [arcsec/pixel].")


class Resources(_Model):
    """Limits of one quantum of a task."""

    time_s: float | None = Field(default=None, gt=0, description="Longest duration [s].")
    memory_gb: float | None = Field(default=None, gt=0, description="Largest memory [GB].")


class Shear(_Model):
    """How shears are calibrated."""

    method: str | None = Field(
        default=None, description="Of shear_calibration: responsivity (default), hsc or naive."
    )
    metadetect: bool = Field(default=False, description="Do the steps meta_4a to meta_lensing too.")
    bands: tuple[str, ...] = Field(
        default=(), description="Bands whose sum metadetection searches; the lensing band alone."
    )
    response_from: tuple[Path, ...] = Field(
        default=(),
        description="Catalogues (metadetect_processing/NAME_meta.parquet) of other clusters whose "
        "response is measured together with this one's.",
    )


def _parse_centre(value: Any) -> tuple[float, float]:
    if isinstance(value, dict):
        value = (value.get("ra"), value.get("dec"))
    if isinstance(value, str):
        value = value.split(",")
    try:
        ra, dec = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"must be [ra, dec] in degrees; got {value!r}") from None
    if not 0 <= ra < 360 or not -90 <= dec <= 90:
        raise ValueError(f"must have 0 <= ra < 360 and -90 <= dec <= 90 degrees; got {ra}, {dec}")
    return ra, dec


class Cluster(_Model):
    """Everything that is special about one cluster.

    The folder of ``cluster.yaml`` is the folder of the campaign; everything is made below it.
    """

    name: str = Field(description="Name of the cluster, part of file names.")
    centre: tuple[float, float] | None = Field(
        default=None, description="[ra, dec] in degrees, or the word ned: look up the name."
    )
    xray_peak: tuple[float, float] | None = Field(
        default=None, description="X-ray peak [ra, dec in degrees]; used instead of centre."
    )
    redshift: float = Field(gt=0, lt=3, description="Redshift of the cluster.")
    bands: tuple[str, ...] = Field(min_length=1, description="Bands to process.")
    lensing_band: str = Field(default="r", description="Band of the shapes, with its own cuts.")
    astrometry: str = Field(default="gaia", description="Reference catalogue for positions.")
    photometry: dict[str, str] = Field(
        description="Reference catalogue of each band: {g: ps1} or ['ps1,g', ...]."
    )
    paths: Paths = Paths()
    cuts: Cuts = Cuts()
    skymap: SkyMapSettings = SkyMapSettings()
    shear: Shear = Shear()
    resources: dict[str, Resources] = Field(
        default={}, description="Limits by step name or task label; '*' for all the others."
    )
    config: dict[str, dict[str, Any]] = Field(
        default={}, description="Configuration overrides: {task label: {field: value}}."
    )
    bands_at_once: int = Field(default=6, ge=1, description="Bands processed together.")
    tolerate_failures: float = Field(
        default=0.1, ge=0, le=1, description="Failed fraction that does not stop process_ccd."
    )
    min_fringe_frames: int = Field(
        default=5, ge=2, description="Exposures in z or Y that a fringe frame is made of."
    )
    site: str = Field(default="local", description="Name of the site in sites.")
    sites: dict[str, dict[str, Any]] = Field(
        default={}, description="{local: {workers: 2}, slurm: {nodes: 1, ...}}."
    )
    registry: str | None = Field(
        default=None,
        description="PostgreSQL registry (postgresql://...); SQLite in the repository if absent.",
    )
    keep_intermediates: bool = Field(
        default=True,
        description="Keep detrended frames and warps; false deletes them after each step.",
    )
    repo: Path = Field(default=Path("repo/repo"), description="Butler repository.")
    pipeline: str | None = Field(default=None, description="Pipeline; DRP-LoVoCCS.yaml by default.")
    instrument: Literal["DECam"] = Field(default="DECam", description="Camera.")
    folder: Path = Field(default=Path(), exclude=True, description="Folder of the file.")

    @field_validator("centre", "xray_peak", mode="before")
    @classmethod
    def _centre(cls, value: Any) -> Any:
        return None if value is None else _parse_centre(value)

    @field_validator("bands", mode="before")
    @classmethod
    def _bands(cls, value: Any) -> Any:
        return [_band(b) for b in value] if isinstance(value, list | tuple) else value

    @field_validator("lensing_band", mode="before")
    @classmethod
    def _lensing_band(cls, value: Any) -> Any:
        return _band(value)

    @field_validator("shear", mode="before")
    @classmethod
    def _shear(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"metadetect": True} if value == "metadetect" else {"method": value}
        return value

    @field_validator("photometry", mode="before")
    @classmethod
    def _photometry(cls, value: Any) -> Any:
        try:
            return {_band(band): name for band, name in parse_photometry(value).items()}
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name):
            raise ValueError(f"name may hold letters, digits and _.+- only; got {self.name!r}")
        if self.centre is None and self.xray_peak is None:
            raise ValueError("centre (or xray_peak) is needed: [ra, dec] in degrees")
        unknown = [band for band in self.bands if band not in _BANDS]
        if unknown:
            raise ValueError(
                f"bands: DECam has no band {', '.join(unknown)}; it has {', '.join(_BANDS)}"
            )
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands names one twice: {', '.join(self.bands)}")
        if self.lensing_band not in self.bands:
            raise ValueError(
                f"lensing_band {self.lensing_band!r} is not among bands {', '.join(self.bands)}"
            )
        unknown = [band for band in self.shear.bands if band not in self.bands]
        if unknown:
            raise ValueError(
                f"shear.bands {', '.join(unknown)} not among bands {', '.join(self.bands)}"
            )
        missing = [band for band in self.bands if band not in self.photometry]
        if missing:
            raise ValueError(f"photometry names no reference catalogue for {', '.join(missing)}")
        try:
            for band in self.bands:
                find_reference(self.photometry[band], band)
            self.make_site()
        except SkymillError as exc:
            raise ValueError(str(exc)) from exc
        return self

    @property
    def position(self) -> tuple[float, float]:
        """Centre of the work: the X-ray peak if it is known, else the centre [deg]."""
        position = self.xray_peak or self.centre
        assert position is not None
        return position

    @property
    def skymap_name(self) -> str:
        """Name of the sky map."""
        return self.skymap.name or f"{self.name}_skymap"

    @property
    def repo_path(self) -> str:
        """The repository."""
        return str(self.folder / self.repo)

    def path(self, value: Path) -> Path:
        """A path of the settings, from the folder of the file.

        Parameters
        ----------
        value : Path
            Relative or absolute.

        Returns
        -------
        Path
            Absolute if the folder is.
        """
        return self.folder / value

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """Configuration overrides by task label, those of other settings among them."""
        result = {label: dict(fields) for label, fields in self.config.items()}
        if self.paths.dust is not None:
            dust = {
                "extinction.source": "map",
                "extinction.map_path": str(self.path(self.paths.dust)),
            }
            result["dereddenCatalog"] = dust | result.get("dereddenCatalog", {})
        if self.shear.method is not None:
            method = {"shear.method": self.shear.method}
            result["calibrateShear"] = method | result.get("calibrateShear", {})
        # The sheared catalogues are processed like the others.
        shared = {
            name: value
            for label, prefix in (("dereddenCatalog", "extinction."), ("photoZ", "photoz."))
            for name, value in result.get(label, {}).items()
            if name.startswith(prefix)
        }
        if shared:
            result["metaProcess"] = shared | result.get("metaProcess", {})
        if self.shear.response_from:
            files = {"responseCatalogs": [str(self.path(p)) for p in self.shear.response_from]}
            result["metaShear"] = files | result.get("metaShear", {})
        return result

    def reference(self, band: str) -> Reference:
        """Dataset type and flux column of the photometric reference of a band.

        Parameters
        ----------
        band : str
            Band.

        Returns
        -------
        tuple of str
            Dataset type; column without ``_flux``.
        """
        return find_reference(self.photometry[band], band)

    def make_site(self, name: str | None = None) -> Site:
        """The site to run on.

        Parameters
        ----------
        name : str, optional
            Another site than the one of the settings.

        Returns
        -------
        LocalSite or SlurmSite
            A site called ``slurm``, or with ``kind: slurm``, or with nodes, is a SLURM site.

        Raises
        ------
        ConfigError
            If the site or one of its keys is not known.
        """
        name = name or self.site
        if name not in self.sites and name not in ("local", "slurm"):
            known = ", ".join(dict.fromkeys(["local", *self.sites]))
            raise ConfigError(f"site {name!r} is not among sites: {known}")
        keys = dict(self.sites.get(name, {}))
        kind = keys.pop("kind", "slurm" if name == "slurm" or "nodes" in keys else "local")
        kinds: dict[str, type[LocalSite] | type[SlurmSite]] = {
            "local": LocalSite,
            "slurm": SlurmSite,
        }
        if kind not in kinds:
            raise ConfigError(f"kind of site {name!r} must be local or slurm; got {kind!r}")
        try:
            return kinds[kind](**keys)
        except TypeError as exc:
            known = ", ".join(kinds[kind].__dataclass_fields__)
            raise ConfigError(f"site {name!r}: {exc}; its keys are {known}") from exc

    def limits(self, step: str, labels: tuple[str, ...] = ()) -> dict[str, Limits]:
        """Limits of the quanta of a step.

        Parameters
        ----------
        step : str
            Name of the step.
        labels : tuple of str
            Task labels; unused names of the settings do no harm.

        Returns
        -------
        dict of str to Limits
            By task label; ``"*"`` for the others.
        """
        result = {
            label: Limits(time_s=value.time_s, memory_gb=value.memory_gb)
            for label, value in self.resources.items()
        }
        if step in result:
            result["*"] = result[step]
        return result


def _sentence(error: ValidationError, path: Path) -> str:
    parts = []
    for item in error.errors()[:4]:
        where = ".".join(str(p) for p in item["loc"] if not str(p).startswith("function-"))
        text = str(item["msg"]).removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "is not a setting"
        elif item["type"] == "missing":
            text = "is missing"
        elif item["type"] != "value_error":
            text = f"{text[:1].lower()}{text[1:]}; got {item['input']!r}"
        parts.append(f"{where} {text}".strip())
    return f"{path}: {'; '.join(parts)}"


def _look_up(name: str) -> tuple[float, float]:
    """Position by name through CDS Sesame: a convenience that can be absent."""
    from astropy.coordinates import SkyCoord
    from astropy.coordinates.name_resolve import NameResolveError

    try:
        position = SkyCoord.from_name(name)
    except (NameResolveError, OSError) as exc:
        raise ConfigError(
            f"the position of {name} cannot be looked up ({exc}); "
            "write centre: [ra, dec] in degrees instead of ned"
        ) from exc
    return float(position.icrs.ra.deg), float(position.icrs.dec.deg)


def load_cluster(path: str | Path) -> Cluster:
    """Read and check the settings of a cluster.

    Parameters
    ----------
    path : str or Path
        The YAML file.

    Returns
    -------
    Cluster
        Its settings.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    ConfigError
        With one sentence that names the setting, its value and what is allowed.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as exc:
        raise MissingInputError(f"cluster file {path} does not exist") from exc
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as exc:
        first = str(exc).replace("\n", " ")
        raise ConfigError(f"{path} is not a YAML file: {first}") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings (name: ..., redshift: ...)")
    if values.get("centre") == "ned":
        values["centre"] = _look_up(str(values.get("name", "")))
    values["folder"] = path.absolute().parent
    try:
        return Cluster(**values)
    except ValidationError as exc:
        raise ConfigError(_sentence(exc, path)) from exc
