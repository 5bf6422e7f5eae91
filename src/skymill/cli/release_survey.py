"""Verbs of ``skymill release`` before the bricks: from images to zero points, cuts and bricks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.parameters import option_set

if TYPE_CHECKING:
    from astropy.table import Table

    from skymill.calibrate.extinction import DustMap
    from skymill.release.survey.reference_stars import ReferenceCatalogue
    from skymill.release.survey.tiles import Tiles

__all__ = [
    "annotate",
    "bricks",
    "calibs",
    "depth_cut",
    "images",
    "merge_calibs",
    "merge_zeropoints",
    "survey_ccds",
    "zeropoints",
]

_SURVEY_DIR = click.option(
    "--survey-dir", envvar="LEGACY_SURVEY_DIR", type=click.Path(),
    help="The survey directory (images/, calib/, survey-ccds-*); LEGACY_SURVEY_DIR.",
)  # fmt: skip


def _note(text: str) -> None:
    click.echo(text, err=True)


@click.command("images")
@click.argument("folder", type=click.Path())
@click.option(
    "--camera", "cameras", multiple=True, help="decam, mosaic or 90prime; all if omitted."
)
@click.option("--min-date", help="First night, as 2015-03-29.")
@click.option("--max-date", help="Last night.")
@click.option("--outdir", type=click.Path(), help="Write CAMERA_images.txt here, one a camera.")
@click.option("--any-companions", is_flag=True, help="Also images without weight or data quality.")
def images(
    folder: str,
    cameras: tuple[str, ...],
    min_date: str | None,
    max_date: str | None,
    outdir: str | None,
    any_companions: bool,
) -> None:
    """List the images below FOLDER, one a line, relative to images/.

    Of an exposure in several versions of the Community Pipeline the newest is listed; the older
    ones, and images without their weight or data quality, are named on the terminal only.
    """
    from skymill.data.files import atomic_path
    from skymill.instruments.survey_camera import SURVEY_CAMERAS
    from skymill.release.survey.images import list_images, parse_date

    found = list_images(
        folder, cameras=cameras or SURVEY_CAMERAS,
        min_date=parse_date(min_date) if min_date else None,
        max_date=parse_date(max_date) if max_date else None,
        companions=not any_companions,
    )  # fmt: skip
    for camera, listed in found.items():
        if outdir is None:
            for image in listed.images:
                click.echo(image)
        elif listed.images:
            path = Path(outdir) / f"{camera}_images.txt"
            with atomic_path(path) as draft:
                draft.write_text("".join(f"{image}\n" for image in listed.images))
            _note(f"{path}: {len(listed.images)} images")
        for old, kept in listed.duplicates.items():
            _note(f"duplicate: {old}, an older version of {kept}")
        for image, problem in listed.incomplete.items():
            _note(f"left out: {image}: {problem}")
    if not any(listed.images for listed in found.values()):
        _note(f"no image was found below {folder}")


def _images(survey_dir: str, image: tuple[str, ...], image_list: str | None) -> list[str]:
    from skymill.data.errors import ConfigError
    from skymill.release.survey.merge import read_file_list

    found = list(image)
    if image_list is not None:
        found += [str(path) for path in read_file_list(image_list)]
    if not found:
        raise ConfigError("give --image or --image-list")
    return found


def _camera(camera: str | None, image: str) -> str:
    from skymill.instruments.survey_camera import camera_of_file, survey_camera

    return survey_camera(camera).name if camera else camera_of_file(image).name


def _root(survey_dir: str | None) -> str:
    from skymill.data.errors import ConfigError

    if not survey_dir:
        raise ConfigError("no survey directory: give --survey-dir or set LEGACY_SURVEY_DIR")
    return survey_dir


def _reference(name: str, given: str | None, root: str) -> ReferenceCatalogue | None:
    """The catalogue that was given, or the folder of its name in the survey directory."""
    from skymill.release.survey.reference_stars import open_reference

    if given:
        return open_reference(name, given)
    own = Path(root) / name
    return open_reference(name, own) if own.is_dir() and any(own.iterdir()) else None


def _dust(path: str | None) -> DustMap | None:
    from skymill.calibrate.extinction import DustMap

    return DustMap(path) if path else None


def _tiles(paths: tuple[str, ...]) -> dict[str, Tiles]:
    from skymill.release.survey.tiles import Tiles

    out = {}
    for path in paths:
        name = Path(path).name.split("-")[0]
        out[{"bass": "90prime"}.get(name, name)] = Tiles(path)
    return out


_IMAGE_OPTIONS = option_set(
    _SURVEY_DIR,
    click.option("--camera", help="decam, mosaic or 90prime; by the image's name if omitted."),
    click.option("--image", multiple=True, help="An image, as its line in the image list."),
    click.option(
        "--image-list", "--image_list", type=click.Path(), help="File with an image on each line."
    ),
    click.option("--calibdir", type=click.Path(), help="Calibrations; calib/ of the survey."),
    click.option("--ccd", "ccds", multiple=True, help="Only this CCD, such as N10."),
    click.option("--layout", default="dr9", help="Names of the calibration files: dr9 or dr7."),
    click.option("--force", is_flag=True, help="Make calibrations anew that are there."),
)


@click.command("calibs")
@_IMAGE_OPTIONS
@click.option("--psf/--no-psf", default=True, help="Make the PSF models.")
@click.option("--splinesky/--no-splinesky", default=True, help="Make the spline skies.")
def calibs(
    survey_dir: str | None,
    camera: str | None,
    image: tuple[str, ...],
    image_list: str | None,
    calibdir: str | None,
    ccds: tuple[str, ...],
    layout: str,
    force: bool,
    psf: bool,
    splinesky: bool,
) -> int:
    """PSF and spline sky of each CCD of images."""
    from skymill.instruments.survey_folder import SurveyFolder
    from skymill.release.survey.calibrations import CalibrationOptions, calibrate_image

    root = _root(survey_dir)
    options = CalibrationOptions(layout=layout, force=force, psf=psf, sky=splinesky)
    failed = 0
    for name in _images(root, image, image_list):
        path = _find_image(root, name)
        folder = SurveyFolder(root, _camera(camera, name), calib=calibdir)
        done = calibrate_image(path, folder, ccds=ccds or None, options=options)
        failed += _report_calibrations(name, done)
    return 1 if failed else 0


def _find_image(root: str, name: str) -> Path:
    from skymill.data.errors import MissingInputError

    for path in (Path(name), Path(root) / "images" / name):
        if path.is_file():
            return path
    raise MissingInputError(f"there is no image {name}, nor {Path(root) / 'images' / name}")


def _report_calibrations(name: str, done: dict[str, dict[str, str]]) -> int:
    states = [state for ccd in done.values() for state in ccd.values()]
    made, kept = states.count("made"), states.count("kept")
    _note(f"{name}: {made} calibrations made, {kept} kept, {len(states) - made - kept} failed")
    failed = 0
    for ccd, kinds in done.items():
        for kind, state in kinds.items():
            if state not in ("made", "kept"):
                failed += 1
                _note(f"  {ccd} {kind}: {state}")
    return failed


@click.command("zeropoints")
@_IMAGE_OPTIONS
@click.option("--outdir", required=True, type=click.Path(), help="Folder of the tables.")
@click.option("--psf/--aperture", default=True, help="Fluxes by the PSF, or in apertures.")
@click.option("--splinesky/--median-sky", default=True, help="Sky: the spline, or one level a CCD.")
@click.option("--run-calibs", is_flag=True, help="Make calibrations that are missing.")
@click.option("--run-calibs-only", is_flag=True, help="Make them and stop.")
@click.option("--ps1", type=click.Path(), help="Pan-STARRS1: file or folder; ps1/ of the survey.")
@click.option("--gaia", type=click.Path(), help="Gaia: file or folder; gaia/ of the survey.")
@click.option("--dust", type=click.Path(), help="Map of E(B-V): FITS file or folder of SFD.")
@click.option("--tiles", multiple=True, type=click.Path(), help="CAMERA-tiles_obstatus.fits.")
@click.option("--overwrite", is_flag=True, help="Make tables anew that are there.")
def zeropoints(survey_dir: str | None, **words: Any) -> int:
    """Zero points and astrometric offsets of images: one row a CCD.

    The tables X-zpt, X-legacypipe, X-annotated, X-star-photom and X-star-astrom go below OUTDIR
    where the image lies below images/. A CCD without a zero point keeps its row with the reason in
    err_message.
    """
    from skymill.release.survey.calibrations import CalibrationOptions
    from skymill.release.survey.zero_point import ZeroPointOptions
    from skymill.release.survey.zeropoints import ImageOptions, process_image

    root = _root(survey_dir)
    options = ImageOptions(
        spline_sky=words["splinesky"], run_calibs=words["run_calibs"],
        run_calibs_only=words["run_calibs_only"], overwrite=words["overwrite"],
        calibrations=CalibrationOptions(layout=words["layout"], force=words["force"]),
        zero_point=ZeroPointOptions(mode="psf" if words["psf"] else "aperture"),
    )  # fmt: skip
    only = options.run_calibs_only
    ps1 = None if only else _reference("ps1", words["ps1"], root)
    gaia = None if only else _reference("gaia", words["gaia"], root)
    dust, tiles = _dust(words["dust"]), _tiles(words["tiles"])
    failed = 0
    for name in _images(root, words["image"], words["image_list"]):
        camera = _camera(words["camera"], name)
        report = process_image(
            name, camera=camera, survey_dir=root, outdir=words["outdir"],
            calibdir=words["calibdir"], ps1=ps1, gaia=gaia, dust=dust, tiles=tiles.get(camera),
            ccds=words["ccds"] or None, options=options,
        )  # fmt: skip
        if report.calibrations:
            failed += _report_calibrations(name, report.calibrations) if only else 0
        if report.kept:
            _note(f"{name}: kept, its tables are there")
        elif not only:
            _note(f"{name}: {report.n_ccds - len(report.messages)} of {report.n_ccds} CCDs have a "
                  "zero point")  # fmt: skip
            for ccd, message in report.messages.items():
                _note(f"  {ccd}: {message}")
    return 1 if failed else 0


@click.command("merge-zeropoints")
@click.option(
    "--file-list", required=True, type=click.Path(), help="File with a table on each line."
)
@click.option("--outname", required=True, type=click.Path(), help="The merged table.")
@click.option("--cut", is_flag=True, help="Keep the CCDs with ccd_cuts 0 only.")
@click.option("--cut-expnum", is_flag=True, help="Leave out CCDs without stars (expnum 0).")
@click.option("--nproc", type=int, default=0, help="Processes that read; 0 reads in this one.")
def merge_zeropoints(file_list: str, outname: str, cut: bool, cut_expnum: bool, nproc: int) -> None:
    """Merge the tables of many images (-legacypipe, -annotated, ...) into one."""
    from skymill.release.survey.merge import merge_tables, read_file_list
    from skymill.release.survey.rows import write_table

    paths = read_file_list(file_list)
    table = merge_tables(paths, cut=cut, cut_expnum=cut_expnum, nproc=nproc)
    write_table(outname, table)
    _note(f"{outname}: {len(table)} CCDs of {len(paths)} tables")


@click.command("merge-calibs")
@_SURVEY_DIR
@click.option("--ccds", type=click.Path(), help="Only the exposures of this table of CCDs.")
@click.option(
    "--calibdir", type=click.Path(), help="Calibrations of the CCDs; calib/ of the survey."
)
@click.option("--outdir", type=click.Path(), help="Merged files; the folder of the CCDs' files.")
@click.option("--layout", default="dr9", help="Names of the files: dr9 or dr7.")
@click.option("--continue", "keep_going", is_flag=True, help="Go on after an exposure that fails.")
@click.option("--force", is_flag=True, help="Merge again what is merged.")
def merge_calibs(
    survey_dir: str | None,
    ccds: str | None,
    calibdir: str | None,
    outdir: str | None,
    layout: str,
    keep_going: bool,
    force: bool,
) -> int:
    """Merge the calibrations of the CCDs into one file an exposure."""
    from skymill.release.survey.calibrations import merge_calibrations
    from skymill.release.survey.ccd_table import as_survey_ccds, read_fits_table
    from skymill.release.survey.survey_dir import open_survey

    root = _root(survey_dir)
    table = as_survey_ccds(read_fits_table(ccds)) if ccds else open_survey(root).ccds()
    report = merge_calibrations(
        table, root, calib=calibdir, output=outdir, layout=layout, keep_going=keep_going,
        force=force,
    )  # fmt: skip
    _note(str(report))
    for name, reason in report.failed.items():
        _note(f"  {name}: {reason}")
    return 1 if report.failed else 0


@click.command("annotate")
@_SURVEY_DIR
@click.option("--ccds", type=click.Path(), help="Table of CCDs; that of the survey if omitted.")
@click.option("--outname", required=True, type=click.Path(), help="The annotated table.")
@click.option("--dust", type=click.Path(), help="Map of E(B-V): FITS file or folder of SFD.")
@click.option("--tiles", multiple=True, type=click.Path(), help="CAMERA-tiles_obstatus.fits.")
def annotate(
    survey_dir: str | None, ccds: str | None, outname: str, dust: str | None, tiles: tuple[str, ...]
) -> int:
    """Corners, sky, PSF and depth of each CCD of a table."""
    from skymill.release.survey.annotate import annotate_ccds
    from skymill.release.survey.ccd_table import read_fits_table
    from skymill.release.survey.rows import write_table
    from skymill.release.survey.survey_dir import open_survey

    survey = open_survey(_root(survey_dir))
    table = read_fits_table(ccds) if ccds else survey.ccds(apply_cuts=False)
    out = annotate_ccds(survey, table, dust=_dust(dust), tiles=_tiles(tiles))
    write_table(outname, out)
    failed = [row for row in out if not row["annotated"]]
    _note(f"{outname}: {len(out) - len(failed)} of {len(out)} CCDs are annotated")
    for row in failed:
        _note(f"  {row['camera']} {row['expnum']} {row['ccdname']}: {row['err_message']}")
    return 1 if failed else 0


@click.command("survey-ccds")
@click.option("--ccds", "paths", multiple=True, required=True, type=click.Path(),
              help="Table of CCDs; several are joined.")  # fmt: skip
@click.option("--outname", required=True, type=click.Path(),
              help="survey-ccds-X.kd.fits (good CCDs, kd-tree) or .fits[.gz] (all).")  # fmt: skip
@click.option("--omit", multiple=True, help="A cut that is not made, such as early_decam.")
@click.option("--no-cuts", is_flag=True, help="Take ccd_cuts as it is.")
@click.option("--bad-exposures", type=click.Path(), help="List of bad exposures (bad_expid.txt).")
@click.option("--flagged-in-des", type=click.Path(),
              help="Exposures that the Dark Energy Survey flagged: such a list.")  # fmt: skip
@click.option("--tiles", multiple=True, type=click.Path(),
              help="CAMERA-tiles_obstatus.fits: cut by the depth of tiles.")  # fmt: skip
@click.option("--tile-exposures", type=int, default=None,
              help="Exposures of a tile. [default: decam 3, 90prime 6, mosaic 2]")  # fmt: skip
@click.option("--exptime-cut", type=float, default=30.0, help="Shortest exposure [s].")
@click.option("--nmatch", type=int, default=20, help="Fewest photometric stars.")
@click.option("--phrms-cut", type=float, default=0.1, help="Largest scatter of the stars [mag].")
@click.option("--max-seeing", type=float, default=3.0, help="Worst seeing [arcsec].")
@click.option("--good-ccd-fraction", type=float, default=0.7,
              help="Exposures with fewer good CCDs are bad.")  # fmt: skip
@click.option("--plver", default="", help="Lowest version of the Community Pipeline.")
@click.option("--band", "bands", multiple=True, help="Bands of the survey; those of the camera.")
def survey_ccds(
    paths: tuple[str, ...],
    outname: str,
    omit: tuple[str, ...],
    no_cuts: bool,
    bad_exposures: str | None,
    flagged_in_des: str | None,
    tiles: tuple[str, ...],
    tile_exposures: int | None,
    **limits: Any,
) -> None:
    """Cut the CCDs and write survey-ccds with its spatial index."""
    from astropy.table import vstack

    from skymill.release.survey.ccd_table import as_survey_ccds, read_fits_table
    from skymill.release.survey.cuts import (
        CutOptions,
        apply_cuts,
        count_cuts,
        read_bad_exposures,
    )
    from skymill.release.survey.merge import write_survey_ccds
    from skymill.release.survey.tile_depth import tile_depth_cut

    tables = [as_survey_ccds(read_fits_table(path), where=path) for path in paths]
    table = vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else tables[0]
    if not no_cuts:
        options = CutOptions(
            skip=omit, bands=limits["bands"], exptime=limits["exptime_cut"],
            n_match=limits["nmatch"], phrms=limits["phrms_cut"], max_seeing=limits["max_seeing"],
            good_fraction=limits["good_ccd_fraction"], plver=limits["plver"],
            bad_exposures=read_bad_exposures(bad_exposures) if bad_exposures else {},
            flagged_in_des=frozenset(read_bad_exposures(flagged_in_des) if flagged_in_des else ()),
        )  # fmt: skip
        table = apply_cuts(table, options=options)
    if tiles:
        known = _tiles(tiles)
        kept = None if tile_exposures is None else dict.fromkeys(known, tile_exposures)
        table = tile_depth_cut(table, known, exposures=kept)
    for name, count in count_cuts(table).items():
        _note(f"  cut {name}: {count} CCDs")
    written = write_survey_ccds(outname, table)
    good = int((table["ccd_cuts"] == 0).sum())
    _note(f"{outname}: {written} rows; {good} of {len(table)} CCDs are good")


_REGION = option_set(
    click.option("--min-ra", "--minra", type=float, help="West limit of brick centres [deg]."),
    click.option("--max-ra", "--maxra", type=float, help="East limit of brick centres [deg]."),
    click.option("--min-dec", "--mindec", type=float, help="South limit of brick centres [deg]."),
    click.option("--max-dec", "--maxdec", type=float, help="North limit of brick centres [deg]."),
    click.option("--region", help="A part of the sky by name: mzls or decals."),
)


def _in_region(
    min_ra: float | None,
    max_ra: float | None,
    min_dec: float | None,
    max_dec: float | None,
    region: str | None,
) -> list[Any]:
    from skymill.data.errors import ConfigError
    from skymill.release.survey.bricks import REGIONS, bricks_in

    if region is not None and region not in REGIONS:
        raise ConfigError(f"--region must be one of {', '.join(REGIONS)}; got {region!r}")
    low, high = REGIONS[region or "decals"] if region or min_dec is None else (-90.0, 90.0)
    return bricks_in(
        0.0 if min_ra is None else min_ra, 360.0 if max_ra is None else max_ra,
        low if min_dec is None else min_dec, high if max_dec is None else max_dec,
    )  # fmt: skip


@click.command("bricks")
@_SURVEY_DIR
@_REGION
@click.option("--touching", is_flag=True, help="Only bricks that a good CCD overlaps.")
@click.option(
    "--near", is_flag=True, help="Only bricks near to a good CCD (a quicker, wider test)."
)
@click.option("--band", "bands", multiple=True, default=("g", "r", "z"), show_default=True,
              help="Bands of the CCDs that count.")  # fmt: skip
@click.option("--table", type=click.Path(), help="Also write survey-bricks.fits.gz here.")
def bricks(
    survey_dir: str | None,
    touching: bool,
    near: bool,
    bands: tuple[str, ...],
    table: str | None,
    **region: Any,
) -> None:
    """Names of the bricks of a region, one a line; everything else goes to the other channel.

    Without limits of declination the region is decals (-25 to 40).
    """
    import numpy as np

    from skymill.release.survey.bricks import write_brick_table
    from skymill.release.survey.survey_dir import open_survey
    from skymill.release.survey.touching import bricks_near_ccds, bricks_touching

    found = _in_region(**region)
    total = len(found)
    if touching or near:
        ccds = open_survey(_root(survey_dir)).ccds()
        ccds = ccds[np.isin(np.asarray(ccds["filter"]).astype(str), bands)]
        found = bricks_touching(found, ccds) if touching else bricks_near_ccds(found, ccds)
        _note(f"{len(found)} of the {total} bricks of the region have CCDs ({len(ccds)} CCDs)")
    else:
        _note(f"{total} bricks")
    for brick in found:
        click.echo(brick.name)
    if table:
        write_brick_table(table, found)


@click.command("depth-cut")
@_SURVEY_DIR
@click.option("--brick", "names", multiple=True, help="A brick; several may be given.")
@click.option("--brick-list", type=click.Path(), help="File with a brick on each line.")
@click.option("--outdir", required=True, type=click.Path(), help="Folder of ccds-BRICK.fits.")
@click.option("--margin", type=float, default=1.0, help="Depth beyond the targets [mag].")
@click.option("--skip", is_flag=True, help="Leave out bricks whose table is there.")
@click.option("--collect", type=click.Path(),
              help="Join all ccds-*.fits of OUTDIR into this table of CCDs.")  # fmt: skip
@click.option("--keep-others", is_flag=True, help="Do not cut CCDs that no brick of OUTDIR sees.")
def depth_cut(
    survey_dir: str | None,
    names: tuple[str, ...],
    brick_list: str | None,
    outdir: str,
    margin: float,
    skip: bool,
    collect: str | None,
    keep_others: bool,
) -> int:
    """Cut CCDs that no brick needs for its depth."""
    from skymill.coadd.bricks import brick_from_name
    from skymill.data.errors import ConfigError, NoDataError
    from skymill.release.survey.depth_cut import DepthCutOptions, depth_cut_brick
    from skymill.release.survey.merge import read_file_list
    from skymill.release.survey.rows import write_table
    from skymill.release.survey.survey_dir import open_survey

    survey = open_survey(_root(survey_dir))
    wanted = [*names, *(str(p) for p in read_file_list(brick_list))] if brick_list else list(names)
    if not wanted and not collect:
        raise ConfigError("give --brick or --brick-list, or --collect")
    found = [brick_from_name(name) for name in wanted]
    empty = 0
    for brick in found:
        path = Path(outdir) / f"ccds-{brick.name}.fits"
        if skip and path.is_file():
            continue
        try:
            table = depth_cut_brick(survey, brick, options=DepthCutOptions(margin=margin))
        except NoDataError as err:
            _note(str(err))
            empty += 1
            continue
        write_table(path, table)
        _note(f"{brick.name}: {int(table['passed_depth_cut'].sum())} of "
              f"{int(table['overlapping'].sum())} CCDs are needed")  # fmt: skip
    if collect:
        _collect(survey.ccds(apply_cuts=False), Path(outdir), Path(collect), keep_others)
    return 1 if empty and empty == len(found) else 0


def _collect(ccds: Table, outdir: Path, target: Path, keep_others: bool) -> None:
    from skymill.data.files import atomic_path
    from skymill.release.survey.cuts import CUT_BITS
    from skymill.release.survey.depth_cut import collect_depth_cuts
    from skymill.release.survey.rows import write_table

    table, names = collect_depth_cuts(ccds, outdir.glob("ccds-*.fits"), keep_others=keep_others)
    write_table(target, table, schema="survey-ccds")
    with atomic_path(target.with_name("bricks-good.txt")) as draft:
        draft.write_text("".join(f"{name}\n" for name in names))
    cut = int(((table["ccd_cuts"] & CUT_BITS["depth_cut"]) != 0).sum())
    _note(f"{target}: {cut} of {len(table)} CCDs are cut by depth; {len(names)} bricks")
