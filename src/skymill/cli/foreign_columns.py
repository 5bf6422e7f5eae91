"""What the verbs on anyone's catalogue share: positions, bands, stars, extinction, references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.parameters import option_set
from skymill.data.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.calibrate.column_map import BandColumns

__all__ = ["band_options", "extinction_options", "parse_cut", "position_options", "read_columns",
           "read_extinction", "read_fluxes", "read_positions", "read_reference", "read_stars",
           "star_option"]  # fmt: skip

#: Names of positions that are tried where none is given, in any case.
_RA = ("ra", "ra_icrs", "raj2000", "alpha_j2000")
_DEC = ("dec", "de_icrs", "dej2000", "delta_j2000", "dec_icrs", "decj2000")
#: Columns of skymill's own tables, from which extinction has been removed already.
_DEREDDENED = ("_calibrated_", "_cmodel_flux", "_psf_flux")


#: ``--ra``, ``--dec``: columns of the positions.
position_options = option_set(
    click.option("--ra", default=None, help="Column of right ascension [deg]; ra, RAJ2000, "
                 "ALPHA_J2000 or the like if omitted."),
    click.option("--dec", default=None, help="Column of declination [deg], likewise."),
)  # fmt: skip

#: ``--bands``, ``--band``: which bands, and their columns.
band_options = option_set(
    click.option("--bands", default="",
                 help="Bands such as g,r,i; all that are found if omitted."),
    click.option("--band", "columns", multiple=True, metavar="BAND=VALUE,ERROR[,UNIT]",
                 help="Columns of a band where its names are not common ones, or elements of "
                 "them as MAG[2]; UNIT is mag (default), nJy, uJy, mJy, Jy or nmgy. May be "
                 "given many times."),
)  # fmt: skip

#: ``--stars``: which rows are stars.
star_option = click.option(
    "--stars", "stars_cut", default="", metavar="COLUMN,MIN,MAX",
    help="Which rows are stars; is_star or extendedness < 0.5 if omitted.",
)  # fmt: skip

#: ``--ebv``, ``--dust-map`` and what belongs to them.
extinction_options = option_set(
    click.option("--ebv", default="",
                 help="Column of E(B-V), or a number for all; 0 if omitted."),
    click.option("--dust-map", default="",
                 help="E(B-V): FITS image, HEALPix map or folder of SFD."),
    click.option("--dust-column", default="", help="Column of the HEALPix map."),
    click.option("--dust-scale", default=1.0, show_default=True, help="Factor on the map."),
    click.option("--extinction", "coefficients", multiple=True, metavar="BAND=A",
                 help="Extinction of a band over E(B-V), in place of the camera's."),
)  # fmt: skip


def parse_cut(text: str, option: str) -> tuple[str, float, float]:
    """A cut written ``COLUMN,MIN,MAX``.

    Parameters
    ----------
    text : str
        What was typed.
    option : str
        The option, for the message.

    Returns
    -------
    column, low, high : str, float, float
        Its parts.
    """
    try:
        name, low, high = text.split(",")
        return name, float(low), float(high)
    except ValueError:
        raise ConfigError(f"{option} takes COLUMN,MIN,MAX; got {text!r}") from None


def read_positions(
    table: Table, *, ra: str | None = None, dec: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of a catalogue.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    ra, dec : str, optional
        Names of the columns; common ones if omitted.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        As in the catalogue.
    """
    import numpy as np

    from skymill.data.catalogue_files import find_column

    east = find_column(table, [ra] if ra else _RA, meaning="right ascension", option="--ra")
    north = find_column(table, [dec] if dec else _DEC, meaning="declination", option="--dec")
    if not np.isfinite(east + north).any():
        raise DataError("no row of the catalogue has a finite position")
    return east, north


def read_columns(
    table: Table, options: dict[str, Any], *, kind: str, minimum: int = 1
) -> dict[str, BandColumns]:
    """The bands of a catalogue and their columns, which are told.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    options : dict
        Values of `band_options`.
    kind : str
        ``cmodel`` or ``psf``, as in `skymill.calibrate.column_map.find_band_columns`.
    minimum : int
        Bands that are needed.

    Returns
    -------
    dict of str to BandColumns
        By band.
    """
    from skymill.calibrate.column_map import choose_band_columns

    if len(table) == 0:
        raise DataError("the catalogue has no rows")
    columns = choose_band_columns(
        table.colnames, bands=options["bands"], entries=options["columns"], kind=kind,
        minimum=minimum,
    )  # fmt: skip
    for band, names in columns.items():
        click.echo(f"{band}: {names.value}, {names.error} [{names.unit}]")
    return columns


def read_stars(table: Table, cut: str) -> NDArray[np.bool_] | None:
    """Which rows are stars.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    cut : str
        Value of `star_option`.

    Returns
    -------
    (n,) bool or None
        None if the catalogue does not say.

    Raises
    ------
    DataError
        If the cut that was typed chooses none.
    """
    import numpy as np

    from skymill.data.catalogue_files import find_column

    if cut:
        name, low, high = parse_cut(cut, "--stars")
    elif "is_star" in table.colnames:
        name, low, high = "is_star", 0.5, 1.5
    elif "extendedness" in table.colnames:
        name, low, high = "extendedness", -0.5, 0.5
    else:
        return None
    values = find_column(table, [name], meaning="choice of the stars", option="--stars")
    with np.errstate(invalid="ignore"):
        chosen = np.asarray((values >= low) & (values <= high))
    if cut and not chosen.any():
        raise DataError(f"no row is a star: {name} is nowhere from {low} to {high}")
    return chosen


