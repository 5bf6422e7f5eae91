"""``skymill zero-points``: photometric calibration of anyone's catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.parameters import make_folder

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.calibrate.column_map import BandColumns
    from skymill.calibrate.zero_points import ZeroPointFit


@click.command(name="zero-points")
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--bands", default="", help="Bands such as u,g,r,i,z; all that are found if omitted.")
@click.option(
    "--band",
    "columns",
    multiple=True,
    metavar="BAND=VALUE,ERROR[,UNIT]",
    help="Columns of a band; UNIT is mag (default), nJy, uJy, mJy, Jy or nmgy.",
)
@click.option("--ra", default="ra", show_default=True, help="Column of right ascension [deg].")
@click.option("--dec", default="dec", show_default=True, help="Column of declination [deg].")
@click.option(
    "--stars",
    "stars_cut",
    default="",
    metavar="COLUMN,MIN,MAX",
    help="Which rows are stars; is_star or extendedness < 0.5 if omitted.",
)
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
    help="Its survey: ps1, sdss, sm_dr4, des, legacy, or the camera's name.",
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
@click.option("--dust-map", default="", help="E(B-V): FITS image, HEALPix map or folder of SFD.")
@click.option("--dust-column", default="", help="Column of the HEALPix map.")
@click.option("--dust-scale", default=1.0, show_default=True, help="Factor on the map.")
@click.option("--ebv", default="", help="Column of E(B-V), or a number for all; 0 if omitted.")
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
    from skymill.calibrate.column_map import choose_band_columns
    from skymill.calibrate.residual_map import map_residuals
    from skymill.lensing.files import read_catalogue, write_bytes, write_catalogue
    from skymill.qa.zero_point_figures import draw_zero_points

    table = read_catalogue(options["catalogue"])
    columns = choose_band_columns(
        table.colnames, bands=options["bands"], entries=options["columns"], kind="psf"
    )
    ra, dec = _position(table, options)
    ebv = _ebv(table, ra, dec, options)
    stars = _stars(table, columns, ra, dec, ebv, options)
    fit = _fit(stars, tuple(columns), options)
    folder = make_folder(options["output"])
    calibrated = _calibrated(table, columns, ebv, fit, options)
    write_catalogue(calibrated, folder / "calibrated.parquet")
    write_catalogue(fit.table, folder / "zero_points.ecsv")
    write_catalogue(fit.stars, folder / "zero_point_stars.parquet")
    write_catalogue(map_residuals(fit.stars), folder / "residual_map.ecsv")
    title = options["catalogue"].name
    write_bytes(draw_zero_points(fit.stars, title=title), folder / "zero_points.png")
    for row in fit.table:
        click.echo(
            f"{row['band']}: {row['offset']:+.4f} +- {row['offset_err']:.4f} mag from "
            f"{row['source']} ({row['n_star']} stars)"
            if row["source"] != "none"
            else f"{row['band']}: stays as it is: {row['message']}"
        )
    _compare(stars, fit, tuple(columns), folder, options)
    click.echo(f"wrote {folder / 'calibrated.parquet'} and the zero points beside it")


def _position(
    table: Table, options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from skymill.lensing.files import find_column

    ra = find_column(table, [options["ra"]], meaning="right ascension", option="--ra")
    dec = find_column(table, [options["dec"]], meaning="declination", option="--dec")
    return ra, dec


def _ebv(
    table: Table, ra: NDArray[np.float64], dec: NDArray[np.float64], options: dict[str, Any]
) -> NDArray[np.float64]:
    import numpy as np

    from skymill.calibrate.extinction import ExtinctionOptions, read_ebv
    from skymill.data.errors import DataError
    from skymill.lensing.files import find_column

    if options["dust_map"]:
        settings = ExtinctionOptions(
            source="map",
            map_path=options["dust_map"],
            map_column=options["dust_column"],
            map_scale=options["dust_scale"],
        )
        ebv = read_ebv(settings, ra, dec)
    elif options["ebv"]:
        try:
            ebv = np.full(len(table), float(options["ebv"]))
        except ValueError:
            ebv = find_column(table, [options["ebv"]], meaning="E(B-V)", option="--ebv")
    else:
        ebv = np.zeros(len(table))
    known = np.isfinite(ebv)
    if len(ebv) and not known.any():
        raise DataError("no object has an E(B-V): is the map of another part of the sky?")
    if not known.all():
        click.echo(f"warning: {int((~known).sum())} objects have no E(B-V) and stay uncalibrated")
    click.echo(f"median E(B-V) {np.median(ebv[known]) if known.any() else np.nan:.4f} mag")
    return ebv


def _stars(
    table: Table,
    columns: dict[str, BandColumns],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    ebv: NDArray[np.float64],
    options: dict[str, Any],
) -> Table:
    import numpy as np

    from skymill.calibrate.foreign_stars import make_stars
    from skymill.data.errors import ConfigError, DataError
    from skymill.lensing.files import find_column

    cut = options["stars_cut"]
    if cut:
        try:
            name, low, high = cut.split(",")
            limits = float(low), float(high)
        except ValueError:
            raise ConfigError(f"--stars takes COLUMN,MIN,MAX; got {cut!r}") from None
    elif "is_star" in table.colnames:
        name, limits = "is_star", (0.5, 1.5)
    elif "extendedness" in table.colnames:
        name, limits = "extendedness", (-0.5, 0.5)
    else:
        raise DataError(
            "the catalogue has neither is_star nor extendedness: say which rows are stars with "
            "--stars COLUMN,MIN,MAX"
        )
    values = find_column(table, [name], meaning="choice of the stars", option="--stars")
    with np.errstate(invalid="ignore"):
        chosen = (values >= limits[0]) & (values <= limits[1])
    if not chosen.any():
        raise DataError(f"no row is a star: {name} is nowhere from {limits[0]} to {limits[1]}")
    stars = make_stars(table, columns, ra=ra, dec=dec, ebv=ebv, survey=options["camera"])
    return stars[chosen]


def _read_reference(path: Path, entries: tuple[str, ...]) -> Table:
    from skymill.calibrate.column_map import choose_band_columns
    from skymill.calibrate.foreign_stars import make_reference
    from skymill.lensing.files import find_column, read_catalogue

    table = read_catalogue(path)
    columns = choose_band_columns(
        table.colnames, entries=entries, kind="psf", option="--reference-band"
    )
    ra = find_column(table, ["ra", "ra_icrs", "raj2000"], meaning="right ascension", option="ra")
    dec = find_column(table, ["dec", "de_icrs", "dej2000"], meaning="declination", option="dec")
    return make_reference(table, columns, ra=ra, dec=dec)


def _fit(stars: Table, bands: tuple[str, ...], options: dict[str, Any]) -> ZeroPointFit:
    from skymill.calibrate.stellar_locus import StellarLocusOptions
    from skymill.calibrate.zero_points import fit_zero_points
    from skymill.data.errors import ConfigError

    path = options["reference"]
    if path is None and not options["locus"]:
        raise ConfigError("--no-locus needs a --reference: there is nothing else to calibrate by")
    references = [] if path is None else [_read_reference(path, options["reference_columns"])]
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
    fit: ZeroPointFit,
    options: dict[str, Any],
) -> Table:
    """The catalogue with calibrated fluxes and magnitudes beside its own columns."""
    import numpy as np

    from skymill.calibrate.column_map import read_band_fluxes
    from skymill.calibrate.extinction import extinction_coefficient
    from skymill.data.units import magnitude_error, magnitude_from_njy

    out = table.copy()
    flux, err = read_band_fluxes(table, columns)
    out["ebv"] = ebv
    offsets = {str(r["band"]): float(r["offset"]) for r in fit.table}
    for k, band in enumerate(columns):
        r = extinction_coefficient(band, survey=options["camera"])
        factor = 10.0 ** (0.4 * (r * ebv + offsets[band]))
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
    from skymill.data.errors import ConfigError
    from skymill.lensing.files import write_bytes, write_catalogue
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
            [_read_reference(path, ())],
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
