"""``skymill lens``: mass maps, convergence, overlays and masses from anyone's catalogue."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skymill.cli.lens_catalogue import (
    build_options,
    catalogue_options,
    cut_rows,
    knobs,
    load_sample,
    match_redshifts,
    redshift_options,
)
from skymill.cli.parameters import CENTRE, make_folder
from skymill.lensing.cosmology import CosmologyOptions
from skymill.lensing.maps.aperture_mass import ApertureMassOptions
from skymill.lensing.maps.convergence import ConvergenceOptions
from skymill.lensing.maps.peaks import PeakOptions
from skymill.lensing.maps.rotation import RotationOptions
from skymill.lensing.masses.halo_fit import HaloFitOptions
from skymill.lensing.masses.halo_profiles import HaloOptions
from skymill.lensing.masses.mass_fit import MassFitOptions
from skymill.lensing.masses.sources import SourceOptions

if TYPE_CHECKING:
    from skymill.lensing.catalogue import ShearSample
    from skymill.lensing.maps.aperture_mass import ApertureMassMap


@click.group(name="lens")
def lens() -> None:
    """Mass maps and cluster masses from any shear catalogue (FITS, parquet, ECSV, CSV)."""


def _write_fits(hdus: Any, path: Path) -> None:
    from skymill.data.catalogue_files import write_bytes

    buffer = io.BytesIO()
    hdus.writeto(buffer)
    write_bytes(buffer.getvalue(), path)


def _warn_of_a_small_field(sample: ShearSample, mass_map: ApertureMassMap, remedy: str) -> None:
    """Say that all apertures are cut by the edge: a peak may be the edge's."""
    import numpy as np

    east, north, _, _ = sample.in_plane(sample.middle())
    side, smallest = float(min(np.ptp(east), np.ptp(north))), float(mass_map.apertures.min())
    if side < 4.0 * smallest:
        click.echo(
            f"warning: the field is {side:.1f} arcmin wide, and the smallest aperture has a radius "
            f"of {smallest:.1f}: most apertures are cut by the edge, where chance peaks are; "
            f"{remedy}"
        )


def _title(options: dict[str, Any]) -> str:
    return str(options["catalogue"].name.split(".")[0])


@lens.command(name="map")
@catalogue_options
@knobs(
    ApertureMassOptions,
    aperture_min_arcmin="aperture-min",
    aperture_max_arcmin="aperture-max",
    n_apertures="apertures",
    step_arcsec="step",
    extent_arcmin="extent",
)
@knobs(PeakOptions)
@knobs(RotationOptions, n_rotations="rotations", radial_bins="")
@click.option("--seed", default=1, show_default=True, help="Seed of the turned shapes.")
@click.option("--fits", "fits_path", type=click.Path(path_type=Path), default=None,
              help="Map file; OUTPUT/mass_map.fits if omitted.")  # fmt: skip
@click.option("--png", "png_path", type=click.Path(path_type=Path), default=None,
              help="Picture; OUTPUT/mass_map.png if omitted.")  # fmt: skip
@click.option("--peaks", "peaks_path", type=click.Path(path_type=Path), default=None,
              help="Peak table (.parquet, .ecsv, .csv); OUTPUT/peaks.ecsv if omitted.")  # fmt: skip
