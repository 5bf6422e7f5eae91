"""``skymill quality``: depth, astrometry, PSF and null tests of anyone's catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.foreign_columns import (
    band_options,
    position_options,
    read_columns,
    read_positions,
    read_reference,
    read_stars,
    star_option,
)
from skymill.cli.parameters import make_folder

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["quality"]


@click.command(name="quality")
@click.argument("catalogue", type=click.Path(path_type=Path))
@position_options
@band_options
@star_option
@click.option("--reference", type=click.Path(path_type=Path), default=None,
              help="Table of reference stars: positions and, if there are, proper motions "
              "[mas/yr] and epochs.")  # fmt: skip
@click.option("--reference-epoch", type=float, default=57388.0, show_default=True,
              help="Epoch of its positions where it has no column of it, MJD.")  # fmt: skip
@click.option("--epoch", type=float, default=None,
              help="Epoch of the catalogue, MJD; that of the reference if omitted.")  # fmt: skip
@click.option("--shears", type=click.Path(path_type=Path), default=None,
              help="Table with ID, ra, dec, g1, g2 for the null tests of the shears.")  # fmt: skip
@click.option("--psf-stars", type=click.Path(path_type=Path), default=None,
              help="Stars of the exposures with their PSF (finalized_src_table), for the rho "
              "statistics.")  # fmt: skip
@click.option("--column", "renamed", multiple=True, metavar="NAME=THEIRS",
              help="A column of skymill's name and its name in CATALOGUE, as "
              "sdss_psf_xx=PSF_XX; may be given many times.")  # fmt: skip
@click.option("--shape-band", default="r", show_default=True, help="Band of shapes.")
@click.option("--pixel-scale", default=0.263, show_default=True,
              help="Pixel of the moments [arcsec].")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder of the products; made if absent.")  # fmt: skip
def quality(catalogue: Path, **options: Any) -> None:
    """Measure CATALOGUE, a table as skymill exports it or anyone's (FITS, parquet, ECSV, CSV).

    Depth needs a magnitude or flux of a band and its error; the PSF needs the moments
    sdss_psf_xx, yy, xy and psf_used, psf_reserved. What is absent is said. Writes quality.ecsv and
    four pictures.
    """
    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.qa.catalogue_quality import QualityOptions, measure_quality
    from skymill.qa.quality_figures import draw_depth, draw_null_tests, draw_psf_quality, draw_sky

    table = _named(read_catalogue(catalogue), options)
    settings = QualityOptions(
        band=options["shape_band"],
        pixel_scale=options["pixel_scale"],
        epoch_mjd=options["epoch"] or 0.0,
    )
    reference = options["reference"]
    found = measure_quality(
        table,
        [read_reference(reference, bands=False, epoch_mjd=options["reference_epoch"])]
        if reference
        else [],
        stars=[read_catalogue(options["psf_stars"])] if options["psf_stars"] else [],
        shears=read_catalogue(options["shears"]) if options["shears"] else None,
        options=settings,
    )
    folder = make_folder(options["output"])
    write_catalogue(found.table, folder / "quality.ecsv")
    for name, content in (
        ("quality.png", draw_depth(table, found)),
        ("quality_sky.png", draw_sky(table, found, options=settings)),
        ("quality_psf.png", draw_psf_quality(table, found, options=settings)),
        ("quality_null.png", draw_null_tests(found)),
    ):
        write_bytes(content, folder / name)
    for row in found.table:
        click.echo(_sentence(row))
    for message in found.messages:
        click.echo(f"note: {message}")


def _sentence(row: Any) -> str:
    """A row of the table for the terminal."""
    import math

    name = f"{row['quantity']} {row['band']}".strip()
    if not math.isfinite(row["value"]):
        return f"{name:34s} not measurable ({row['description']})"
    error = f" +- {row['error']:.2g}" if math.isfinite(row["error"]) else ""
    unit = f" {row['value_unit']}" if row["value_unit"] else ""
    chance = f", p = {row['p_value']:.3f}" if math.isfinite(row["p_value"]) else ""
    return f"{name:34s} {row['value']:.6g}{error}{unit}{chance}"


def _named(table: Table, options: dict[str, Any]) -> Table:
    """The table with skymill's names beside its own."""
    import numpy as np

    from skymill.data.errors import ConfigError, DataError

    if len(table) == 0:
        raise DataError("the catalogue has no rows")
    for pair in options["renamed"]:
        name, _, theirs = pair.partition("=")
        if not name or not theirs:
            raise ConfigError(f"--column takes NAME=THEIRS; got {pair!r}")
        if theirs not in table.colnames:
            raise DataError(
                f"the catalogue has no column {theirs!r}; it has "
                f"{', '.join(table.colnames[:20])}{' ...' if len(table.colnames) > 20 else ''}"
            )
        table[name] = table[theirs]
    table["ra"], table["dec"] = read_positions(table, ra=options["ra"], dec=options["dec"])
    stars = read_stars(table, options["stars_cut"])
    if stars is not None and (options["stars_cut"] or "extendedness" not in table.colnames):
        table["extendedness"] = np.where(stars, 0.0, 1.0)
    _set_magnitudes(table, options)
    return table


def _set_magnitudes(table: Table, options: dict[str, Any]) -> None:
    """Magnitudes of the bands under skymill's names, where they are not there already."""
    import numpy as np

    from skymill.calibrate.column_map import read_band_fluxes
    from skymill.data.units import magnitude_error, magnitude_from_njy

    columns = read_columns(table, options, kind="cmodel", minimum=0)
    if not columns:
        click.echo("note: no band was found, so no depth: name one with --band BAND=VALUE,ERROR")
    flux, err = read_band_fluxes(table, columns)
    for k, band in enumerate(columns):
        with np.errstate(invalid="ignore", divide="ignore"):
            values = magnitude_from_njy(flux[:, k]), magnitude_error(flux[:, k], err[:, k])
        for kind in ("psf", "cmodel"):
            for name, value in zip(("mag", "magerr"), values, strict=True):
                if f"{band}_{kind}_{name}" not in table.colnames:
                    table[f"{band}_{kind}_{name}"] = value
