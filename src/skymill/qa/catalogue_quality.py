"""Numbers of merit of a catalogue: depth, astrometry, PSF, null tests of the shears, exposures.

What cannot be measured is absent, or NaN with n = 0: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.catalogue_export import bands_of
from skymill.calibrate.match import match_sky
from skymill.calibrate.reference import load_references
from skymill.data.errors import DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.data.tables import float_column, load_schema
from skymill.qa.depth import (
    SNR_LEVELS,
    Counts,
    count_magnitudes,
    magnitudes_at_snr,
    median_with_error,
)
from skymill.qa.psf_quality import (
    StarResiduals,
    coadd_star_residuals,
    measure_rho,
    residual_summary,
    visit_star_residuals,
)
from skymill.shear.null_tests import NullTestOptions, run_null_tests

__all__ = ["Quality", "QualityOptions", "measure_quality", "psf_fwhm"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Ranges of the measurements."""

    band: str = option("r", "Band of shapes")
    pixel_scale: float = option(0.263, "Pixel of the coadds", unit="arcsec")
    match_arcsec: float = option(0.5, "Largest separation of a match", unit="arcsec")
    epoch_mjd: float = option(
        0.0,
        "Epoch of the catalogue, MJD; 0 takes the mean of the visits, or without them that of the "
        "reference",
        unit="day",
    )
    correlation_min_arcmin: float = option(0.5, "Smallest separation", unit="arcmin")
    correlation_max_arcmin: float = option(20.0, "Largest separation", unit="arcmin")
    correlation_bins: int = option(8, "Bins of separation, logarithmic")
    max_patches: int = option(25, "Patches of the null tests' errors; fewer with few galaxies")
    seed: int = option(1, "Seed of the random points of the null tests")

    def __post_init__(self) -> None:
        check_range(self, "pixel_scale", low=0.0, low_open=True)
        check_range(self, "match_arcsec", low=0.0, low_open=True)
        check_range(self, "correlation_bins", low=2, high=100)
        check_range(self, "correlation_min_arcmin", low=0.0, low_open=True)
        check_range(self, "max_patches", low=4, high=1000)


@dataclass(frozen=True)
class Quality:
    """What was measured.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``qualityTable``.
    counts : dict of str to Counts
        Number counts of each band.
    offsets : (2, n) float64 [mas]
        East and North of stars from the reference.
    visit_stars, coadd_stars : StarResiduals or None
        Stars with the PSF model at their places.
    rho : dict of str to Table
        Rho statistics of ``visits`` and ``coadd``, where they could be measured.
    null_tests : dict of str to Table
        Values against radius, as of `run_null_tests`; empty if they could not be made.
    messages : list of str
        Why something is absent.
    """

    table: Table
    counts: dict[str, Counts]
    offsets: Float64Array
    visit_stars: StarResiduals | None
    coadd_stars: StarResiduals | None
    rho: dict[str, Table] = field(default_factory=dict)
    null_tests: dict[str, Table] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