def map_command(**options: Any) -> None:
    """Map the aperture mass (E mode, B mode, noise) of CATALOGUE and list its peaks."""
    import numpy as np

    from skymill.data.catalogue_files import write_bytes, write_catalogue
    from skymill.lensing.maps.aperture_mass import make_aperture_mass_map
    from skymill.lensing.maps.peaks import find_peaks
    from skymill.lensing.maps.rotation import judge_peaks, make_rotated_maps
    from skymill.qa.mass_figures import draw_mass_map

    map_options = build_options(ApertureMassOptions, options)
    peak_options = build_options(PeakOptions, options)
    rotation = RotationOptions(n_rotations=options["n_rotations"])
    sample = load_sample(options)
    mass_map = make_aperture_mass_map(sample, centre=options["centre"], options=map_options)
    _warn_of_a_small_field(sample, mass_map, "set --aperture-min and --aperture-max")
    peaks = find_peaks(mass_map, peak_options)
    if rotation.n_rotations > 0:
        rotated = make_rotated_maps(
            sample, mass_map, rng=np.random.default_rng(options["seed"]), options=rotation,
            peaks=peak_options,
        )  # fmt: skip
        peaks = judge_peaks(peaks, mass_map, rotated)
    folder = make_folder(options["output"])
    _write_fits(mass_map.to_hdulist(), options["fits_path"] or folder / "mass_map.fits")
    picture = draw_mass_map(mass_map, peaks, title=_title(options))
    write_bytes(picture, options["png_path"] or folder / "mass_map.png")
    write_catalogue(peaks, options["peaks_path"] or folder / "peaks.ecsv")
    n_e = int((peaks["mode"] == "E").sum()) if len(peaks) else 0
    click.echo(f"{n_e} peaks in E and {len(peaks) - n_e} in B over {len(mass_map.apertures)} radii")
    if n_e:
        top = peaks[peaks["is_best"]][0]
        chance = f", by chance anywhere {top['p_global']:.2g}" if rotation.n_rotations else ""
        click.echo(
            f"highest E peak: S/N {top['snr']:.2f}, RA {top['ra']:.5f}, Dec {top['dec']:.5f} deg, "
            f"aperture {top['aperture']:.1f} arcmin{chance}"
        )


@lens.command(name="convergence")
@catalogue_options
@knobs(
    ConvergenceOptions,
    step_arcsec="step",
    extent_arcmin="extent",
    smoothing_arcmin="smoothing",
    n_reduced="reduced-iterations",
    n_noise="rotations",
)
@click.option("--seed", default=1, show_default=True, help="Seed of the turned shapes.")
def convergence_command(**options: Any) -> None:
    """Map the convergence of CATALOGUE: Kaiser-Squires and a Wiener filter, E and B."""
    import numpy as np

    from skymill.data.catalogue_files import write_bytes
    from skymill.lensing.maps.convergence import make_convergence_map
    from skymill.qa.mass_figures import draw_convergence

    sample = load_sample(options)
    maps = make_convergence_map(
        sample, rng=np.random.default_rng(options["seed"]), centre=options["centre"],
        options=build_options(ConvergenceOptions, options),
    )  # fmt: skip
    folder = make_folder(options["output"])
    _write_fits(maps.to_hdulist(), folder / "convergence.fits")
    picture = draw_convergence(maps, mark=options["centre"], title=_title(options))
    write_bytes(picture, folder / "convergence.png")
    y, x = np.unravel_index(int(maps.wiener_e.argmax()), maps.wiener_e.shape)
    ra, dec = maps.wcs.pixel_to_sky(x=[x], y=[y])
    click.echo(
        f"highest convergence: {maps.wiener_e[y, x]:.3f} (Wiener filter) at RA {ra[0]:.5f}, "
        f"Dec {dec[0]:.5f} deg; rms of B {maps.wiener_b.std():.3f}"
    )


@lens.command(name="overlay")
@click.argument("mass", type=click.Path(path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), required=True,
              help="Colour PNG of the export step, or a FITS image.")  # fmt: skip
@click.option("--xray", type=click.Path(path_type=Path), default=None,
              help="FITS image whose contours are drawn too.")  # fmt: skip
@click.option("--aperture", type=float, default=None,
              help="Aperture [arcmin]; that of the highest peak if omitted.")  # fmt: skip
@click.option("--centre", type=CENTRE, default=None, help="Position to mark [deg].")
@click.option("--png", "png_path", type=click.Path(path_type=Path), default=Path("overlay.png"),
              show_default=True, help="The picture.")  # fmt: skip
