"""``skymill zero-points``: photometric calibration of anyone's catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.foreign_columns import (
    band_options,
    extinction_options,
    position_options,
    read_columns,
    read_extinction,
    read_positions,
    read_reference,
    read_stars,
    star_option,
)
from skymill.cli.parameters import make_folder

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.calibrate.column_map import BandColumns
    from skymill.calibrate.zero_points import ZeroPointFit


@click.command(name="zero-points")
@click.argument("catalogue", type=click.Path(path_type=Path))
@position_options
@band_options
@star_option
@click.option(
    "--camera",
    default="decam",
    show_default=True,
    help="Camera, for filters, colour terms and extinction coefficients.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    default=None,
    help="Reference catalogue; without one the stellar locus alone sets the colours.",
)
@click.option(
    "--survey",
    default="ps1",
    show_default=True,
    help="Its survey: ps1, sdss, sm_dr4, des, legacy, or a camera's name.",
)
@click.option(
    "--reference-band",
    "reference_columns",
    multiple=True,
    metavar="BAND=VALUE,ERROR[,UNIT]",
    help="Columns of the reference.",
)
@click.option("--epoch", default=0.0, help="Epoch of CATALOGUE for proper motions [MJD].")
@click.option(
    "--compare",
    "comparisons",
    multiple=True,
    metavar="SURVEY=FILE",
    help="Another catalogue to compare the result with; may be given many times.",
)
@extinction_options
@click.option(
    "--locus/--no-locus", default=True, show_default=True, help="Fit the stellar locus jointly."
)
@click.option("--radius", default=1.0, show_default=True, help="Of a match [arcsec].")
@click.option("--min-mag", default=16.0, show_default=True, help="Brightest reference star.")
@click.option("--max-mag", default=21.0, show_default=True, help="Faintest reference star.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder of the products; made if absent.",
)
def zero_points(**options: Any) -> None:
    """Deredden CATALOGUE, find the zero points of its bands, and write it calibrated."""
    from skymill.calibrate.residual_map import map_residuals
    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.data.errors import NoDataError
    from skymill.qa.zero_point_figures import draw_stellar_locus, draw_zero_points

    table = read_catalogue(options["catalogue"])
    columns = read_columns(table, options, kind="psf")
    ebv, coefficients = read_extinction(table, options, columns)
    stars = _stars(table, columns, ebv, coefficients, options)
    fit = _fit(stars, tuple(columns), options)
    if (fit.table["source"] == "none").all():
        raise NoDataError(f"no band can be calibrated: {fit.table['message'][0]}")
    folder = make_folder(options["output"])
    calibrated = _calibrated(table, columns, ebv, coefficients, fit)
    write_catalogue(calibrated, folder / "calibrated.parquet")
    write_catalogue(fit.table, folder / "zero_points.ecsv")
    write_catalogue(fit.stars, folder / "zero_point_stars.parquet")
    write_catalogue(map_residuals(fit.stars), folder / "residual_map.ecsv")
    title = options["catalogue"].name
    if options["reference"] is not None:
        write_bytes(draw_zero_points(fit.stars, title=title), folder / "zero_points.png")
    picture = draw_stellar_locus(stars, fit.table, camera=options["camera"], title=title)
    write_bytes(picture, folder / "stellar_locus.png")
    for row in fit.table:
        click.echo(
            f"{row['band']}: {row['offset']:+.4f} +- {row['offset_err']:.4f} mag from "
            f"{row['source']} ({row['n_star']} stars)"
            if row["source"] != "none"
            else f"{row['band']}: stays as it is: {row['message']}"
        )
    _compare(stars, fit, tuple(columns), folder, options)
    click.echo(f"wrote {folder / 'calibrated.parquet'} and the zero points beside it")


def _stars(
    table: Table,
    columns: dict[str, BandColumns],
    ebv: NDArray[np.float64],
    coefficients: dict[str, float],
    options: dict[str, Any],
) -> Table:
    from skymill.calibrate.foreign_stars import make_stars
    from skymill.data.errors import DataError

    ra, dec = read_positions(table, ra=options["ra"], dec=options["dec"])
    chosen = read_stars(table, options["stars_cut"])
    if chosen is None:
        raise DataError(
            "the catalogue has neither is_star nor extendedness: say which rows are stars with "
            "--stars COLUMN,MIN,MAX"
        )
    if not chosen.any():
        raise DataError("no row is a star by is_star or extendedness: choose with --stars")
    return make_stars(table, columns, ra=ra, dec=dec, ebv=ebv, coefficients=coefficients)[chosen]


def _fit(stars: Table, bands: tuple[str, ...], options: dict[str, Any]) -> ZeroPointFit:
    from skymill.calibrate.stellar_locus import StellarLocusOptions
    from skymill.calibrate.zero_points import fit_zero_points
    from skymill.data.errors import ConfigError

    path = options["reference"]
    if path is None and not options["locus"]:
        raise ConfigError("--no-locus needs a --reference: there is nothing else to calibrate by")
    references = [] if path is None else [read_reference(path, options["reference_columns"])]
    return fit_zero_points(
        stars,
        references,
        bands=list(bands),
        survey=options["survey"],
        band_map={"Y": "y"},
        name=path.name.split(".")[0][:24] if path else "",
        options=_match_options(options),
        locus=StellarLocusOptions(use=options["locus"]),
        camera=options["camera"],
    )


def _match_options(options: dict[str, Any]) -> Any:
    from skymill.calibrate.zero_points import ZeroPointOptions

    return ZeroPointOptions(
        radius_arcsec=options["radius"],
        min_mag=options["min_mag"],
        max_mag=options["max_mag"],
        epoch_mjd=options["epoch"],
    )


def _calibrated(
    table: Table,
    columns: dict[str, BandColumns],
    ebv: NDArray[np.float64],
    coefficients: dict[str, float],
    fit: ZeroPointFit,
) -> Table:
    """The catalogue with calibrated fluxes and magnitudes beside its own columns."""
    import numpy as np

    from skymill.calibrate.column_map import read_band_fluxes
    from skymill.data.units import magnitude_error, magnitude_from_njy

    out = table.copy()
    flux, err = read_band_fluxes(table, columns)
    out["ebv"] = ebv
    offsets = {str(r["band"]): float(r["offset"]) for r in fit.table}
    for k, band in enumerate(columns):
        factor = 10.0 ** (0.4 * (coefficients[band] * ebv + offsets[band]))
        f, e = flux[:, k] * factor, err[:, k] * factor
        out[f"{band}_calibrated_flux"], out[f"{band}_calibrated_fluxerr"] = f, e
        with np.errstate(invalid="ignore", divide="ignore"):
            out[f"{band}_calibrated_mag"] = magnitude_from_njy(f)
            out[f"{band}_calibrated_magerr"] = magnitude_error(f, e)
    return out


def _compare(
    stars: Table, fit: ZeroPointFit, bands: tuple[str, ...], folder: Path, options: dict[str, Any]
) -> None:
    """Differences of the calibrated stars from other catalogues."""
    import numpy as np

    from skymill.calibrate.foreign_stars import compare_photometry
    from skymill.data.catalogue_files import write_bytes, write_catalogue
    from skymill.data.errors import ConfigError
    from skymill.qa.zero_point_figures import draw_zero_points

    shifted = stars.copy()
    for row in fit.table:
        shifted[f"{row['band']}_psf_mag"] = (
            np.asarray(stars[f"{row['band']}_psf_mag"]) - row["offset"]
        )
    for entry in options["comparisons"]:
        survey, _, name = entry.partition("=")
        if not name:
            raise ConfigError(f"--compare takes SURVEY=FILE, as sdss=stars.fits; got {entry!r}")
        path = Path(name)
        found = compare_photometry(
            shifted,
            [read_reference(path)],
            bands=bands,
            survey=survey,
            name=path.name.split(".")[0][:24],
            camera=options["camera"],
            options=_match_options(options),
        )
        stem = f"compare_{path.name.split('.')[0]}"
        write_catalogue(found.table, folder / f"{stem}.ecsv")
        picture = draw_zero_points(found.stars, title=f"difference from {path.name}")
        write_bytes(picture, folder / f"{stem}.png")
        for row in found.table[found.table["source"] != "none"]:
            click.echo(
                f"{row['band']} less {survey}: {1e3 * row['offset']:+.1f} +- "
                f"{1e3 * row['offset_err']:.1f} mmag, scatter {1e3 * row['scatter']:.0f} mmag "
                f"({row['n_star']} stars)"
            )
