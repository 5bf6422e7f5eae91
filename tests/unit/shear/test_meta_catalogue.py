"""Sheared catalogues of a patch on scenes that galsim drew; their fluxes; the response."""

import functools

import galsim
import numpy as np
import pytest
from astropy.table import Table, vstack

from skymill.calibrate.extinction import ExtinctionOptions
from skymill.coadd.cells import CellOptions, cut_cells, plan_cells
from skymill.coadd.noise_spectrum import NoiseSpectrumOptions
from skymill.data.errors import DataError, NoDataError
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.tables import load_schema
from skymill.psf.models import ConstantPsf
from skymill.shear.meta_calibration import (
    MetaCalibrationOptions,
    calibrate_metadetection,
    measure_response,
)
from skymill.shear.meta_catalogue import (
    bands_of,
    calibrate_sheared,
    join_sheared,
    measure_sheared_cells,
    total_flux_factor,
)
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions

SIDE, BORDER, SIGMA = 288, 24, 1.0
BOX = Box(x0=3000, y0=2000, x1=3000 + SIDE, y1=2000 + SIDE)
INNER = Box(x0=3024, y0=2024, x1=3000 + SIDE - 24, y1=2000 + SIDE - 24)
PSF = galsim.Moffat(beta=3, fwhm=3.6).shear(g1=0.04, g2=-0.03)
STAMP = PSF.drawImage(nx=51, ny=51, scale=1.0, dtype=float).array.astype(np.float32)
WCS = make_tan_wcs(ra=10.0, dec=-5.0, scale=0.263, x=3144, y=2144)
CELLS = CellOptions(size=120, rim=24)


