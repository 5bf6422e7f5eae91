"""Numbers and figures of merit of a catalogue: depth, astrometry, PSF, star-galaxy correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import treecorr
from astropy.table import Table
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skymill.calibrate.catalogue_export import bands_of
from skymill.calibrate.match import match_sky
from skymill.calibrate.reference import load_references
from skymill.calibrate.robust import robust_sigma
from skymill.data.errors import NoDataError
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.data.units import MAG_ERR_FACTOR
from skymill.qa.mass_figures import figure_to_png

__all__ = ["QualityOptions", "draw_quality", "measure_quality"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Ranges of the measurements."""

    band: str = option("r", "Band of shapes")
    pixel_scale: float = option(0.263, "Pixel of the coadds", unit="arcsec")
    match_arcsec: float = option(0.5, "Largest separation of a match", unit="arcsec")
    epoch_mjd: float = option(
        0.0, "Epoch of the catalogue, MJD; 0 takes the reference's", unit="day"
    )
    max_galaxy_mag: float = option(23.5, "Faintest galaxy of the shape correlation", unit="mag")
    correlation_min_arcmin: float = option(0.5, "Smallest separation", unit="arcmin")
    correlation_max_arcmin: float = option(60.0, "Largest separation", unit="arcmin")
    correlation_bins: int = option(10, "Bins of separation, logarithmic")

    def __post_init__(self) -> None:
        check_range(self, "pixel_scale", low=0.0, low_open=True)
        check_range(self, "match_arcsec", low=0.0, low_open=True)
        check_range(self, "correlation_bins", low=2, high=100)


_Row = tuple[str, str, float, float, int, str, str]


def _values(table: Table, name: str) -> Float64Array:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(table[name], np.float64)


def _depth_rows(catalogue: Table, band: str) -> list[_Row]:
    """Magnitudes at S/N 10 and 20, and the magnitude of half completeness."""
    rows: list[_Row] = []
    mag, err = _values(catalogue, f"{band}_cmodel_mag"), _values(catalogue, f"{band}_cmodel_magerr")
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = MAG_ERR_FACTOR / err
    for target in (10, 20):
        near = (np.abs(snr - target) < 1) & np.isfinite(mag)
        n = int(near.sum())
        value = float(np.median(mag[near])) if n else np.nan
        error = float(1.2533 * robust_sigma(mag[near]) / np.sqrt(n)) if n > 1 else np.nan
        rows.append((f"mag_at_snr_{target}", band, value, error, n, "mag",
                     f"median model magnitude at S/N {target - 1} to {target + 1}"))  # fmt: skip
    limit, n = completeness_limit(mag)
    rows.append(("mag_half_complete", band, limit, np.nan, n, "mag",
                 "counts fall to half of the power law fitted to brighter ones"))  # fmt: skip
    return rows


def completeness_limit(magnitude: Float64Array, *, step: float = 0.1) -> tuple[float, int]:
    """Magnitude where the number counts fall to half of their extrapolation.

    Parameters
    ----------
    magnitude : (n,) float64 [mag]
        Magnitudes.
    step : float [mag]
        Width of the bins.

    Returns
    -------
    float [mag]
        The limit; NaN if the counts are too few (less than 200 objects) or do not fall.
    int
        Objects used.
    """
    good = magnitude[np.isfinite(magnitude) & (magnitude > 10) & (magnitude < 35)]
    if len(good) < 200:
        return np.nan, 0
    edges = np.arange(np.floor(good.min()), np.ceil(good.max()) + step, step)
    counts, _ = np.histogram(good, edges)
    smooth = np.convolve(counts, np.ones(5) / 5.0, mode="same")
    centre = 0.5 * (edges[:-1] + edges[1:])
    peak = int(smooth.argmax())
    fitted = (centre > centre[peak] - 2.0) & (centre < centre[peak] - 0.5) & (counts > 0)
    if fitted.sum() < 5:
        return np.nan, 0
    line = np.polyfit(centre[fitted], np.log10(counts[fitted]), 1, w=np.sqrt(counts[fitted]))
    ratio = smooth / 10.0 ** np.polyval(line, centre)
    below = np.flatnonzero((ratio < 0.5) & (np.arange(len(ratio)) >= peak - 5))
    if len(below) == 0:
        return np.nan, 0
    i = int(below[0])
    if i == 0:
        return float(centre[0]), len(good)
    return float(np.interp(0.5, [ratio[i], ratio[i - 1]], [centre[i], centre[i - 1]])), len(good)


