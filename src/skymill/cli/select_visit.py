"""``skymill select-visit``: tag the detectors that are good for lensing."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["select_visit"]

_P = "DECam/processing"


@click.command("select-visit")
@click.argument("repo", type=click.Path(path_type=Path))
@click.option("--band", required=True, help="Band of the visits.")
@click.option("--ra", type=float, required=True, help="Centre of the cluster [deg].")
@click.option("--dec", type=float, required=True, help="Centre of the cluster [deg].")
@click.option("--fwhm", type=float, help="Largest FWHM [pixel]; published: r 4.4, others 6.4.")
@click.option("--ellipticity", type=float, help="Published: r 0.13, others 0.33.")
@click.option("--max-distance", type=float, default=1.5, show_default=True, help="[deg]")
@click.option("--min-detectors", type=int, default=11, show_default=True, help="Of a visit.")
@click.option("--instrument", default="DECam", show_default=True)
@click.option("--input", "-i", "inputs", multiple=True, help=f"Default: {_P}/calexp_BAND.")
@click.option("--checks", multiple=True, help=f"Default: {_P}/check_visit_BAND.")
@click.option("--output", "-o", help=f"Default: {_P}/quality_detectors_BAND.")
@click.option("--table", type=click.Path(path_type=Path), help="Write the cuts to this file too.")
def select_visit(
    repo: Path,
    band: str,
    ra: float,
    dec: float,
    fwhm: float | None,
    ellipticity: float | None,
    max_distance: float,
    min_detectors: int,
    instrument: str,
    inputs: tuple[str, ...],
    checks: tuple[str, ...],
    output: str | None,
    table: Path | None,
) -> None:
    """Choose the detectors of a band by seeing, ellipticity, stars and distance; tag their data."""
    from lsst.daf.butler import Butler

    from skymill.calibrate.selection import SelectOptions, count_reasons, published_cuts
    from skymill.campaign.visit_selection import select_visits
    from skymill.data.errors import NoDataError

    published = published_cuts(band)
    options = SelectOptions(
        fwhm=published[0] if fwhm is None else fwhm,
        ellipticity=published[1] if ellipticity is None else ellipticity,
        max_distance=max_distance,
        min_detectors=min_detectors,
    )
    target = output or f"{_P}/quality_detectors_{band}"
    with Butler.from_config(str(repo), writeable=True) as butler:
        rows = select_visits(
            butler,
            band=band,
            instrument=instrument,
            centre=(ra, dec),
            checks=checks or (f"{_P}/check_visit_{band}",),
            inputs=inputs or (f"{_P}/calexp_{band}",),
            output=target,
            options=options,
        )
    if table is not None:
        rows.write(table, overwrite=True)
    counts = count_reasons(rows)
    lost = ", ".join(f"{n} by {word}" for word, n in counts.items() if word != "selected")
    visits = len(set(rows["visit"][rows["selected"]]))
    click.echo(
        f"{target}: {counts.get('selected', 0)} of {len(rows)} detectors of {visits} visits"
        + (f"; dropped {lost}" if lost else "")
    )
    if not visits:
        raise NoDataError(
            f"no detector of band {band} is good (dropped {lost or 'none'}); is the centre {ra:g}, "
            f"{dec:+g} on the data, and are the cuts (fwhm {options.fwhm:g} pixel, ellipticity "
            f"{options.ellipticity:g}, {min_detectors} detectors a visit) right?"
        )