class _Rows:
    """Collects the rows of the table."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, float, int, str, float, str]] = []

    def add(
        self, quantity: str, value: float, description: str, *, error: float = np.nan, n: int = 0,
        band: str = "", unit: str = "", p_value: float = np.nan,
    ) -> None:  # fmt: skip
        self.rows.append((quantity, band, value, error, n, unit, p_value, description))

    def table(self) -> Table:
        names = ("quantity", "band", "value", "error", "n", "value_unit", "p_value", "description")
        kinds = ("U48", "U8", "f8", "f8", "i8", "U16", "f8", "U160")
        columns = zip(*self.rows, strict=True)
        return load_schema("qualityTable").apply(
            Table({n: np.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})
        )


def measure_quality(
    catalogue: Table,
    references: Sequence[Table] = (),
    *,
    visits: Sequence[Table] = (),
    stars: Sequence[Table] = (),
    shears: Table | None = None,
    options: QualityOptions = QualityOptions(),
) -> Quality:
    """Measure a catalogue.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    references : sequence of astropy.table.Table
        Shards of an astrometric reference in the ``refcat`` schema.
    visits : sequence of astropy.table.Table
        Visit summaries.
    stars : sequence of astropy.table.Table
        ``finalized_src_table`` of the visits: stars with their PSF.
    shears : astropy.table.Table, optional
        Schema ``shearCatalog``, for the null tests.
    options : QualityOptions
        Ranges.

    Returns
    -------
    Quality
        The table, and the curves behind it.
    """
    rows, messages = _Rows(), list[str]()
    rows.add("objects", float(len(catalogue)), "objects exported", n=len(catalogue))
    counts = {band: _depth(rows, catalogue, band) for band in bands_of(catalogue)}
    offsets = _astrometry(rows, messages, catalogue, references, visits, options)
    _size(rows, catalogue, options)
    residuals = {"visits": visit_star_residuals(stars), "coadd": coadd_star_residuals(catalogue)}
    rho = {}
    for place, found in residuals.items():
        if found is not None and (table := _psf(rows, messages, found, place, options)) is not None:
            rho[place] = table
    null_tests = {}
    if shears is not None:
        null_tests = _null_tests(rows, messages, catalogue, shears, options)
    else:
        messages.append("no shear catalogue: the null tests of the shears are not made")
    _visits(rows, visits)
    return Quality(
        rows.table(), counts, offsets, residuals["visits"], residuals["coadd"], rho, null_tests,
        messages,
    )  # fmt: skip


def _depth(rows: _Rows, catalogue: Table, band: str) -> Counts:
    """Magnitudes at S/N 10 and 20, and the magnitude of half completeness."""
    for level in SNR_LEVELS:
        mag = magnitudes_at_snr(catalogue, band, level)
        value, error = median_with_error(mag)
        text = f"median model magnitude at S/N {level - 1} to {level + 1}"
        rows.add(f"mag_at_snr_{level}", value, text, error=error, n=len(mag), band=band, unit="mag")
    counts = count_magnitudes(float_column(catalogue, f"{band}_cmodel_mag"))
    text = "counts fall to half of the power law fitted to brighter ones"
    rows.add("mag_half_complete", counts.limit, text, n=counts.n_used, band=band, unit="mag")
    return counts


def _astrometry(
    rows: _Rows, messages: list[str], catalogue: Table, references: Sequence[Table],
    visits: Sequence[Table], options: QualityOptions,
) -> Float64Array:  # fmt: skip
    """Offsets of stars from the reference, (2, n) [mas]."""
    none = np.zeros((2, 0))
    shards = [t for t in references if len(t)]
    if not shards:
        messages.append("no astrometric reference: positions are not compared")
        return none
    try:
        reference = load_references(
            shards, band="g", epoch_mjd=_epoch(shards, visits, options), flux_needed=False
        )
    except NoDataError as err:
        messages.append(f"positions are not compared: {err}")
        return none
    ra, dec = float_column(catalogue, "ra"), float_column(catalogue, "dec")
    star = float_column(catalogue, "extendedness")
    chosen = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec) & ~(star > 0.5))
    ra, dec = ra[chosen], dec[chosen]
    pairs = match_sky(ra, dec, reference.ra, reference.dec, radius_arcsec=options.match_arcsec)
    n = len(pairs)
    if n < 3:
        messages.append(f"positions are not compared: {n} stars have a match, 3 are needed")
        return none
    d_ra = (ra[pairs.first] - reference.ra[pairs.second] + 180.0) % 360.0 - 180.0
    east = d_ra * np.cos(np.radians(dec[pairs.first])) * 3.6e6
    north = (dec[pairs.first] - reference.dec[pairs.second]) * 3.6e6
    for name, value in (("ra", east), ("dec", north)):
        middle, error = median_with_error(value)
        rows.add(f"astrometry_offset_{name}", middle, error=error, n=n, unit="mas",
                 description="median position of stars less that of the reference")  # fmt: skip
        scatter = float(robust_sigma(value))
        rows.add(f"astrometry_scatter_{name}", scatter, error=scatter / np.sqrt(2 * n), n=n,
                 unit="mas", description="robust scatter of the positions of stars about the "
                 "reference")  # fmt: skip
    return np.stack([east, north])


def _epoch(shards: Sequence[Table], visits: Sequence[Table], options: QualityOptions) -> float:
    if options.epoch_mjd:
        return options.epoch_mjd
    days = [float_column(t, "mjd") for t in visits if len(t)]
    known = np.concatenate(days) if days else np.zeros(0)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float(np.median(np.asarray(shards[0]["epoch"])))


def psf_fwhm(catalogue: Table, *, pixel_scale: float) -> Float64Array:
    """FWHM of the PSF at each object.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    pixel_scale : float [arcsec]
        Pixel of the coadds.

    Returns
    -------
    (n,) float64 [arcsec]
        2 sqrt(ln 2) sqrt(xx + yy), as of a Gaussian; NaN where there is no moment.
    """
    trace = float_column(catalogue, "sdss_psf_xx") + float_column(catalogue, "sdss_psf_yy")
    with np.errstate(invalid="ignore"):
        return np.asarray(2.0 * np.sqrt(np.log(2.0)) * np.sqrt(trace) * pixel_scale, np.float64)


def _size(rows: _Rows, catalogue: Table, options: QualityOptions) -> None:
    fwhm = psf_fwhm(catalogue, pixel_scale=options.pixel_scale)
    fwhm = fwhm[np.isfinite(fwhm)]
    if len(fwhm):
        text = "median FWHM of the coadd's PSF; the error is its scatter"
        rows.add("psf_fwhm", float(np.median(fwhm)), text, error=float(robust_sigma(fwhm)),
                 n=len(fwhm), band=options.band, unit="arcsec")  # fmt: skip


def _psf(
    rows: _Rows, messages: list[str], stars: StarResiduals, place: str, options: QualityOptions
) -> Table | None:
    """Residuals of the PSF at stars that it has not seen, and the rho statistics."""
    graded = stars.for_grading()
    kind = "reserved stars" if graded.reserved.all() else "stars"
    for name, (value, error) in residual_summary(graded).items():
        what = "T star / T PSF - 1" if name == "size" else f"{name} of the star less the PSF's"
        rows.add(f"psf_residual_{name}_{place}", value, error=error, n=len(graded),
                 description=f"{what}: median of the {kind} of the {place}")  # fmt: skip
    try:
        rho = measure_rho(
            graded, min_arcmin=options.correlation_min_arcmin,
            max_arcmin=options.correlation_max_arcmin, n_bins=options.correlation_bins,
        )  # fmt: skip
    except NoDataError as err:
        messages.append(f"{place}: {err}")
        return None
    weight = np.asarray(rho["n_pairs"]) / np.sum(rho["n_pairs"])
    for k in range(1, 6):
        # Pairs weigh alike; the errors do the same, but vanish for a PSF without a residual.
        value = float(np.sum(weight * rho[f"rho_{k}"]))
        error = float(np.sqrt(np.sum((weight * rho[f"rho_{k}_err"]) ** 2)))
        text = f"rho statistic {k} of the {place}, mean over the separations"
        rows.add(f"rho_{k}_{place}", value, text, error=error, n=len(graded))
    return rho


def _null_tests(
    rows: _Rows, messages: list[str], catalogue: Table, shears: Table, options: QualityOptions
) -> dict[str, Table]:
    """Null tests of the shears against the PSF and the stars of the catalogue."""
    use = np.ones(len(shears), bool)
    if "use" in shears.colnames:
        use = np.asarray(shears["use"], bool)
    needed = {"ID", "psf_used", "psf_reserved", "sdss_psf_e1", "sdss_psf_e2"}
    if missing := sorted((needed - set(catalogue.colnames)) | ({"ID"} - set(shears.colnames))):
        messages.append(f"the null tests of the shears need the column {', '.join(missing)}")
        return {}
    star = np.asarray(catalogue["psf_used"], bool) | np.asarray(catalogue["psf_reserved"], bool)
    g1, g2 = _psf_shear(catalogue)
    row = {name: i for i, name in enumerate(np.asarray(catalogue["ID"]).astype(str))}
    index = np.array([row.get(name, -1) for name in np.asarray(shears["ID"]).astype(str)], np.int64)
    known = index >= 0
    shears, index = shears[known], index[known]
    settings = NullTestOptions(
        min_radius_arcmin=options.correlation_min_arcmin,
        max_radius_arcmin=options.correlation_max_arcmin,
        n_bins=options.correlation_bins,
        n_patches=int(np.clip(use.sum() // 40, 4, options.max_patches)),
    )
    try:
        summary, parts = run_null_tests(
            shears, psf_g1=g1[index], psf_g2=g2[index],
            star_ra=float_column(catalogue, "ra")[star],
            star_dec=float_column(catalogue, "dec")[star],
            star_psf_g1=g1[star], star_psf_g2=g2[star],
            rng=np.random.default_rng(options.seed), options=settings,
        )  # fmt: skip
    except (NoDataError, DataError) as err:
        messages.append(f"the null tests of the shears are not made: {err}")
        return {}
    for r in summary:
        rows.add(f"null_{r['name']}", float(r["value"]), error=float(r["error"]),
                 n=int(use.sum()), p_value=float(r["p_value"]), band=options.band,
                 description=str(r["description"]))  # fmt: skip
    return parts


def _psf_shear(catalogue: Table) -> tuple[Float64Array, Float64Array]:
    """Shear-like ellipticity of the PSF at each object, in sky axes."""
    e1, e2 = float_column(catalogue, "sdss_psf_e1"), float_column(catalogue, "sdss_psf_e2")
    with np.errstate(invalid="ignore"):
        factor = 1.0 / (1.0 + np.sqrt(1.0 - e1**2 - e2**2))
    # Pixel axes have x to the West: the second component changes its sign.
    return factor * e1, -factor * e2


def _visits(rows: _Rows, visits: Sequence[Table]) -> None:
    """Exposures of each band, their time and their seeing."""
    by_band: dict[str, list[Table]] = {}
    for table in visits:
        bands = np.asarray(table["band"]).astype(str) if len(table) else np.zeros(0, str)
        for band in np.unique(bands):
            by_band.setdefault(str(band), []).append(table[bands == band])
    for band, tables in sorted(by_band.items()):
        n_ccd = sum(len(t) for t in tables)
        rows.add("visits", float(len(tables)), n=n_ccd, band=band,
                 description="exposures; n counts the CCDs")  # fmt: skip
        seconds = [float(np.median(float_column(t, "expTime"))) for t in tables]
        rows.add("exposure_time", float(np.sum(seconds)), n=len(tables), band=band, unit="s",
                 description="sum over the exposures")  # fmt: skip
        for quantity, column, unit, text in (
            ("visit_fwhm", "fwhm", "pixel", "median FWHM of the CCDs' PSF"),
            ("visit_zero_point", "zeroPoint", "mag", "median zero point of the CCDs"),
        ):
            values = np.concatenate([float_column(t, column) for t in tables])
            values = values[np.isfinite(values)]
            if len(values):
                middle, error = median_with_error(values)
                rows.add(quantity, middle, error=error, n=len(values), band=band, unit=unit,
                         description=text)  # fmt: skip
