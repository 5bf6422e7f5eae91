"""Numbers of merit of catalogues whose depth, astrometry and PSF errors are known."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import NoDataError
from skymill.data.units import MAG_ERR_FACTOR
from skymill.qa.catalogue_quality import QualityOptions, measure_quality, psf_fwhm
from skymill.qa.depth import count_magnitudes
from skymill.qa.psf_quality import StarResiduals, measure_rho, visit_star_residuals
from skymill.qa.quality_figures import draw_depth, draw_null_tests, draw_psf_quality, draw_sky

DEPTH, PIXEL = 24.0, 0.263
#: What is put in: offset of all positions [mas], epoch of the visits [MJD], proper motion [mas/yr].
OFFSET, EPOCH, MOTION = (12.0, -7.0), 59000.0, 40.0


def make_catalogue(seed=1, n=6000, n_star=300):
    """A field across RA = 0 whose S/N 10 is at ``DEPTH``."""
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-12, 12, (2, n))
    mag = 18 + np.log10(1 + rng.random(n) * (10 ** (0.3 * 8) - 1)) / 0.3
    err = MAG_ERR_FACTOR / 10 * 10 ** (0.4 * (mag - DEPTH))
    star = np.arange(n) < n_star
    mag[star] = rng.uniform(16, 19, n_star)
    e = rng.normal(0, 0.25, (2, n))
    psf = 0.03 + 0.002 * east, -0.02 + 0.003 * north
    trace = np.full(n, 10.0)
    table = Table(
        {
            "ID": np.arange(n).astype(str),
            "ra": (0.01 + east / 60 / np.cos(np.radians(30))) % 360,
            "dec": 30 + north / 60,
            "extendedness": np.where(star, 0.0, 1.0),
            "psf_used": star & (rng.random(n) < 0.8),
            "psf_reserved": star,
            "e1": np.where(star, psf[0], e[0]),
            "e2": np.where(star, psf[1], e[1]),
            "sdss_xx": np.where(star, 5.05, 8.0),
            "sdss_yy": np.where(star, 5.05, 8.0),
            "sdss_e1": np.where(star, psf[0], e[0]),
            "sdss_e2": np.where(star, psf[1], e[1]),
            "sdss_psf_xx": 0.5 * trace,
            "sdss_psf_yy": 0.5 * trace,
            "sdss_psf_e1": psf[0],
            "sdss_psf_e2": psf[1],
        }
    )
    for band in "gr":
        table[f"{band}_psf_mag"] = mag
        table[f"{band}_cmodel_mag"] = mag
        table[f"{band}_cmodel_magerr"] = np.maximum(err, 1e-4)
    return table


def make_reference(catalogue):
    """Stars at another epoch, with proper motions; only the offset is left at the visits' epoch."""
    stars = catalogue[catalogue["psf_reserved"]]
    n, years = len(stars), (EPOCH - 57388.0) / 365.25
    zero = np.zeros(n)
    cos = np.cos(np.radians(stars["dec"]))
    return Table(
        {
            "id": np.arange(n),
            "ra": (stars["ra"] - (OFFSET[0] + MOTION * years) / 3.6e6 / cos) % 360,
            "dec": stars["dec"] - (OFFSET[1] - MOTION * years) / 3.6e6,
            "ra_err": zero + 1.0, "dec_err": zero + 1.0,
            "pm_ra": zero + MOTION, "pm_dec": zero - MOTION,
            "pm_ra_err": zero, "pm_dec_err": zero, "parallax": zero,
            "epoch": zero + 57388.0, "phot_g_mean_flux": zero + 1e5,
            "phot_g_mean_flux_err": zero + 1.0,
        }
    )  # fmt: skip


def make_visit(visit=1, n=120, seed=3, *, band="r"):
    rng = np.random.default_rng(seed)
    e1, e2 = rng.normal(0, 0.03, (2, n))
    summary = Table(
        {"visit": [visit], "detector": [1], "band": [band], "mjd": [EPOCH], "expTime": [90.0],
         "fwhm": [4.0], "zeroPoint": [31.5], "ra_corners": [[0.1, 359.9, 359.9, 0.1]],
         "dec_corners": [[29.8, 29.8, 30.2, 30.2]]}
    )  # fmt: skip
    stars = Table(
        {
            "visit": np.full(n, visit), "ra": rng.uniform(-0.15, 0.15, n) % 360,
            "dec": rng.uniform(29.85, 30.15, n), "e1": e1, "e2": e2,
            "e1Psf": e1 - 0.004, "e2Psf": e2 + 0.001, "sigma": np.full(n, 1.8),
            "sigmaPsf": np.full(n, 1.8 / np.sqrt(1.01)), "calib_psf_reserved": rng.random(n) < 0.3,
        }
    )  # fmt: skip
    return summary, stars