def overlay_command(**options: Any) -> None:
    """Draw the contours of MASS (a file of lens map or lens convergence) over an image."""
    from skymill.data.catalogue_files import open_images, write_bytes
    from skymill.data.errors import MissingInputError
    from skymill.lensing.maps.aperture_mass import ApertureMassMap
    from skymill.lensing.maps.convergence import ConvergenceMap
    from skymill.qa.mass_overlays import (
        draw_overlay,
        mass_contours,
        read_background,
        read_contours,
    )

    image = options["image"]
    with open_images(options["mass"]) as hdus:
        kind = ConvergenceMap if "WIENER_E" in [h.name for h in hdus] else ApertureMassMap
        contours = [mass_contours(kind.from_hdulist(hdus), aperture=options["aperture"])]
    if options["xray"] is not None:
        with open_images(options["xray"]) as hdus:
            contours.append(read_contours(hdus, label="X-rays", what=str(options["xray"])))
    if image.suffix.lower() == ".png":
        if not image.is_file():
            raise MissingInputError(f"there is no file {image}")
        background = read_background(image.read_bytes(), what=str(image))
    else:
        with open_images(image) as hdus:
            background = read_background(hdus, what=str(image))
    picture = draw_overlay(background, contours, mark=options["centre"])
    write_bytes(picture, options["png_path"])
    click.echo(f"{options['png_path']}: {', '.join(c.label for c in contours)}")


_SOURCE_NAMES = {
    "radius_min_mpc": "radius-min",
    "radius_max_mpc": "radius-max",
    "member_scale_mpc": "member-scale",
}


@lens.command(name="fit")
@catalogue_options
@redshift_options
@knobs(SourceOptions, **_SOURCE_NAMES)
@knobs(HaloOptions, miscentring_mpc="miscentring")
@knobs(MassFitOptions, n_bootstrap="bootstrap")
@knobs(CosmologyOptions, hubble_constant="hubble")
@click.option("--seed", default=1, show_default=True, help="Seed of the bootstrap.")
@click.option("--table", "table_path", type=click.Path(path_type=Path), default=None,
              help="Mass table; OUTPUT/mass_fit.ecsv if omitted.")  # fmt: skip
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), default=None,
              help="Profile table; OUTPUT/mass_profile.ecsv if omitted.")  # fmt: skip
@click.option("--png", "png_path", type=click.Path(path_type=Path), default=None,
              help="Picture; OUTPUT/mass_fit.png if omitted.")  # fmt: skip
def fit_command(**options: Any) -> None:
    """Fit the mass of one cluster in CATALOGUE around --centre, or around its highest peak."""
    import numpy as np

    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.lensing.maps.aperture_mass import make_aperture_mass_map
    from skymill.lensing.maps.peaks import best_peak, find_peaks
    from skymill.lensing.masses.mass_fit import fit_nfw_mass
    from skymill.qa.mass_figures import draw_mass_fit

    wanted = {
        "options": build_options(MassFitOptions, options),
        "sources": build_options(SourceOptions, options),
        "halo": build_options(HaloOptions, options),
        "cosmology": build_options(CosmologyOptions, options),
    }
    table = cut_rows(read_catalogue(options["catalogue"]), options["cuts"])
    sample = load_sample(options, table=table, **match_redshifts(options, table))
    centre = options["centre"]
    if centre is None:
        mass_map = make_aperture_mass_map(sample)
        centre = best_peak(find_peaks(mass_map))
        click.echo(f"centre: highest E peak at RA {centre[0]:.5f}, Dec {centre[1]:.5f} deg")
        _warn_of_a_small_field(sample, mass_map, "give --centre")
    rng = np.random.default_rng(options["seed"])
    fit = fit_nfw_mass(sample, z_lens=options["z_lens"], centre=centre, rng=rng, **wanted)  # type: ignore[arg-type]
    folder = make_folder(options["output"])
    write_catalogue(fit.table, options["table_path"] or folder / "mass_fit.ecsv")
    write_catalogue(fit.profile, options["profile_path"] or folder / "mass_profile.ecsv")
    picture = draw_mass_fit(fit, title=_title(options))
    write_bytes(picture, options["png_path"] or folder / "mass_fit.png")
    row = fit.table[0]
    weighed = options["large_scale_structure"]
    counted, within = ("all", ", contained") if weighed else ("shapes", "")
    click.echo(
        f"M200 = ({row['m200'] / 1e14:.2f} +- {row['m200_err'] / 1e14:.2f} {counted} +- "
        f"{row['m200_lss_err'] / 1e14:.2f} line of sight{within})e14 Msun, S/N {row['snr']:.1f}, "
        f"{row['n_galaxies']} galaxies, profile chi2 {row['chi2_profile']:.1f}/{row['dof_profile']}"
        f" (p = {row['p_profile']:.2f}), cross p = {row['p_cross']:.2f}"
    )
    if row["flags"] or row["limit_fraction"] > 0.025:
        click.echo(
            f"warning: {100 * row['limit_fraction']:.0f} % of the bootstrap masses stand at the "
            "end of the range searched: the mass is a limit"
        )


