"""What the verbs of ``skymill lens`` share: reading a catalogue, options from dataclasses."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.foreign_columns import parse_cut
from skymill.cli.parameters import CENTRE, option_set

if TYPE_CHECKING:
    from skymill.lensing.catalogue import ShearSample

__all__ = ["build_options", "catalogue_options", "cut_rows", "knobs", "load_sample",
           "match_redshifts", "redshift_options"]  # fmt: skip


#: Argument and options of the verbs that read a shear catalogue.
catalogue_options = option_set(
    click.argument("catalogue", type=click.Path(path_type=Path)),
    click.option("--ra", default="ra", show_default=True, help="Column of right ascension [deg]."),
    click.option("--dec", default="dec", show_default=True, help="Column of declination [deg]."),
    click.option("--g1", default="g1", show_default=True, help="Column of the first component."),
    click.option("--g2", default="g2", show_default=True, help="Column of the second component."),
    click.option("--weight", default=None, help="Column of weights; all equal if omitted."),
    click.option(
        "--flip-g2/--no-flip-g2",
        default=False,
        help="Change the sign of g2: for catalogues in pixel axes with x to the West. skymill's "
        "own convention is x to the East, y to the North.",
    ),
    click.option(
        "--axes",
        type=click.Choice(["plane", "local"]),
        default="plane",
        show_default=True,
        help="Axes of the shear: of a tangent plane (coadds), or East and North at each galaxy.",
    ),
    click.option(
        "--factor",
        type=float,
        default=1.0,
        show_default=True,
        help="Multiply both components: 1/(2R) turns a distortion into a shear.",
    ),
    click.option(
        "--max-shear", type=float, default=2.0, show_default=True, help="Leave out larger ones."
    ),
    click.option(
        "--where",
        "cuts",
        multiple=True,
        metavar="COLUMN,MIN,MAX",
        help="Keep only rows with MIN <= COLUMN <= MAX; may be given many times.",
    ),
    click.option("--centre", type=CENTRE, default=None, help="Centre [deg]."),
    click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="Folder of the products; made if absent.",
    ),
)


#: Options of the verbs that need redshifts.
redshift_options = option_set(
    click.option("--z-lens", type=float, required=True, help="Redshift of the cluster."),
    click.option(
        "--z", default="z_phot", show_default=True, help="Column of the galaxies' redshifts."
    ),
    click.option(
        "--z-source", type=float, default=None, help="One redshift for all galaxies instead."
    ),
    click.option(
        "--mag", default=None, help="Column of magnitudes, for galaxies without redshift."
    ),
    click.option(
        "--photoz",
        type=click.Path(path_type=Path),
        default=None,
        help="Table with p(z) made by skymill, matched by ID.",
    ),
)


def knobs(options_class: type, **names: str) -> Callable[[Any], Any]:
    """Command-line options for the fields of an Options dataclass.

    Parameters
    ----------
    options_class : type
        The dataclass; defaults, units and help come from it.
    **names : str
        Field to option, without dashes: ``radius_min_mpc="radius-min"``. An empty name leaves the
        field out; fields that are not named keep their own.

    Returns
    -------
    callable
        A decorator; `build_options` turns the values back.
    """

    def decorate(function: Any) -> Any:
        hints = typing.get_type_hints(options_class)
        for spec in reversed(dataclasses.fields(options_class)):
            name = names.get(spec.name, spec.name.replace("_", "-"))
            if not name:
                continue
            unit = spec.metadata.get("unit", "")
            text = spec.metadata["doc"] + (f" [{unit}]" if unit else "") + "."
            if hints[spec.name] is bool:
                flag = f"--{name}/--no-{name}"
                function = click.option(
                    flag, spec.name, default=spec.default, show_default=True, help=text
                )(function)
                continue
            function = click.option(
                f"--{name}", spec.name, type=hints[spec.name], default=spec.default,
                show_default=True, help=text,
            )(function)  # fmt: skip
        return function

    return decorate


def build_options[Options](options_class: type[Options], values: dict[str, Any]) -> Options:
    """The Options dataclass of values that `knobs` collected.

    Parameters
    ----------
    options_class : type
        The dataclass.
    values : dict
        Arguments of the command.

    Returns
    -------
    dataclass
        Checked.
    """
    fields = dataclasses.fields(options_class)  # type: ignore[arg-type]
    return options_class(**{f.name: values[f.name] for f in fields if f.name in values})


def cut_rows(table: Any, cuts: tuple[str, ...]) -> Any:
    """Rows within limits of columns.

    Parameters
    ----------
    table : astropy.table.Table
        A table.
    cuts : tuple of str
        ``COLUMN,MIN,MAX``.

    Returns
    -------
    astropy.table.Table
        Those rows.
    """
    import numpy as np

    from skymill.data.catalogue_files import find_column

    for cut in cuts:
        name, low, high = parse_cut(cut, "--where")
        values = find_column(table, [name], meaning="cut", option="--where")
        table = table[np.asarray((values >= low) & (values <= high))]
    return table


def load_sample(options: dict[str, Any], **extra: Any) -> ShearSample:
    """Read the catalogue of a verb.

    Parameters
    ----------
    options : dict
        Values of `catalogue_options`.
    **extra : Any
        Further arguments of `ShearSample.from_columns`; ``table`` instead of reading the file.

    Returns
    -------
    ShearSample
        Usable rows; their number is printed.
    """
    from skymill.data.catalogue_files import find_column, read_catalogue
    from skymill.lensing.catalogue import ShearSample

    table = extra.pop("table", None)
    if table is None:
        table = cut_rows(read_catalogue(options["catalogue"]), options["cuts"])
    columns: dict[str, Any] = {
        name: find_column(table, [options[name]], meaning=meaning, option=f"--{name}")
        for name, meaning in (
            ("ra", "right ascension"),
            ("dec", "declination"),
            ("g1", "first component of the shear"),
            ("g2", "second component of the shear"),
        )
    }
    columns["g1"] = columns["g1"] * options["factor"]
    columns["g2"] = columns["g2"] * (
        -options["factor"] if options["flip_g2"] else options["factor"]
    )
    if options["weight"]:
        columns["weight"] = find_column(
            table, [options["weight"]], meaning="weight", option="--weight"
        )
    sample, dropped = ShearSample.from_columns(
        **columns, axes=options["axes"], max_shear=options["max_shear"], **extra
    )
    click.echo(
        f"{len(sample)} galaxies used, {dropped} of {len(table)} left out (not finite, weight <= 0 "
        f"or |g| >= {options['max_shear']})"
    )
    return sample


def match_redshifts(options: dict[str, Any], table: Any) -> dict[str, Any]:
    """Point redshifts, p(z) and magnitudes for the rows of the catalogue.

    Parameters
    ----------
    options : dict
        Values of `redshift_options`.
    table : astropy.table.Table
        The catalogue.

    Returns
    -------
    dict
        Arguments of `ShearSample.from_columns`.
    """
    import numpy as np

    from skymill.data.catalogue_files import find_column, read_catalogue
    from skymill.data.errors import ConfigError
    from skymill.photoz.storage import match_pz

    out: dict[str, Any] = {}
    if options["z_source"] is not None:
        if options["z_source"] <= options["z_lens"]:
            raise ConfigError(
                f"--z-source must be > --z-lens = {options['z_lens']}; got {options['z_source']}"
            )
        out["z"] = np.full(len(table), options["z_source"])
    else:
        out["z"] = find_column(
            table, [options["z"]], meaning="redshift", option="--z, or give one with --z-source"
        )
    if options["photoz"] is not None:
        pz_table = read_catalogue(options["photoz"])
        out["pz"], out["z_grid"] = match_pz(pz_table, table)
    if options["mag"] is not None:
        out["mag"] = find_column(table, [options["mag"]], meaning="magnitude", option="--mag")
    return {**out, "keep_unknown_z": True}