@pytest.fixture(scope="module")
def measured():
    catalogue = make_catalogue()
    visits, stars = zip(*(make_visit(v, seed=v) for v in (1, 2)), strict=True)
    rng = np.random.default_rng(9)
    shears = catalogue["ID", "ra", "dec"]
    # 2.5 times the PSF's shear is left in the shears, whose axes are those of the sky.
    for k, sign in ((1, 1.0), (2, -1.0)):
        leak = 2.5 * sign * np.asarray(catalogue[f"sdss_psf_e{k}"]) / 2
        shears[f"g{k}"] = leak + rng.normal(0, 0.01, len(shears))
    shears["use"] = catalogue["extendedness"] > 0.5
    quality = measure_quality(
        catalogue, [make_reference(catalogue)], visits=visits, stars=stars, shears=shears,
        options=QualityOptions(correlation_bins=4, max_patches=9),
    )  # fmt: skip
    return catalogue, visits, quality


def values(quality):
    return {(r["quantity"], r["band"]): r for r in quality.table}


def test_depth(measured):
    found = values(measured[2])
    # 0.1 mag of S/N 9 to 11, in which the counts rise by 7 per cent.
    assert found["mag_at_snr_10", "r"]["value"] == pytest.approx(DEPTH, abs=0.02)
    assert found["mag_at_snr_20", "g"]["value"] == pytest.approx(
        DEPTH - 2.5 * np.log10(2), abs=0.02
    )


def test_counts_that_are_cut_fall_to_half_at_the_cut():
    rng = np.random.default_rng(4)
    mag = 18 + np.log10(1 + rng.random(200000) * (10 ** (0.3 * 9) - 1)) / 0.3
    seen = rng.random(len(mag)) < 1 / (1 + np.exp((mag - 25.0) / 0.15))
    counts = count_magnitudes(mag[seen])
    # Bins of 0.1 smoothed over five.
    assert counts.limit == pytest.approx(25.0, abs=0.08)
    assert counts.counts.sum() == seen.sum()
    few = count_magnitudes(mag[:50])
    assert np.isnan(few.limit)
    assert np.isnan(few.law).all()
    assert len(count_magnitudes(np.full(3, np.nan)).counts) == 0


def test_astrometry_is_at_the_epoch_of_the_visits(measured):
    found = values(measured[2])
    for name, truth in zip(("ra", "dec"), OFFSET, strict=True):
        # Positions are exact; a proper motion along a curved circle is not: 0.01 mas.
        assert found[f"astrometry_offset_{name}", ""]["value"] == pytest.approx(truth, abs=0.05)
        assert found[f"astrometry_scatter_{name}", ""]["value"] < 0.05


def test_psf_residuals_and_size(measured):
    found = values(measured[2])
    assert found["psf_residual_size_coadd", ""]["value"] == pytest.approx(0.01, rel=1e-6)
    assert found["psf_residual_size_visits", ""]["value"] == pytest.approx(0.01, rel=1e-6)
    assert found["psf_residual_e1_visits", ""]["value"] == pytest.approx(0.004, rel=1e-6)
    # Only reserved stars grade: three in ten.
    assert 40 < found["psf_residual_e1_visits", ""]["n"] < 105
    # A Gaussian of 10 pixel2.
    fwhm = 2 * np.sqrt(2 * np.log(2)) * np.sqrt(5.0) * PIXEL
    assert psf_fwhm(measured[0], pixel_scale=PIXEL) == pytest.approx(fwhm)
    assert found["psf_fwhm", "r"]["value"] == pytest.approx(fwhm)
    assert found["visits", "r"]["value"] == 2
    assert found["exposure_time", "r"]["value"] == 180


