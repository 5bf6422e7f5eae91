"""``skymill lens map`` and ``skymill lens fit``: mass maps and masses from anyone's catalogue."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.parameters import CENTRE, make_folder

if TYPE_CHECKING:
    from skymill.lensing.catalogue import ShearSample


_CATALOGUE_OPTIONS = [
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
]


def _catalogue_options(function: Any) -> Any:
    for decorate in reversed(_CATALOGUE_OPTIONS):
        function = decorate(function)
    return function


@click.group(name="lens")
def lens() -> None:
    """Mass maps and cluster masses from any shear catalogue (FITS, parquet, ECSV, CSV)."""


def _cut(table: Any, cuts: tuple[str, ...]) -> Any:
    import numpy as np

    from skymill.data.errors import ConfigError
    from skymill.lensing.files import find_column

    for cut in cuts:
        try:
            name, low, high = cut.split(",")
            limits = float(low), float(high)
        except ValueError:
            raise ConfigError(f"--where takes COLUMN,MIN,MAX; got {cut!r}") from None
        values = find_column(table, [name], meaning="cut", option="--where")
        table = table[np.asarray((values >= limits[0]) & (values <= limits[1]))]
    return table


def _load(options: dict[str, Any], **extra: Any) -> ShearSample:
    from skymill.lensing.catalogue import ShearSample
    from skymill.lensing.files import find_column, read_catalogue

    table = extra.pop("table", None)
    if table is None:
        table = _cut(read_catalogue(options["catalogue"]), options["cuts"])
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


@lens.command(name="map")
@_catalogue_options
@click.option("--filter", "filter_name", default="schirmer", show_default=True,
              help="schirmer, polynomial or gaussian.")  # fmt: skip
@click.option("--aperture-min", default=2.0, show_default=True, help="Smallest radius [arcmin].")
@click.option("--aperture-max", default=0.0, help="Largest radius [arcmin]; half the field if 0.")
@click.option("--apertures", "n_apertures", default=27, show_default=True, help="How many radii.")
@click.option("--step", default=26.3, show_default=True, help="Distance of pixels [arcsec].")
@click.option("--extent", default=0.0, help="Side of the map [arcmin]; that of the field if 0.")
@click.option("--threshold", default=3.0, show_default=True, help="S/N of a peak.")
@click.option("--min-area", default=5, show_default=True, help="Pixels of a peak.")
@click.option("--fits", "fits_path", type=click.Path(path_type=Path), default=None,
              help="Map file; OUTPUT/mass_map.fits if omitted.")  # fmt: skip
@click.option("--png", "png_path", type=click.Path(path_type=Path), default=None,
              help="Picture; OUTPUT/mass_map.png if omitted.")  # fmt: skip
@click.option("--peaks", "peaks_path", type=click.Path(path_type=Path), default=None,
              help="Peak table (.parquet, .ecsv, .csv); OUTPUT/peaks.ecsv if omitted.")  # fmt: skip
def map_command(**options: Any) -> None:
    """Map the aperture mass (E mode, B mode, noise) of CATALOGUE and list its peaks."""
    from skymill.lensing.aperture_mass import ApertureMassOptions, make_aperture_mass_map
    from skymill.lensing.files import write_bytes, write_catalogue
    from skymill.lensing.peaks import PeakOptions, find_peaks
    from skymill.qa.mass_figures import draw_mass_map

    map_options = ApertureMassOptions(
        filter=options["filter_name"],
        aperture_min_arcmin=options["aperture_min"],
        aperture_max_arcmin=options["aperture_max"],
        n_apertures=options["n_apertures"],
        step_arcsec=options["step"],
        extent_arcmin=options["extent"],
    )
    peak_options = PeakOptions(threshold=options["threshold"], min_area=options["min_area"])
    sample = _load(options)
    mass_map = make_aperture_mass_map(sample, centre=options["centre"], options=map_options)
    peaks = find_peaks(mass_map, peak_options)
    folder = make_folder(options["output"])
    buffer = io.BytesIO()
    mass_map.to_hdulist().writeto(buffer)
    write_bytes(buffer.getvalue(), options["fits_path"] or folder / "mass_map.fits")
    picture = draw_mass_map(mass_map, peaks, title=options["catalogue"].name.split(".")[0])
    write_bytes(picture, options["png_path"] or folder / "mass_map.png")
    write_catalogue(peaks, options["peaks_path"] or folder / "peaks.ecsv")
    n_e = int((peaks["mode"] == "E").sum()) if len(peaks) else 0
    click.echo(f"{n_e} peaks in E and {len(peaks) - n_e} in B over {len(mass_map.apertures)} radii")
    if n_e:
        top = peaks[peaks["is_best"]][0]
        click.echo(
            f"highest E peak: S/N {top['snr']:.2f}, RA {top['ra']:.5f}, Dec {top['dec']:.5f} deg, "
            f"aperture {top['aperture']:.1f} arcmin"
        )


def _redshifts(options: dict[str, Any], table: Any) -> dict[str, Any]:
    """Point redshifts and p(z) for the rows of the catalogue."""
    import numpy as np

    from skymill.data.errors import ConfigError
    from skymill.lensing.files import find_column, read_catalogue
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
    return out


@lens.command(name="fit")
@_catalogue_options
@click.option("--z-lens", type=float, required=True, help="Redshift of the cluster.")
@click.option("--z", default="z_phot", show_default=True, help="Column of the galaxies' redshifts.")
@click.option("--z-source", type=float, default=None, help="One redshift for all galaxies instead.")
@click.option("--photoz", type=click.Path(path_type=Path), default=None,
              help="Table with p(z) made by skymill, matched by ID.")  # fmt: skip
@click.option("--radius-min", default=0.2, show_default=True, help="Inner radius [Mpc].")
@click.option("--radius-max", default=3.0, show_default=True, help="Outer radius [Mpc].")
@click.option("--z-margin", default=0.1, show_default=True, help="Sources lie behind by it.")
@click.option("--concentration", default=0.0, help="Concentration; mass relation if 0.")
@click.option("--bootstrap", default=2000, show_default=True, help="Bootstrap samples.")
@click.option("--hubble", default=70.0, show_default=True, help="Hubble constant [km/s/Mpc].")
@click.option("--omega-matter", default=0.3, show_default=True, help="Matter density.")
@click.option("--seed", default=1, show_default=True, help="Seed of the bootstrap.")
@click.option("--table", "table_path", type=click.Path(path_type=Path), default=None,
              help="Mass table; OUTPUT/mass_fit.ecsv if omitted.")  # fmt: skip
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), default=None,
              help="Profile table; OUTPUT/mass_profile.ecsv if omitted.")  # fmt: skip
@click.option("--png", "png_path", type=click.Path(path_type=Path), default=None,
              help="Picture; OUTPUT/mass_fit.png if omitted.")  # fmt: skip
def fit_command(**options: Any) -> None:
    """Fit an NFW mass to CATALOGUE around --centre, or around its highest aperture-mass peak."""
    import numpy as np

    from skymill.lensing.aperture_mass import make_aperture_mass_map
    from skymill.lensing.cosmology import CosmologyOptions
    from skymill.lensing.files import read_catalogue, write_bytes, write_catalogue
    from skymill.lensing.mass_fit import MassFitOptions, fit_nfw_mass
    from skymill.lensing.peaks import best_peak, find_peaks
    from skymill.lensing.profiles import HaloOptions
    from skymill.lensing.sources import SourceOptions
    from skymill.qa.mass_figures import draw_mass_fit

    fit_options = MassFitOptions(n_bootstrap=options["bootstrap"])
    source_options = SourceOptions(
        radius_min_mpc=options["radius_min"],
        radius_max_mpc=options["radius_max"],
        z_margin=options["z_margin"],
    )
    universe = CosmologyOptions(
        hubble_constant=options["hubble"], omega_matter=options["omega_matter"]
    )
    table = _cut(read_catalogue(options["catalogue"]), options["cuts"])
    sample = _load(options, table=table, **_redshifts(options, table))
    centre = options["centre"]
    if centre is None:
        centre = best_peak(find_peaks(make_aperture_mass_map(sample)))
        click.echo(f"centre: highest E peak at RA {centre[0]:.5f}, Dec {centre[1]:.5f} deg")
    fit = fit_nfw_mass(
        sample,
        z_lens=options["z_lens"],
        centre=centre,
        rng=np.random.default_rng(options["seed"]),
        options=fit_options,
        sources=source_options,
        halo=HaloOptions(concentration=options["concentration"]),
        cosmology=universe,
    )
    folder = make_folder(options["output"])
    write_catalogue(fit.table, options["table_path"] or folder / "mass_fit.ecsv")
    write_catalogue(fit.profile, options["profile_path"] or folder / "mass_profile.ecsv")
    picture = draw_mass_fit(fit, title=options["catalogue"].name.split(".")[0])
    write_bytes(picture, options["png_path"] or folder / "mass_fit.png")
    row = fit.table[0]
    click.echo(
        f"M200 = {row['m200']:.3e} +- {row['m200_err']:.1e} Msun, S/N {row['snr']:.1f}, "
        f"{row['n_galaxies']} galaxies, profile chi2 {row['chi2_profile']:.1f}/{row['dof_profile']}"
        f" (p = {row['p_profile']:.2f}), cross p = {row['p_cross']:.2f}"
    )
    if row["flags"] or row["limit_fraction"] > 0.025:
        click.echo(
            f"warning: {100 * row['limit_fraction']:.0f} % of the bootstrap masses stand at the "
            "end of the range searched: the mass is a limit"
        )
