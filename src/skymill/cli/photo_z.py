"""``skymill photo-z``: photometric redshifts of anyone's catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.foreign_columns import (
    band_options,
    extinction_options,
    position_options,
    read_fluxes,
)
from skymill.cli.parameters import make_folder

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.photoz.options import PhotozOptions


@click.command(name="photo-z")
@click.argument("catalogue", type=click.Path(path_type=Path))
@band_options
@position_options
@extinction_options
@click.option("--id", "id_column", default="ID", show_default=True, help="Column of identifiers.")
@click.option("--camera", default="decam", show_default=True,
              help="decam, sdss, legacy_north, bok, mosaic3, ps1, megacam, lsst, hsc, "
              "sm_dr4 (SkyMapper).")  # fmt: skip
@click.option("--filter", "filters", multiple=True, metavar="BAND=CURVE",
              help="Another filter curve of speclite, as g=BASS-g.")  # fmt: skip
@click.option("--prior", default="ngvs", show_default=True, help="ngvs, hdfn or flat.")
@click.option("--prior-band", default="i", show_default=True, help="Band of the prior.")
@click.option("--likelihood", default="profile", show_default=True, help="profile or marginal.")
@click.option("--min-error", default=0.03, show_default=True, help="Added to every error [mag].")
@click.option("--interpolate", default=2, show_default=True, help="Mixtures between templates.")
@click.option("--z-max", default=3.0, show_default=True, help="Last redshift.")
@click.option("--dz", default=0.002, show_default=True, help="Step of the redshifts.")
@click.option("--zero-point", "zero_points", multiple=True, metavar="BAND=MAG",
              help="Added to the magnitudes of a band, as u=-0.04.")  # fmt: skip
@click.option("--z-spec", default=None, help="Column of spectroscopic redshifts, for the metrics.")
@click.option("--train", is_flag=True, help="Train zero points on half of the spectroscopic "
              "redshifts; the metrics are those of the other half.")  # fmt: skip
@click.option("--seed", default=1, show_default=True, help="Seed of the choice of the halves.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder of the products; made if absent.")  # fmt: skip
@click.option("--table", "table_path", type=click.Path(path_type=Path), default=None,
              help="Table of redshifts with p(z); OUTPUT/photo_z.parquet if omitted.")  # fmt: skip
def photo_z(**options: Any) -> None:
    """Estimate redshifts with p(z) for each row of CATALOGUE (FITS, parquet, ECSV, CSV)."""
    import dataclasses

    import numpy as np

    from skymill.data.catalogue_files import (
        find_column,
        read_catalogue,
        write_bytes,
        write_catalogue,
    )
    from skymill.photoz.estimate import estimate_photoz
    from skymill.qa.photoz_figures import draw_photoz

    settings = _settings(options)
    table = read_catalogue(options["catalogue"])
    bands, flux, err = read_fluxes(table, options)
    truth = None
    if options["z_spec"]:
        truth = find_column(
            table, [options["z_spec"]], meaning="spectroscopic redshift", option="--z-spec"
        )
        # Catalogues write 0, -1 or -99 where there is no spectrum.
        truth = np.where(truth > 0, truth, np.nan)
    graded, trained = truth, None
    if options["train"]:
        trained, graded = _train(flux, err, truth, bands, settings, options["seed"])
        settings = dataclasses.replace(settings, zero_points=_entries(trained))
    result = estimate_photoz(flux, err, bands=bands, options=settings)
    if options["id_column"] in table.colnames:
        names = np.asarray(np.ma.filled(table[options["id_column"]])).astype(str)
        result.add_column(names, name="ID", index=0)
    if truth is not None:
        result["spec_z"] = truth
    folder = make_folder(options["output"])
    path = options["table_path"] or folder / "photo_z.parquet"
    write_catalogue(result, path)
    figure = draw_photoz(result, graded, title=options["catalogue"].name)
    write_bytes(figure, folder / "photo_z.png")
    if trained is not None:
        write_catalogue(trained, folder / "photo_z_zero_points.ecsv")
    _report(result, bands, path)
    if graded is not None:
        _grade(result, graded, folder / "photo_z_metrics.ecsv")


def _settings(options: dict[str, Any]) -> PhotozOptions:
    from skymill.photoz.options import PhotozOptions

    return PhotozOptions(
        camera=options["camera"],
        filters=tuple(options["filters"]),
        prior=options["prior"],
        prior_band=options["prior_band"],
        likelihood=options["likelihood"],
        min_mag_err=options["min_error"],
        n_interpolate=options["interpolate"],
        z_max=options["z_max"],
        dz=options["dz"],
        zero_points=tuple(options["zero_points"]),
    )


def _train(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    truth: NDArray[np.float64] | None,
    bands: list[str],
    settings: PhotozOptions,
    seed: int,
) -> tuple[Table, NDArray[np.float64]]:
    """Zero points from half of the spectra, and the redshifts of the other half."""
    import numpy as np

    from skymill.data.errors import ConfigError
    from skymill.photoz.training import train_zero_points

    if truth is None:
        raise ConfigError("--train needs spectroscopic redshifts: name their column with --z-spec")
    half = np.random.default_rng(seed).random(len(truth)) < 0.5
    trained = train_zero_points(
        flux, err, np.where(half, truth, np.nan), bands=bands, photoz=settings
    )
    for row in trained:
        click.echo(
            f"zero point {row['band']}: {row['offset']:+.4f}"
            + (f" +- {row['offset_err']:.4f}" if np.isfinite(row["offset_err"]) else "")
            + " mag"
            + (f" ({row['message']})" if row["message"] else "")
        )
    return trained, np.where(half, np.nan, truth)


def _entries(table: Table) -> tuple[str, ...]:
    from skymill.photoz.training import zero_point_entries

    return zero_point_entries(table)


def _report(result: Table, bands: list[str], path: Path) -> None:
    import numpy as np

    good = np.isfinite(np.asarray(result["z_phot"]))
    absent = result.meta["bands_absent"]
    if absent:
        click.echo(f"warning: measured for no object, and left out: {absent}")
        bands = [band for band in bands if band not in absent.split(",")]
    click.echo(
        f"{int(good.sum())} of {len(result)} objects have a redshift from {', '.join(bands)}; "
        f"median {np.median(np.asarray(result['z_phot'])[good]) if good.any() else np.nan:.3f}; "
        f"wrote {path}"
    )
    if not good.all():
        click.echo(f"{int((~good).sum())} have fewer than two bands or no fit: see photoz_flags")


def _grade(result: Table, truth: NDArray[np.float64], path: Path) -> None:
    from skymill.data.catalogue_files import write_catalogue
    from skymill.photoz.metrics import measure_photoz

    metrics = measure_photoz(result, truth)
    write_catalogue(metrics, path)
    for row in metrics[metrics["estimate"] == "z_phot"]:
        click.echo(
            f"{row['sample']}: {row['n']} spectra, NMAD {row['nmad']:.4f}, outliers "
            f"{row['outliers']:.4f}, bias {row['bias']:+.4f}, CDE loss {row['cde_loss']:.3f}, "
            f"PIT ends {row['pit_low']:.3f} and {row['pit_high']:.3f}"
        )