def test_null_tests_find_a_leakage(measured):
    found = values(measured[2])
    for k in "12":
        row = found[f"null_psf_leakage_{k}", "r"]
        # e/2 is the shear-like ellipticity to 0.1 per cent at these shapes.
        assert row["value"] == pytest.approx(2.5, abs=0.003 + 3 * row["error"])
        assert row["error"] < 0.1
        assert row["p_value"] < 1e-3
    assert found["null_star_galaxy_xi_plus", "r"]["p_value"] < 0.05
    assert not measured[2].messages


def test_pictures_are_drawn(measured):
    catalogue, visits, quality = measured
    for content in (
        draw_depth(catalogue, quality), draw_sky(catalogue, quality, visits),
        draw_psf_quality(catalogue, quality), draw_null_tests(quality),
    ):  # fmt: skip
        assert content.startswith(b"\x89PNG")
        assert len(content) < 400_000


def brute_rho(stars):
    """rho_1 and rho_5 by all pairs of stars of the same exposure."""
    e = stars.e1 + 1j * stars.e2
    q = e - (stars.e1_psf + 1j * stars.e2_psf)
    w = e * (stars.size - stars.size_psf) / stars.size
    same = stars.group[:, None] == stars.group
    np.fill_diagonal(same, False)
    i, j = np.nonzero(same)
    return (q[i] * q[j].conj()).real.mean(), (e[i] * w[j].conj()).real.mean()


def test_rho_is_that_of_all_pairs_of_one_exposure():
    rng = np.random.default_rng(5)
    n = 150
    stars = StarResiduals(
        east=rng.uniform(-5, 5, n), north=rng.uniform(-5, 5, n), group=rng.integers(0, 3, n),
        e1=rng.normal(0, 0.05, n), e2=rng.normal(0, 0.05, n), e1_psf=rng.normal(0, 0.05, n),
        e2_psf=rng.normal(0, 0.05, n), size=rng.uniform(4, 5, n), size_psf=rng.uniform(4, 5, n),
        reserved=np.ones(n, bool),
    )  # fmt: skip
    # One bin from nearly nothing to all holds every pair, whatever treecorr's cells are.
    table = measure_rho(stars, min_arcmin=1e-4, max_arcmin=100.0, n_bins=1)
    truth = brute_rho(stars)
    assert table["rho_1"][0] == pytest.approx(truth[0], rel=1e-6)
    assert table["rho_5"][0] == pytest.approx(truth[1], rel=1e-6)
    with pytest.raises(NoDataError, match="need at least 20 stars; there are 5"):
        measure_rho(stars.choose(np.arange(n) < 5), min_arcmin=1, max_arcmin=8, n_bins=2)


def test_little_or_nothing_to_measure_is_said():
    catalogue = make_catalogue(n=400, n_star=30)
    lacking = catalogue["ID", "ra", "dec", "extendedness"]
    for table in (catalogue[:0], lacking, catalogue[:1]):
        quality = measure_quality(table, [], shears=Table({"ID": ["1"]}))
        assert quality.table["value"][0] == len(table)
        assert any("no astrometric reference" in m for m in quality.messages)
        assert any("null tests of the shears" in m for m in quality.messages)
        if table is lacking:
            continue
        for content in (draw_depth(table, quality), draw_sky(table, quality),
                        draw_psf_quality(table, quality)):  # fmt: skip
            assert content.startswith(b"\x89PNG")
    nan = catalogue.copy()
    for name in ("r_cmodel_mag", "r_cmodel_magerr", "sdss_psf_xx", "sdss_psf_e1", "ra"):
        nan[name] = np.nan
    quality = measure_quality(nan, [make_reference(catalogue)])
    found = values(quality)
    assert found["mag_at_snr_10", "r"]["n"] == 0
    assert np.isnan(found["mag_half_complete", "r"]["value"])
    assert ("psf_fwhm", "r") not in found
    assert any("0 stars have a match" in m for m in quality.messages)
    draw_sky(nan, quality)
    # Another epoch is what the user says.
    options = QualityOptions(epoch_mjd=57388.0)
    offset = values(measure_quality(catalogue, [make_reference(catalogue)], options=options))
    moved = MOTION * (EPOCH - 57388.0) / 365.25 + OFFSET[0]
    assert offset["astrometry_offset_ra", ""]["value"] == pytest.approx(moved, abs=0.05)
    assert visit_star_residuals([]) is None