def _astrometry(
    catalogue: Table, references: Sequence[Table], options: QualityOptions
) -> tuple[list[_Row], Float64Array]:
    """Offsets of stars from the reference: rows, and (2, n) offsets [mas]."""
    none = np.zeros((2, 0))
    shards = [t for t in references if len(t)]
    if not shards:
        return [], none
    epoch = options.epoch_mjd or float(np.median(np.asarray(shards[0]["epoch"])))
    try:
        stars = load_references(shards, band="g", epoch_mjd=epoch, flux_needed=False)
    except NoDataError:
        return [], none
    ra, dec = _values(catalogue, "ra"), _values(catalogue, "dec")
    pairs = match_sky(ra, dec, stars.ra, stars.dec, radius_arcsec=options.match_arcsec)
    if len(pairs) < 3:
        return [], none
    d_ra = (ra[pairs.first] - stars.ra[pairs.second] + 180.0) % 360.0 - 180.0
    east = d_ra * np.cos(np.radians(dec[pairs.first])) * 3.6e6
    north = (dec[pairs.first] - stars.dec[pairs.second]) * 3.6e6
    rows: list[_Row] = []
    n = len(pairs)
    for name, value in (("ra", east), ("dec", north)):
        scatter = float(robust_sigma(value))
        rows.append((f"astrometry_offset_{name}", "", float(np.median(value)),
                     1.2533 * scatter / np.sqrt(n), n, "mas",
                     "median position less that of the reference"))  # fmt: skip
        rows.append((f"astrometry_scatter_{name}", "", scatter, scatter / np.sqrt(2 * n), n, "mas",
                     "robust scatter of the positions about the reference"))  # fmt: skip
    return rows, np.stack([east, north])


def _correlation(
    catalogue: Table, options: QualityOptions
) -> tuple[list[_Row], tuple[Float64Array, Float64Array, Float64Array] | None]:
    """Correlation of the PSF's shape at stars with the shapes of galaxies."""
    star = np.asarray(catalogue["psf_used"], bool)
    mag = _values(catalogue, f"{options.band}_cmodel_mag")
    e1, e2 = _values(catalogue, "e1"), _values(catalogue, "e2")
    p1, p2 = _values(catalogue, "sdss_psf_e1"), _values(catalogue, "sdss_psf_e2")
    with np.errstate(invalid="ignore"):
        galaxy = (_values(catalogue, "extendedness") > 0.5) & (mag < options.max_galaxy_mag)
        galaxy &= np.hypot(e1, e2) < 2
    star &= np.isfinite(p1) & np.isfinite(p2)
    if star.sum() < 20 or galaxy.sum() < 100:
        return [], None

    def catalog(rows: NDArray[np.bool_], a: Float64Array, b: Float64Array) -> treecorr.Catalog:
        # Pixel axes have x to the West: sky axes change the sign of the second component.
        return treecorr.Catalog(
            ra=_values(catalogue, "ra")[rows], dec=_values(catalogue, "dec")[rows],
            g1=a[rows] - a[rows].mean(), g2=-(b[rows] - b[rows].mean()),
            ra_units="deg", dec_units="deg",
        )  # fmt: skip

    gg = treecorr.GGCorrelation(
        min_sep=options.correlation_min_arcmin, max_sep=options.correlation_max_arcmin,
        nbins=options.correlation_bins, sep_units="arcmin", num_threads=1,
    )  # fmt: skip
    gg.process(catalog(star, p1, p2), catalog(galaxy, e1, e2))
    sigma = np.sqrt(gg.varxip)
    used = gg.npairs > 0
    if not used.any():
        return [], None
    weight = 1.0 / sigma[used] ** 2
    mean = float(np.sum(weight * gg.xip[used]) / weight.sum())
    row: _Row = ("star_galaxy_xi_plus", options.band, mean, float(weight.sum() ** -0.5),
                 int(galaxy.sum()), "", "mean correlation of PSF and galaxy shapes")  # fmt: skip
    return [row], (np.exp(gg.meanlogr[used]), gg.xip[used], sigma[used])


def _fwhm(catalogue: Table, options: QualityOptions) -> Float64Array:
    """FWHM of the PSF of each object [arcsec], 2 sqrt(ln 2) sqrt(xx + yy) as of a Gaussian."""
    trace = _values(catalogue, "sdss_psf_xx") + _values(catalogue, "sdss_psf_yy")
    with np.errstate(invalid="ignore"):
        return 2.0 * np.sqrt(np.log(2.0)) * np.sqrt(trace) * options.pixel_scale


