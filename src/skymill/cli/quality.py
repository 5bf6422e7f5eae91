"""``skymill quality``: depth, astrometry, PSF and null tests of anyone's catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skymill.cli.parameters import make_folder

__all__ = ["quality"]


@click.command(name="quality")
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), default=None,
              help="Table of reference stars: ra, dec [deg] and, if there are, pm_ra, pm_dec "
              "[mas/yr].")  # fmt: skip
@click.option("--reference-epoch", type=float, default=57388.0, show_default=True,
              help="Epoch of its positions, MJD.")  # fmt: skip
@click.option("--epoch", type=float, default=None,
              help="Epoch of the catalogue, MJD; that of the reference if omitted.")  # fmt: skip
@click.option("--shears", type=click.Path(path_type=Path), default=None,
              help="Table with ID, ra, dec, g1, g2 for the null tests of the shears.")  # fmt: skip
@click.option("--stars", type=click.Path(path_type=Path), default=None,
              help="Stars of the exposures with their PSF (finalized_src_table), for the rho "
              "statistics.")  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="NAME=THEIRS",
              help="A column of skymill's name and its name in CATALOGUE, as "
              "r_cmodel_mag=MAG_AUTO_R; may be given many times.")  # fmt: skip
@click.option("--band", default="r", show_default=True, help="Band of shapes.")
@click.option("--pixel-scale", default=0.263, show_default=True,
              help="Pixel of the moments [arcsec].")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder of the products; made if absent.")  # fmt: skip
def quality(catalogue: Path, **options: Any) -> None:
    """Measure CATALOGUE, a table as skymill exports it or anyone's (FITS, parquet, ECSV, CSV).

    Depth needs {band}_psf_mag, {band}_cmodel_mag and {band}_cmodel_magerr; the PSF needs the
    moments sdss_psf_xx, yy, xy and psf_used, psf_reserved. What is absent is said. Writes
    quality.ecsv and four pictures.
    """
    from skymill.lensing.files import read_catalogue, write_bytes, write_catalogue
    from skymill.qa.catalogue_quality import QualityOptions, measure_quality
    from skymill.qa.quality_figures import draw_depth, draw_null_tests, draw_psf_quality, draw_sky

    table = _named(read_catalogue(catalogue), options["columns"])
    settings = QualityOptions(
        band=options["band"],
        pixel_scale=options["pixel_scale"],
        epoch_mjd=options["epoch"] or 0.0,
    )
    reference = options["reference"]
    found = measure_quality(
        table,
        [_reference(reference, options["reference_epoch"])] if reference else [],
        stars=[read_catalogue(options["stars"])] if options["stars"] else [],
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


def _named(table: Any, columns: tuple[str, ...]) -> Any:
    """The table with skymill's names beside its own."""
    from skymill.data.errors import ConfigError, DataError

    for pair in columns:
        name, _, theirs = pair.partition("=")
        if not name or not theirs:
            raise ConfigError(f"--column takes NAME=THEIRS; got {pair!r}")
        if theirs not in table.colnames:
            raise DataError(
                f"the catalogue has no column {theirs!r}; it has "
                f"{', '.join(table.colnames[:20])}{' ...' if len(table.colnames) > 20 else ''}"
            )
        table[name] = table[theirs]
    if missing := [name for name in ("ra", "dec") if name not in table.colnames]:
        raise DataError(
            f"the catalogue has no column {' and '.join(missing)}; name it with --column "
            f"{missing[0]}=THEIRS"
        )
    return table


def _reference(path: Path, epoch: float) -> Any:
    """A reference table in the schema of skymill's own."""
    import numpy as np
    from astropy.table import Table

    from skymill.data.tables import float_column
    from skymill.lensing.files import find_column, read_catalogue

    table = read_catalogue(path)
    n = len(table)
    out = Table({"id": np.arange(n), "epoch": np.full(n, epoch)})
    for name in ("ra", "dec"):
        out[name] = find_column(table, [name], meaning="position", option=f"{name} in --reference")
    for name, theirs in (("pm_ra", "pmra"), ("pm_dec", "pmdec")):
        found = next((c for c in (name, theirs) if c in table.colnames), name)
        out[name] = np.nan_to_num(float_column(table, found))
    for name in ("ra_err", "dec_err", "pm_ra_err", "pm_dec_err", "parallax"):
        out[name] = np.zeros(n)
    return out