@lens.command(name="halos")
@catalogue_options
@redshift_options
@click.option("--halo", "positions", type=CENTRE, multiple=True, metavar="RA,DEC",
              help="Position of a halo [deg]; once for each.")  # fmt: skip
@click.option("--halo-z", "redshifts", type=float, multiple=True,
              help="Redshift of each halo, in order; --z-lens for all if omitted.")  # fmt: skip
@knobs(SourceOptions, **_SOURCE_NAMES, dilution="")
@knobs(HaloOptions, miscentring_mpc="", miscentred_fraction="")
@knobs(
    HaloFitOptions,
    n_bootstrap="bootstrap",
    n_steps="steps",
    centre_scatter_arcmin="centre-scatter",
)
@knobs(CosmologyOptions, hubble_constant="hubble")
@click.option("--seed", default=1, show_default=True, help="Seed of bootstrap and chains.")
def halos_command(**options: Any) -> None:
    """Fit one or several halos together: free concentrations and centres, Markov chains."""
    import numpy as np

    from skymill.data.catalogue_files import read_catalogue, write_bytes, write_catalogue
    from skymill.data.errors import ConfigError
    from skymill.lensing.masses.halo_fit import LensPosition, fit_halos
    from skymill.qa.mass_figures import draw_halo_fit

    places = list(options["positions"]) or [options["centre"]]
    if places == [None]:
        raise ConfigError("lens halos needs where the halos are: --halo RA,DEC, once for each")
    redshifts = list(options["redshifts"]) or [options["z_lens"]] * len(places)
    if len(redshifts) != len(places):
        raise ConfigError(
            f"--halo-z must be given once for each --halo; got {len(redshifts)} for {len(places)}"
        )
    lenses = [LensPosition(p[0], p[1], z) for p, z in zip(places, redshifts, strict=True)]
    table = cut_rows(read_catalogue(options["catalogue"]), options["cuts"])
    sample = load_sample(options, table=table, **match_redshifts(options, table))
    fit = fit_halos(
        sample, lenses, rng=np.random.default_rng(options["seed"]),
        options=build_options(HaloFitOptions, options),
        sources=build_options(SourceOptions, options),
        halo=build_options(HaloOptions, options),
        cosmology=build_options(CosmologyOptions, options),
    )  # fmt: skip
    folder = make_folder(options["output"])
    write_catalogue(fit.table, folder / "halos.ecsv")
    if len(fit.chain) or len(fit.bootstrap):
        write_bytes(draw_halo_fit(fit, title=_title(options)), folder / "halos.png")
    for row in fit.table:
        click.echo(
            f"halo {row['halo']}: M200 = {row['m200']:.3e} +- {row['m200_err']:.1e} Msun, "
            f"c = {row['c200']:.1f}, S/N {row['snr']:.1f}, residual p = {row['p_profile']:.2f}"
        )