def measure_quality(
    catalogue: Table,
    references: Sequence[Table] = (),
    *,
    visits: Sequence[Table] = (),
    options: QualityOptions = QualityOptions(),
) -> Table:
    """Measure a catalogue.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    references : sequence of astropy.table.Table
        Shards of an astrometric reference in the ``refcat`` schema.
    visits : sequence of astropy.table.Table
        Visit summaries.
    options : QualityOptions
        Ranges.

    Returns
    -------
    astropy.table.Table
        Schema ``qualityTable``; what cannot be measured has value NaN and n = 0.
    """
    rows: list[_Row] = [
        ("objects", "", float(len(catalogue)), np.nan, len(catalogue), "", "objects exported")
    ]
    for band in bands_of(catalogue):
        rows += _depth_rows(catalogue, band)
    rows += _astrometry(catalogue, references, options)[0]
    rows += _correlation(catalogue, options)[0]
    fwhm = _fwhm(catalogue, options)
    fwhm = fwhm[np.isfinite(fwhm)]
    if len(fwhm):
        rows.append(("psf_fwhm", options.band, float(np.median(fwhm)), float(robust_sigma(fwhm)),
                     len(fwhm), "arcsec", "median FWHM of the PSF, and its scatter"))  # fmt: skip
    rows += _visit_rows(visits)
    columns = list(zip(*rows, strict=True))
    names = ("quantity", "band", "value", "error", "n", "value_unit", "description")
    kinds = ("U48", "U8", "f8", "f8", "i8", "U16", "U160")
    table = Table({name: np.array(c, k) for name, c, k in zip(names, columns, kinds, strict=True)})
    return load_schema("qualityTable").apply(table)


def _visit_rows(visits: Sequence[Table]) -> list[_Row]:
    """Exposures of each band."""
    by_band: dict[str, list[int]] = {}
    for table in visits:
        for band in np.unique(np.asarray(table["band"]).astype(str)) if len(table) else ():
            same = np.asarray(table["band"]).astype(str) == band
            by_band.setdefault(str(band), []).append(int(same.sum()))
    return [
        ("visits", band, float(len(ccds)), np.nan, sum(ccds), "", "exposures; n counts the CCDs")
        for band, ccds in sorted(by_band.items())
    ]


def draw_quality(
    catalogue: Table,
    references: Sequence[Table] = (),
    *,
    options: QualityOptions = QualityOptions(),
) -> bytes:
    """Draw counts, errors, astrometry, PSF and shape correlation.

    Parameters
    ----------
    catalogue, references, options
        As of `measure_quality`.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(13, 8), layout="constrained")
    (a, b, c), (d, e, f) = figure.subplots(2, 3)
    for band in bands_of(catalogue):
        mag = _values(catalogue, f"{band}_cmodel_mag")
        err = _values(catalogue, f"{band}_cmodel_magerr")
        good = np.isfinite(mag) & np.isfinite(err) & (err > 0)
        if good.any():
            a.hist(mag[good], bins=np.arange(14, 29, 0.25), histtype="step", label=band)
            b.plot(mag[good][:5000], err[good][:5000], ",", label=band)
    a.set(xlabel="model magnitude", ylabel="objects", yscale="log")
    b.set(xlabel="model magnitude", ylabel="error [mag]", yscale="log", ylim=(1e-3, 1))
    for snr in (5, 10, 20):
        b.axhline(MAG_ERR_FACTOR / snr, color="0.6", lw=0.7)
    if a.get_legend_handles_labels()[1]:
        a.legend(fontsize=8)
    offsets = _astrometry(catalogue, references, options)[1]
    if offsets.size:
        c.plot(offsets[0], offsets[1], ".", ms=2)
    c.set(xlabel="East [mas]", ylabel="North [mas]", title="less reference")
    ra, dec, fwhm = _values(catalogue, "ra"), _values(catalogue, "dec"), _fwhm(catalogue, options)
    good = np.isfinite(fwhm)
    if good.any():
        points = d.scatter(ra[good], dec[good], c=fwhm[good], s=1, rasterized=True)
        figure.colorbar(points, ax=d, label="PSF FWHM [arcsec]")
    d.invert_xaxis()
    d.set(xlabel="RA [deg]", ylabel="Dec [deg]")
    curve = _correlation(catalogue, options)[1]
    if curve is not None:
        e.errorbar(curve[0], curve[1], curve[2], fmt="o", ms=4)
        e.set_xscale("log")
    e.axhline(0, color="0.6", lw=0.7)
    e.set(xlabel="separation [arcmin]", ylabel="PSF-galaxy correlation")
    f.plot(ra, dec, ",", color="k")
    f.invert_xaxis()
    f.set(xlabel="RA [deg]", ylabel="Dec [deg]", title=f"{len(catalogue)} objects")
    return figure_to_png(figure)
