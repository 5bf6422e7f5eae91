"""Options of one brick."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from skymill.data.errors import ConfigError
from skymill.data.options import check_range, option

__all__ = ["STAGES", "BrickOptions"]

#: Stages of a brick in their order.
STAGES = ("tims", "refs", "outliers", "srcs", "fitblobs", "coadds", "writecat")


@dataclass(frozen=True, kw_only=True)
class BrickOptions:
    """What to make of which brick, and how."""

    survey_dir: str = option("", "Folder of the survey: images, calib, survey-ccds")
    out_dir: str = option("", "Folder of the release")
    brick: str = option("", "Name of the brick, such as 1867p255")
    ra_dec: tuple[float, float] | None = option(
        None, "Centre of a custom region instead of a brick", unit="deg"
    )
    width: int = option(3600, "Width of the image", unit="pixel")
    height: int = option(3600, "Height of the image", unit="pixel")
    zoom: tuple[int, int, int, int] | None = option(
        None, "Only this cut-out: x0, x1, y0, y1", unit="pixel"
    )
    covered: bool = option(False, "Only the part that images cover")
    pixel_scale: float = option(0.262, "Width of a pixel", unit="arcsec")
    bands: tuple[str, ...] = option(("g", "r", "z"), "Bands to use")
    threads: int = option(1, "Blobs fitted at the same time")
    release_number: int = option(9999, "Number of the release: 9008 south, 9009 north")

    outliers: bool = option(True, "Mask pixels that differ between exposures")
    gaia: bool = option(True, "Take Gaia stars as reference sources")
    tycho: bool = option(True, "Take Tycho-2 stars as reference sources")
    large_galaxies: bool = option(True, "Take the large galaxies of LARGE_GALAXIES")
    large_galaxies_path: str = option("", "Table of large galaxies; the survey's own file if empty")
    clusters_path: str = option(
        "", "Table of star clusters; the survey's *star-clusters*.fits if empty"
    )
    gaia_dir: str = option("", "Folder of Gaia's chunk-*.fits; SURVEY/gaia if empty")
    tycho_path: str = option("", "Table of Tycho-2; SURVEY/tycho2*.fits if empty")
    n_sigma: float = option(6.0, "Threshold of the detection", unit="sigma")
    sub_blobs: int = option(
        0, "Blobs with more pixels are fitted in parts of 256 pixels width; 0: none", unit="pixel"
    )
    iterative: bool = option(True, "Look for more sources in the residuals of a blob")
    joint_fluxes: bool = option(
        True, "Fit the fluxes of all sources once more at once, with all models known"
    )
    unbiased_weights: bool = option(
        True, "Take the pixel's own noise out of the photon noise of its weight"
    )
    subtract_sky: bool = option(True, "Subtract the median of the coadd outside of the blobs")
    min_mjd: float = option(0.0, "Exposures before are left out", unit="day")
    max_mjd: float = option(math.inf, "Exposures after are left out", unit="day")

    ebv: float | None = option(None, "E(B-V) of all objects instead of a map", unit="mag")
    dust_map: str = option("", "FITS map of E(B-V), or the folder of the two SFD maps")

    skip: bool = option(False, "Do nothing if the brick's catalogue exists and can be read")
    skip_calibs: bool = option(False, "Do not make missing calibrations")
    checkpoint: str = option("", "File of the finished blobs; below the release if empty")
    stage: str = option("writecat", "Last stage to run")
    write_stages: tuple[str, ...] = option((), "Stages whose results are kept on disk")
    stage_dir: str = option("", "Folder of these results; below the release if empty")
    force: bool = option(False, "Ignore results and checkpoints of earlier runs")
    bail_out: bool = option(False, "Fit no more blobs: those of the checkpoint only")
    max_blob_pixels: int = option(
        0, "Blobs with more pixels are skipped as by bail_out; 0: none", unit="pixel"
    )
    write_images: bool = option(True, "Write the coadds and metrics too")
    wise_columns: bool = option(False, "Add the (empty) columns of WISE to the catalogue")

    def __post_init__(self) -> None:
        check_range(self, "width", low=1, high=20000)
        check_range(self, "height", low=1, high=20000)
        check_range(self, "pixel_scale", low=0.0, high=10.0, low_open=True)
        check_range(self, "threads", low=1, high=1024)
        check_range(self, "n_sigma", low=1.0)
        check_range(self, "max_blob_pixels", low=0)
        check_range(self, "sub_blobs", low=0)
        if self.ebv is not None:
            check_range(self, "ebv", low=0.0, high=50.0)
        if self.stage not in STAGES:
            raise ConfigError(f"stage must be one of {', '.join(STAGES)}; got {self.stage!r}")
        for word in self.write_stages:
            if word not in STAGES:
                raise ConfigError(f"write_stages must be among {', '.join(STAGES)}; got {word!r}")
        if not self.bands:
            raise ConfigError("bands must name at least one band, such as g,r,z")
        if len(set(self.bands)) != len(self.bands):
            raise ConfigError(f"bands must not repeat; got {','.join(self.bands)}")
        if bool(self.brick) == (self.ra_dec is not None):
            raise ConfigError("give either the name of a brick or ra and dec (--radec)")
        for word in ("survey_dir", "out_dir"):
            if not getattr(self, word):
                raise ConfigError(f"{word} is needed")

    def science(self) -> dict[str, Any]:
        """The options that change the results, in a form that JSON can hold.

        Returns
        -------
        dict
            By name; neither folders of output nor threads, stages or checkpoints.
        """
        left_out = {
            "out_dir", "survey_dir", "threads", "skip", "skip_calibs", "checkpoint",
"stage", "write_stages", "stage_dir", "force", "bail_out",
            "max_blob_pixels", "joint_fluxes", "write_images", "wise_columns",
        }  # fmt: skip
        out = {}
        for field in fields(self):
            if field.name not in left_out:
                value = getattr(self, field.name)
                out[field.name] = list(value) if isinstance(value, tuple) else value
        if out["max_mjd"] == math.inf:
            out["max_mjd"] = None
        return out
