"""``skymill red-sequence``: the red members of a cluster from anyone's galaxy catalogue."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click

from skymill.cli.foreign_columns import (
    band_options,
    extinction_options,
    position_options,
    read_fluxes,
    read_positions,
)
from skymill.cli.parameters import CENTRE, make_folder

__all__ = ["red_sequence"]


@click.command(name="red-sequence")
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--z", "redshift", type=float, required=True, help="Redshift of the cluster.")
@click.option("--centre", type=CENTRE, required=True, help="Centre of the cluster [deg].")
@click.option("--camera", default="decam", show_default=True,
              help="Whose filters predict the colours: decam, sdss, bok, lsst, hsc.")  # fmt: skip
@band_options
@position_options
@extinction_options
@click.option("--id", "id_column", default=None, help="Column of names; row numbers if omitted.")
@click.option("--radius", default=1.0, show_default=True, help="Radius of the cluster [Mpc].")
@click.option("--field-min", default=2.0, show_default=True,
              help="Inner radius of the field around it [Mpc].")  # fmt: skip
@click.option("--max-mag", default=23.0, show_default=True, help="Faintest galaxy [mag].")
@click.option("--spectra", type=click.Path(path_type=Path), default=None,
              help="Table with ra, dec, z: purity and completeness are measured.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder of the products; made if absent.")  # fmt: skip
def red_sequence(catalogue: Path, **options: Any) -> None:
    """Find the red sequence in CATALOGUE, a table of galaxies (FITS, parquet, ECSV, CSV).

    Writes red_sequence.parquet (candidates with their probability of membership), the density map
    red_sequence_density.fits and red_sequence.png.
    """
    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.lensing.members.red_sequence import RedSequenceOptions, find_red_sequence
    from skymill.qa.red_sequence_figures import draw_red_sequence

    galaxies, bands = _galaxies(read_catalogue(catalogue), options)
    search = RedSequenceOptions(
        camera=options["camera"],
        bands=bands,
        radius_mpc=options["radius"],
        field_min_mpc=options["field_min"],
        max_mag=options["max_mag"],
    )
    found = find_red_sequence(
        galaxies, z=options["redshift"], centre=options["centre"], options=search
    )
    folder = make_folder(options["output"])
    write_catalogue(found.table, folder / "red_sequence.parquet")
    buffer = io.BytesIO()
    found.density.writeto(buffer)
    write_bytes(buffer.getvalue(), folder / "red_sequence_density.fits")
    name = catalogue.name.split(".")[0]
    picture = draw_red_sequence(
        found.table, found.density, found.ridge, catalogue=galaxies, title=name
    )
    write_bytes(picture, folder / "red_sequence.png")
    meta = found.table.meta
    click.echo(
        f"{len(found.table)} candidates of {len(galaxies)} galaxies; {meta['blue']} - "
        f"{meta['red']} = {meta['colour_at_middle']:.3f} at {meta['reference']} = "
        f"{meta['middle_mag']:.2f}"
    )
    click.echo(
        f"richness {meta['richness']:.1f} +- {meta['richness_err']:.1f}, "
        f"{meta['richness_bright']:.1f} above 0.2 L*, {meta['significance']:.1f} sigma"
    )
    if meta["covered_share"] < 0.8:
        click.echo(
            f"warning: only {100 * meta['covered_share']:.0f} % of the cluster's region has "
            "galaxies; the richness is scaled by it"
        )
    if options["spectra"] is not None:
        _grade(found.table, options, folder)


def _galaxies(table: Any, options: dict[str, Any]) -> tuple[Any, str]:
    """The columns under the names of the function, and the bands in which colours are sought."""
    import numpy as np
    from astropy.table import Table

    from skymill.data.errors import DataError
    from skymill.data.units import magnitude_error, magnitude_from_njy

    out = Table()
    identity = options["id_column"] or ("ID" if "ID" in table.colnames else None)
    if identity is not None and identity not in table.colnames:
        raise DataError(f"the catalogue has no column {identity!r}; name another with --id")
    out["ID"] = np.asarray(table[identity] if identity else np.arange(len(table))).astype(str)
    out["ra"], out["dec"] = read_positions(table, ra=options["ra"], dec=options["dec"])
    bands, flux, err = read_fluxes(table, options)
    # Without a choice of the bands those that bracket the break.
    bands_used = [b for b in bands if options["bands"] or b in "griz"]
    bands_used.sort(key="ugrizYy".find)  # from blue to red, however they were typed
    for k, band in enumerate(bands):
        out[f"{band}_cmodel_mag"] = magnitude_from_njy(flux[:, k])
        out[f"{band}_cmodel_magerr"] = magnitude_error(flux[:, k], err[:, k])
    return out, "".join(bands_used)


def _grade(sequence: Any, options: dict[str, Any], folder: Path) -> None:
    import numpy as np

    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.lensing.cosmology import FIDUCIAL
    from skymill.lensing.members.purity import grade_members
    from skymill.qa.red_sequence_figures import draw_grades

    distance = float(FIDUCIAL.angular_distance(options["redshift"]))
    radius = float(np.degrees(options["radius"] / distance)) * 60.0
    grades = grade_members(
        sequence, read_catalogue(options["spectra"]), z=options["redshift"],
        centre=options["centre"], radius_arcmin=radius,
    )  # fmt: skip
    write_catalogue(grades, folder / "red_sequence_grades.ecsv")
    write_bytes(draw_grades(grades), folder / "red_sequence_grades.png")
    half = grades[np.isclose(grades["threshold"], 0.5)][0]
    click.echo(
        f"{grades.meta['n_spectra']} spectra in the region; above a probability of 0.5: purity "
        f"{half['purity']:.2f} of {half['n_chosen']}, completeness {half['completeness']:.2f} of "
        f"{half['n_member']}"
    )
