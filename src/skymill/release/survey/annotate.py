"""The annotated table of CCDs from their images and calibrations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import Table

from skymill.calibrate.extinction import DustMap
from skymill.data.errors import DataError, SkymillError
from skymill.data.tables import load_schema
from skymill.instruments.community_ccd import read_ccd
from skymill.instruments.survey_camera import survey_camera
from skymill.release.survey.ccd_row import (
    add_depth,
    add_extinction,
    add_geometry,
    add_good_region,
    add_psf,
    add_sky,
    header_values,
)
from skymill.release.survey.ccd_table import as_survey_ccds
from skymill.release.survey.rows import blank_row, table_of_rows
from skymill.release.survey.spline_sky import fit_spline_sky
from skymill.release.survey.survey_dir import SurveyDir
from skymill.release.survey.tiles import Tiles

__all__ = ["annotate_ccds"]

_LOG = logging.getLogger(__name__)


def annotate_ccds(
    survey: SurveyDir,
    ccds: Table,
    *,
    dust: DustMap | None = None,
    tiles: Mapping[str, Tiles] | None = None,
) -> Table:
    """Measure corners, pixel scale, sky, PSF and depth of every CCD of a table.

    Parameters
    ----------
    survey : SurveyDir
        Images and calibrations.
    ccds : Table
        Rows of ``survey-ccds`` of any release; their columns are kept.
    dust : DustMap, optional
        For E(B-V); without it extinctions are 0.
    tiles : mapping of str to Tiles, optional
        By camera; without them the columns of tiles are 0.

    Returns
    -------
    Table
        Schema ``ccds-annotated``. A CCD whose image or calibration cannot be read keeps its row
        with ``annotated`` False and the reason in ``err_message``.
    """
    rows = []
    for row in as_survey_ccds(ccds):
        own = {name: row[name] for name in row.colnames}
        merged = {**blank_row("ccds-annotated"), **own}
        try:
            _annotate(survey, merged, own, dust, tiles or {})
        except SkymillError as err:
            merged["err_message"], merged["annotated"] = str(err), False
            _LOG.warning("%s", err)
        rows.append(merged)
    return table_of_rows(load_schema("ccds-annotated"), rows)


def _annotate(
    survey: SurveyDir,
    row: dict[str, Any],
    own: dict[str, Any],
    dust: DustMap | None,
    tiles: Mapping[str, Tiles],
) -> None:
    path = survey.image_path(own)
    camera = str(own["camera"])
    ccd = read_ccd(
        path, hdu=int(own["image_hdu"]), ccd=str(own["ccdname"]), camera=camera,
        source_photons=False,
    )  # fmt: skip
    if not (ccd.weight > 0).any():
        raise DataError("All weight-map pixels are zero")
    row.update(header_values(ccd.info, str(own["image_filename"])))
    add_geometry(row, ccd.info.wcs(), ccd.info.shape)
    add_good_region(row, ccd.weight)
    level = survey.sky(own, shape=ccd.info.shape)
    if level is None:
        level = fit_spline_sky(ccd.image, ccd.weight).evaluate(ccd.info.shape)
    zero_point = float(own["ccdzpt"])
    add_sky(row, ccd, level, zero_point=zero_point if zero_point > 0 else None)
    add_psf(row, survey.psf(own), ccd.info.shape)
    # What the table already knew is not measured again.
    known = {n: v for n, v in own.items() if isinstance(v, str) or np.any(np.asarray(v) != 0)}
    row.update(known)
    add_depth(row)
    add_extinction(row, dust)
    if camera in tiles:
        row.update(tiles[camera].find(str(row["object"]), ra=row["ra_bore"], dec=row["dec_bore"]))
    facts = survey_camera(camera)
    nominal = facts.zero_points.get(str(own["filter"]))
    if nominal is not None and zero_point > 0:
        row["phoff"] = zero_point - nominal
        extinction = facts.extinction[str(own["filter"])]
        lost = -row["phoff"] - extinction * (float(row["airmass"]) - 1.0)
        row["transp"] = 10.0 ** (-0.4 * lost)
    row["annotated"], row["err_message"] = True, ""