def read_extinction(
    table: Table, options: dict[str, Any], columns: dict[str, BandColumns]
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """E(B-V) of each row, and the extinction of each band over it; the median is told.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    options : dict
        Values of `extinction_options` and `position_options`, and ``camera``.
    columns : dict of str to BandColumns
        Bands; without an option a column of E(B-V) beside fluxes that hold it is pointed out.

    Returns
    -------
    ebv : (n,) float64 [mag]
        NaN where unknown; zeros if nothing is to be removed.
    coefficients : dict of str to float
        By band; zeros if nothing is to be removed.
    """
    import numpy as np

    from skymill.calibrate.extinction import (
        ExtinctionOptions,
        extinction_coefficient,
        parse_coefficients,
        read_ebv,
    )
    from skymill.data.catalogue_files import find_column

    if not (options["dust_map"] or options["ebv"]):
        if options["coefficients"]:
            raise ConfigError("--extinction needs E(B-V): give --ebv or --dust-map")
        if options["dust_column"] or options["dust_scale"] != 1.0:
            raise ConfigError("--dust-column and --dust-scale are those of a --dust-map")
        _point_out(table, columns)
        return np.zeros(len(table)), dict.fromkeys(columns, 0.0)
    other = parse_coefficients(tuple(options["coefficients"]))
    coefficients = {
        band: extinction_coefficient(band, survey=options["camera"], other=other)
        for band in columns
    }
    if options["dust_map"]:
        settings = ExtinctionOptions(
            source="map", map_path=options["dust_map"], map_column=options["dust_column"],
            map_scale=options["dust_scale"],
        )  # fmt: skip
        ra, dec = read_positions(table, ra=options["ra"], dec=options["dec"])
        ebv = read_ebv(settings, ra, dec)
    else:
        try:
            ebv = np.full(len(table), float(options["ebv"]))
        except ValueError:
            ebv = find_column(table, [options["ebv"]], meaning="E(B-V)", option="--ebv")
    known = np.isfinite(ebv)
    if len(ebv) and not known.any():
        raise DataError("no object has an E(B-V): is the map of another part of the sky?")
    if not known.all():
        click.echo(f"warning: {int((~known).sum())} objects have no E(B-V) and no flux without it")
    click.echo(f"median E(B-V) {np.median(ebv[known]) if known.any() else np.nan:.4f} mag")
    return ebv, coefficients


def read_fluxes(
    table: Table, options: dict[str, Any]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Fluxes of the galaxies of a catalogue without extinction.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue.
    options : dict
        Values of `band_options`, `position_options` and `extinction_options`, and ``camera``.

    Returns
    -------
    bands : list of str
        At least two.
    flux, flux_err : (n, n_band) float64 [nJy]
        NaN where not measured.
    """
    import numpy as np

    from skymill.calibrate.column_map import read_band_fluxes

    columns = read_columns(table, options, kind="cmodel", minimum=2)
    ebv, coefficients = read_extinction(table, options, columns)
    flux, err = read_band_fluxes(table, columns)
    factor = 10.0 ** (0.4 * np.outer(ebv, [coefficients[band] for band in columns]))
    return list(columns), flux * factor, err * factor


def _point_out(table: Table, columns: dict[str, BandColumns]) -> None:
    """Say that there is a column of E(B-V), if the fluxes are not known to be dereddened."""
    found = [name for name in table.colnames if name.lower() in ("ebv", "e(b-v)", "e_bv")]
    own = all(any(mark in c.value for mark in _DEREDDENED) for c in columns.values())
    if found and not own:
        click.echo(
            f"note: no extinction is removed; the catalogue has a column {found[0]}: add "
            f"--ebv {found[0]} if its fluxes hold it"
        )


def read_reference(
    path: Path, entries: tuple[str, ...] = (), *, bands: bool = True, epoch_mjd: float = 57388.0
) -> Table:
    """A reference catalogue under the names of skymill.

    Parameters
    ----------
    path : Path
        The file.
    entries : tuple of str
        Columns of its bands, as ``g=VALUE,ERROR[,UNIT]``; common names if omitted.
    bands : bool
        False for positions alone.
    epoch_mjd : float [day]
        Epoch of its positions where it has no column of it, MJD.

    Returns
    -------
    astropy.table.Table
        Schema ``refcat``.
    """
    from skymill.calibrate.column_map import choose_band_columns
    from skymill.calibrate.foreign_stars import make_reference
    from skymill.data.catalogue_files import read_catalogue

    table = read_catalogue(path)
    columns = {}
    if bands:
        columns = choose_band_columns(
            table.colnames, entries=entries, kind="psf", option="--reference-band"
        )
    try:
        ra, dec = read_positions(table)
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return make_reference(table, columns, ra=ra, dec=dec, epoch_mjd=epoch_mjd)