def scene(g1, *, flux, seed=1, turn=0):
    """16 galaxies on a grid of a patch; the same noise whatever the shear."""
    rng = np.random.default_rng(seed)
    image = galsim.ImageF(SIDE, SIDE, scale=1.0)
    for k in range(16):
        x, y = 24 + 30 + 60 * (k % 4), 24 + 30 + 60 * (k // 4)
        angle = (rng.uniform(0, 180) + 90 * turn) * galsim.degrees
        profile = galsim.Exponential(half_light_radius=2.5, flux=flux)
        profile = profile.shear(g=0.25, beta=angle).shear(g1=g1)
        offset = rng.uniform(-0.5, 0.5, 2)
        stamp = galsim.Convolve(profile, PSF).drawImage(
            nx=56, ny=56, scale=1.0, offset=offset + 0.0
        )
        stamp.setCenter(x, y)
        image[stamp.bounds] += stamp
    return image.array + rng.normal(0, SIGMA, (SIDE, SIDE)).astype(np.float32)


def coadd_of(image, band):
    variance = np.full(image.shape, SIGMA**2, np.float32)
    planes = PixelPlanes(image, variance, np.zeros(image.shape, np.int32), unit="nJy")
    return Coadd(
        planes=planes, box=BOX, inner_box=INNER, band=band, skymap="s", tract=0, patch=7,
        wcs=WCS, psf=ConstantPsf(STAMP),
    )  # fmt: skip


def catalogue(coadds, shear_bands=("r",)):
    noise = NoiseSpectrumOptions(block=100, min_pixels=10**6)  # too many: white noise
    plan = plan_cells(coadds, shear_bands=shear_bands, options=CELLS, noise=noise)
    tables = {
        shear: [
            measure_sheared_cells(
                cut_cells(coadds, plan, seed=[1]), shear=shear, bands=plan.bands, wcs=WCS,
                tract=0, patch=7, margin=CELLS.rim,
            )
        ]
        for shear in SHEAR_TYPES
    }  # fmt: skip
    return tables, join_sheared(tables)


@functools.cache
def plain_catalogue():
    """Two bands of one scene, fluxes 2000 and 4000 nJy."""
    images = {
        band: coadd_of(scene(0.0, flux=flux, seed=3), band)
        for band, flux in (("g", 2000.0), ("r", 4000.0))
    }
    return catalogue(images)


def behind(table):
    out = table.copy()
    for name in ("z_phot", "p_behind", "odds", "mod_chi2"):
        out[name] = np.ones(len(out))
    return out


def test_shear_of_a_patch_is_recovered():
    found = {}
    for g in (0.02, -0.02):
        parts = []
        for turn in (0, 1):
            images = {"r": coadd_of(scene(g, flux=4000.0, turn=turn), "r")}
            table = catalogue(images)[1]
            table["cell"] += 100 * turn
            parts.append(behind(table))
        shears, _ = calibrate_metadetection(vstack(parts, metadata_conflicts="silent"))
        use = shears["use"]
        assert use.sum() == 32
        found[g] = np.average(shears["g1"][use], weights=shears["weight"][use])
        assert abs(np.average(shears["g2"][use], weights=shears["weight"][use])) < 0.01
    # Ring pairs and the same noise with either sign: 32 galaxies of S/N 100.
    assert (found[0.02] - found[-0.02]) / 0.04 == pytest.approx(1.0, abs=0.02)


def test_tables_follow_their_schemas_and_hold_the_fluxes():
    tables, joined = plain_catalogue()
    assert load_schema("shearedObjects").problems(tables["1p"][0]) == []
    assert load_schema("metaCatalog").problems(joined) == []
    assert bands_of(joined) == ["g", "r"]
    for name in SHEAR_TYPES:
        rows = joined[joined["shear"] == name]
        assert len(rows) == 16
        assert len(set(rows["ID"])) == 16
        ratio = rows["r_inst_flux"] / rows["g_inst_flux"]
        assert np.median(ratio) == pytest.approx(2.0, rel=0.02)
        # An exponential galaxy is not a Gaussian one: most of its flux, not all.
        total = np.median(rows["r_inst_flux"] * rows["total_factor"])
        assert 0.7 * 4000 < total < 1.05 * 4000
    x, y = WCS.sky_to_pixel(ra=joined["ra"], dec=joined["dec"])
    np.testing.assert_allclose([x, y], [joined["x"], joined["y"]], atol=1e-6)
    assert set(joined["cell"]) == {70000, 70001, 70002, 70003}


def test_zero_points_and_extinction_shift_every_version_alike():
    joined = plain_catalogue()[1]
    zero_points = Table({"band": ["g", "r"], "offset": [0.1, 9.0], "source": ["ps1 g", "none"]})
    dust = ExtinctionOptions(source="constant", constant=0.1, coefficients=("g=3.0", "r=2.0"))
    out = calibrate_sheared(joined, zero_points, extinction=dust)
    np.testing.assert_allclose(out["g_mag"], joined["g_mag"] - 0.3 - 0.1, atol=1e-9)
    np.testing.assert_allclose(out["r_mag"], joined["r_mag"] - 0.2, atol=1e-9)
    np.testing.assert_allclose(out["g_magerr"], joined["g_magerr"])


def test_a_gaussian_galaxy_gets_its_whole_flux():
    sigma = width = 2.0
    for galaxy in (0.0, 1.0, 2.5):
        size2 = sigma**2 + galaxy**2
        seen = (1 / sigma**2 + 1 / width**2) / (1 / size2 + 1 / width**2)
        missing = (width**2 + size2) / (width**2 + sigma**2)
        factor = total_flux_factor(np.array([seen]), sigma=sigma, width=width)
        assert factor[0] == pytest.approx(missing, rel=1e-9)
    assert total_flux_factor(np.array([0.0, 50.0]), sigma=2.0, width=2.0).tolist() == [1.0, 5.0]


def test_a_band_that_a_patch_lacks_has_no_flux_there():
    both = plain_catalogue()[0]
    columns = [n for n in both["1p"][0].colnames if not n.startswith("g_")]
    one = {n: [both[n][0][columns]] for n in SHEAR_TYPES}
    joined = join_sheared({n: [both[n][0], one[n][0]] for n in SHEAR_TYPES})
    assert np.isnan(joined["g_mag"]).mean() == pytest.approx(0.5)
    assert np.isfinite(joined["r_mag"]).all()
    empty = load_schema("shearedObjects").empty(bands=["r"])
    with pytest.raises(NoDataError, match="sheared set 1m has no object; run meta_4b again"):
        join_sheared({**both, "1m": [empty]})
    with pytest.raises(DataError, match="shear must be one of noshear, 1p"):
        measure_sheared_cells([], shear="3p", bands=["r"], wcs=WCS, tract=0, patch=0, margin=24)


def population(n, g, *, seed, cells=50):
    """Versions of galaxies whose response is known: 0.1 + 0.2 (size - 1)."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(1.15, 1.6, n)
    intrinsic = rng.normal(0, 0.08, (n, 2))
    parts = []
    for name, (u, v) in SHEAR_TYPES.items():
        response = 0.1 + 0.2 * (size - 1)
        e = intrinsic + response[:, None] * (np.array(g) + 0.01 * np.array([u, v]))
        parts.append(
            Table(
                {
                    "shear": np.full(n, name), "cell": np.arange(n) * cells // n,
                    "ra": np.full(n, 10.0), "dec": np.full(n, -5.0), "ID": np.arange(n).astype(str),
                    "e1": e[:, 0], "e2": e[:, 1], "size_ratio": size, "snr": np.full(n, 60.0),
                    "detection": np.ones(n), "flags": np.zeros(n, np.uint32),
                    "p_behind": np.ones(n), "z_phot": np.ones(n), "odds": np.ones(n),
                    "mod_chi2": np.ones(n), "r_mag": np.full(n, 22.0),
                }
            )
        )  # fmt: skip
    return vstack(parts)


def test_response_of_a_known_population():
    table = population(4000, (0.03, -0.02), seed=1)
    curve, response = measure_response([table])
    size = np.linspace(1.25, 1.5, 5)
    np.testing.assert_allclose(curve.at(size)[0], 0.1 + 0.2 * (size - 1), rtol=0.01)
    assert response["node"].tolist()[-1] == -1
    shears, _ = calibrate_metadetection(table)
    use = shears["use"]
    for name, truth in (("g1", 0.03), ("g2", 0.02)):  # x to the East: g2 changes its sign
        mean = np.average(shears[name][use], weights=shears["weight"][use])
        error = response[f"{name}_err"][-1]
        assert abs(mean - truth) < 4 * error
        assert error < 0.012
    np.testing.assert_allclose(shears["g2_pixel"], -shears["g2"])


def test_response_of_many_clusters_calibrates_one():
    few = population(300, (0.0, 0.0), seed=2)
    noise = np.random.default_rng(3).normal(0, 0.003, len(few))
    few["e1"] += noise
    others = [population(3000, (0.05, 0.0), seed=k) for k in (4, 5)]
    alone, pooled = measure_response([few])[1][-1], measure_response([few, *others])[1][-1]
    assert pooled["n_cluster"] == 3
    assert pooled["r_err"] < 0.5 * alone["r_err"]
    assert abs(pooled["g1"]) < 4 * pooled["g1_err"]  # of the first alone


def test_no_galaxies_and_an_uncertain_response_are_said():
    table = population(200, (0.0, 0.0), seed=1)
    front = table.copy()
    front["p_behind"] = 0.0
    with pytest.raises(NoDataError, match="200 have a good shape, 0 of them probably lie behind"):
        calibrate_metadetection(front)
    small = table.copy()
    small["flags"] = 1
    with pytest.raises(NoDataError, match="0 have a good shape"):
        calibrate_metadetection(small)
    loud = table.copy()
    loud["e1"] += np.random.default_rng(1).normal(0, 0.5, len(loud))
    loud["e2"] += np.random.default_rng(2).normal(0, 0.5, len(loud))
    with pytest.raises(NoDataError, match=r"too uncertain to calibrate with.*response_from"):
        calibrate_metadetection(loud)
    with pytest.raises(DataError, match="no column p_behind; it is made by the step meta_process"):
        calibrate_metadetection(table[[n for n in table.colnames if n != "p_behind"]])
    wrong = table.copy()
    wrong["shear"] = "x"
    with pytest.raises(DataError, match="column shear must hold noshear"):
        measure_response([wrong], options=MetaCalibrationOptions(), detect=MetadetectOptions())
