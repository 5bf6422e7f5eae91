"""The chain of tasks from an object table to a mass, on a catalogue made here."""

import galsim
import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError
from skymill.data.tables import load_schema
from skymill.data.units import njy_from_magnitude
from skymill.lensing.maps.aperture_mass import ApertureMassMap
from skymill.photoz.spectra import load_filters, make_model_fluxes
from skymill.tasks.calibrate_shear import CalibrateShearTask
from skymill.tasks.deredden_catalog import DereddenCatalogTask
from skymill.tasks.export_catalog import ExportCatalogTask
from skymill.tasks.fit_zero_points import FitZeroPointsTask
from skymill.tasks.mass_fit import MassFitTask
from skymill.tasks.mass_map import MassMapTask
from skymill.tasks.photo_z import PhotoZTask
from skymill.tasks.quality_check import QualityCheckTask
from skymill.tasks.red_sequence import RedSequenceTask
from skymill.tasks.separate_stars import SeparateStarsTask

# galsim 2.8 calls np.divide(where=) without out; it divides by zero only at the centre.
pytestmark = pytest.mark.filterwarnings("ignore:'where' used without 'out'")

CENTRE = (359.95, -12.0)  # the field crosses RA = 0
Z_LENS, MASS, SIDE = 0.2, 1e15, 40.0  # arcmin
BANDS = "griz"
ZERO_POINT = {"g": 0.05, "r": -0.03, "i": 0.02, "z": 0.0}  # errors put into the catalogue [mag]
EBV = 0.06
COEFFICIENT = {"g": 3.11, "r": 2.09, "i": 1.53, "z": 1.17}
DEPTH = njy_from_magnitude(26.0)  # 1 sigma [nJy]


def _sky(east, north):
    """Small-field inverse projection, independent of the package's."""
    image = galsim.TanWCS(
        galsim.AffineTransform(1, 0, 0, 1),
        galsim.CelestialCoord(CENTRE[0] * galsim.degrees, CENTRE[1] * galsim.degrees),
    )
    # galsim's u runs to the West on the sky.
    ra, dec = image.xyToradec(-east * 60.0, north * 60.0, units="degrees")
    return ra % 360.0, dec


def _shapes(rng, east, north, z, halo, pairs=0):
    """Distortions of galaxies with an intrinsic dispersion, sheared by the halo, in sky axes.

    The first ``pairs`` galaxies and the next as many are the same, turned by 90 degrees: their
    intrinsic shapes cancel.
    """
    e = rng.normal(0, 0.25, (2, len(z)))
    e[:, pairs : 2 * pairs] = -e[:, :pairs]
    e /= np.maximum(1.0, np.hypot(*e) / 0.9)
    modulus = np.hypot(*e)
    g_intrinsic = e / (1 + np.sqrt(1 - modulus**2))
    behind = z > Z_LENS + 0.01
    g1, g2 = np.zeros(len(z)), np.zeros(len(z))
    position = (east[behind] * 60, north[behind] * 60)
    g1[behind], g2[behind] = halo.getShear(position, z[behind], reduced=True)
    source, shear = g_intrinsic[0] + 1j * g_intrinsic[1], g1 + 1j * g2
    observed = (source + shear) / (1 + np.conj(shear) * source)
    e_observed = 2 * observed / (1 + np.abs(observed) ** 2)
    return e_observed.real, e_observed.imag


@pytest.fixture(scope="module")
def field():
    return make_field(20261)


def make_field(seed, *, pairs=0, sigma_e=0.1, depth=DEPTH):
    rng = np.random.default_rng(seed)
    n_gal, n_star, n_member = 16000, 400, 150
    z = np.clip(rng.gamma(3.0, 0.28, n_gal), 0.05, 2.5)
    z = np.concatenate([z, rng.normal(Z_LENS, 0.004, n_member)])
    east, north = rng.uniform(-SIDE / 2, SIDE / 2, (2, n_gal + n_member))
    for values in (z, east, north):
        values[pairs : 2 * pairs] = values[:pairs]
    east[n_gal:], north[n_gal:] = rng.normal(0, 2.5, (2, n_member))
    grid = np.arange(0.02, 2.6, 0.01)
    models = make_model_fluxes(load_filters("decam", BANDS), z=grid)
    kind = rng.integers(0, models.flux.shape[1], n_gal + n_member)
    kind[n_gal:] = 0
    iz = np.clip(np.rint((z - 0.02) / 0.01).astype(int), 0, len(grid) - 1)
    colour = models.flux[:, kind, iz] / models.flux[1, kind, iz]
    kind[pairs : 2 * pairs] = kind[:pairs]
    mag = np.concatenate([25.0 - rng.exponential(0.9, n_gal), rng.uniform(17, 21.5, n_member)])
    mag[pairs : 2 * pairs] = mag[:pairs]
    flux = njy_from_magnitude(mag) * colour
    halo = galsim.NFWHalo(MASS * 0.7, 3.21, Z_LENS, omega_m=0.3, omega_lam=0.7)
    e1, e2 = _shapes(rng, east, north, z, halo, pairs)
    star_mag = rng.uniform(16.5, 21.5, n_star)
    star_gr = rng.uniform(0.2, 1.2, n_star)
    ratios = {"g": star_gr, "r": 0 * star_gr, "i": -0.4 * star_gr, "z": -0.6 * star_gr}
    star_flux = njy_from_magnitude(np.stack([star_mag + ratios[b] for b in BANDS]))
    n = n_gal + n_member + n_star
    se, sn = rng.uniform(-SIDE / 2, SIDE / 2, (2, n_star))
    ra, dec = _sky(np.append(east, se), np.append(north, sn))
    star = np.arange(n) >= n_gal + n_member
    objects = Table(
        {
            "objectId": np.arange(n),
            "coord_ra": ra,
            "coord_dec": dec,
            "x": 5000.0 - np.append(east, se) * 60 / 0.263,
            "y": 5000.0 + np.append(north, sn) * 60 / 0.263,
            "tract": np.zeros(n, int),
            "patch": np.zeros(n, int),
            "detect_isPrimary": np.arange(n) % 50 != 7,
            "refExtendedness": np.where(star, 0.0, 1.0),
            "ebv": np.full(n, EBV),
        }
    )
    for k, b in enumerate(BANDS):
        true = np.append(flux[k], star_flux[k])
        seen = true * 10 ** (-0.4 * (COEFFICIENT[b] * EBV + ZERO_POINT[b]))
        error = np.hypot(depth, 0.005 * seen)
        for name in ("psfFlux", "cModelFlux"):
            objects[f"{b}_{name}"] = seen + rng.normal(0, error)
            objects[f"{b}_{name}Err"] = error
            objects[f"{b}_{name}_flags"] = np.zeros(n, np.uint32)
        objects[f"{b}_extendedness"] = np.where(star, 0.0, 1.0)
        for m, value in (("ixx", 6.0), ("iyy", 5.5), ("ixy", 0.1)):
            objects[f"{b}_{m}"] = np.full(n, value * 1.5)
            objects[f"{b}_{m}PSF"] = np.full(n, value) + rng.normal(0, 0.05, n)
    # Pixel axes: x to the West changes the sign of the second component.
    pad = np.zeros(n_star)
    objects["r_hsmE1"] = np.append(e1, pad) + rng.normal(0, sigma_e, n)
    objects["r_hsmE2"] = -np.append(e2, pad) + rng.normal(0, sigma_e, n)
    objects["r_hsmSigmaE"] = np.full(n, sigma_e)
    objects["r_hsmResolution"] = np.where(star, 0.02, 0.6)
    objects["r_hsm_flags"] = np.zeros(n, np.uint32)
    objects["r_blendedness"] = np.full(n, 0.01)
    objects["r_kronRad"] = np.full(n, 6.0)
    objects["r_calib_psf_used"] = star
    reference = Table(
        {
            "id": np.arange(n_star),
            "ra": ra[star],
            "dec": dec[star],
            "ra_err": np.full(n_star, 5.0),
            "dec_err": np.full(n_star, 5.0),
            "pm_ra": np.zeros(n_star),
            "pm_dec": np.zeros(n_star),
            "pm_ra_err": np.zeros(n_star),
            "pm_dec_err": np.zeros(n_star),
            "parallax": np.zeros(n_star),
            "epoch": np.full(n_star, 57000.0),
        }
    )
    ps1 = {"g": 3.08, "r": 2.20, "i": 1.63, "z": 1.28}
    for k, b in enumerate(BANDS):
        reference[f"{b}_flux"] = star_flux[k] * 10 ** (-0.4 * ps1[b] * EBV)
        reference[f"{b}_flux_err"] = 0.01 * reference[f"{b}_flux"]
    return objects, reference


@pytest.fixture(scope="module")
def products(field):
    return run_chain(*field)


def run_chain(objects, reference):
    out = {"export": ExportCatalogTask().run(objects).outputCatalog}
    out["classified"] = SeparateStarsTask().run(out["export"]).outputCatalog
    out["dereddened"] = DereddenCatalogTask().run(out["classified"]).outputCatalog
    config = FitZeroPointsTask.ConfigClass()
    config.applyColorTerms = False  # the reference has the magnitudes of the camera
    result = FitZeroPointsTask(config=config).run(out["dereddened"], [reference])
    out["calibrated"], out["zero_points"] = result.outputCatalog, result.zeroPoints
    out["photoz"] = PhotoZTask().run(out["calibrated"]).outputCatalog
    config = CalibrateShearTask.ConfigClass()
    config.shear.method = "responsivity"
    config.shear.bias_faint = 0.0  # these shapes have no blends
    task = CalibrateShearTask(config=config)
    out["shear"] = task.run(out["calibrated"], out["photoz"]).outputCatalog
    config = MassMapTask.ConfigClass()
    config.minZ = 0.3
    config.map.step_arcsec = 60.0
    out["map"] = MassMapTask(config=config).run(out["shear"])
    config = MassFitTask.ConfigClass()
    config.zLens = Z_LENS
    out["fit"] = MassFitTask(config=config).run(out["shear"], out["photoz"], out["map"].peaks)
    return out


def test_every_table_follows_its_schema(products):
    names = {
        "export": "exportCatalog",
        "classified": "classifiedCatalog",
        "dereddened": "dereddenedCatalog",
        "calibrated": "calibratedCatalog",
        "zero_points": "zeroPoints",
        "photoz": "photoz",
        "shear": "shearCatalog",
    }
    for key, schema in names.items():
        assert load_schema(schema).problems(products[key]) == []
    assert load_schema("massMapPeaks").problems(products["map"].peaks) == []
    assert load_schema("massFit").problems(products["fit"].massFit) == []
    assert load_schema("massProfile").problems(products["fit"].profile) == []


def test_only_primary_objects_are_exported_and_the_rest_is_counted(field, products):
    objects, _ = field
    assert len(products["export"]) == objects["detect_isPrimary"].sum()
    assert '"not_primary": 3' in products["export"].meta["left_out"]
    assert len(set(products["export"]["ID"])) == len(products["export"])


def test_injected_zero_points_come_back(products):
    table = products["zero_points"]
    for row in table:
        # 390 stars of 1 to 2 per cent each: 1 mmag expected.
        assert row["offset"] == pytest.approx(ZERO_POINT[row["band"]], abs=0.004)
        assert 0.0003 < row["reference_err"] < 0.002
        # With the systematic error of a reference in the joint fit with the stellar locus.
        assert row["reference_err"] <= row["offset_err"] < 0.005
        assert abs(row["offset"] - ZERO_POINT[row["band"]]) < 4 * row["offset_err"]


def test_peak_lies_on_the_cluster(products):
    peaks = products["map"].peaks
    best = peaks[peaks["is_best"]][0]
    d_ra = ((best["ra"] - CENTRE[0] + 180) % 360 - 180) * np.cos(np.radians(CENTRE[1]))
    assert best["snr"] > 5
    assert np.hypot(d_ra, best["dec"] - CENTRE[1]) * 60 < 1.0
    again = ApertureMassMap.from_hdulist(products["map"].massMap)
    assert again.snr("E").max() == pytest.approx(best["snr"], rel=1e-5)
    assert products["map"].picture.startswith(b"\x89PNG")


def test_mass_within_its_errors(products):
    row = products["fit"].massFit[0]
    # One realisation with its shape noise; without it: the next test.
    assert abs(row["m200"] - MASS) < 3 * row["m200_err"]
    assert row["m200_err"] < 0.30 * MASS
    assert row["p_profile"] > 0.001
    assert row["p_cross"] > 0.001
    assert row["flags"] == 0


def test_mass_without_shape_noise():
    # Pairs of galaxies turned by 90 degrees, precise shapes and precise fluxes: seeds scatter by
    # 0.4 per cent about 0.96, the same about the true centre. Shears are good to 3 per cent, which
    # is 4 per cent of a mass.
    depth = njy_from_magnitude(29.0)
    products = run_chain(*make_field(20262, pairs=8000, sigma_e=0.02, depth=depth))
    row = products["fit"].massFit[0]
    assert row["m200"] == pytest.approx(MASS, rel=0.06)


def test_red_sequence_finds_the_members(field, products):
    config = RedSequenceTask.ConfigClass()
    config.zLens, config.centreRa, config.centreDec = Z_LENS, *CENTRE
    config.sequence.field_min_mpc = 2.5
    # A spectrum says of every third candidate that it is a member.
    calibrated = products["calibrated"]
    spectra = calibrated["ra", "dec"][::3]
    spectra["z_spec"] = Z_LENS
    result = RedSequenceTask(config=config).run(calibrated, spectra)
    assert set(result.grades["purity"]) == {1.0}
    assert result.picture.startswith(b"\x89PNG")
    meta = result.redSequence.meta
    # 150 members brighter than the limit of 22.2; the sequence's width holds all, 98 % are primary,
    # and a Gaussian of 2.5 arcmin (0.49 Mpc) has 87 % inside of 1 Mpc.
    assert (meta["blue"], meta["red"]) == ("g", "r")
    assert abs(meta["richness"] - 150 * 0.98 * 0.87) < 3 * meta["richness_err"]
    density = result.densityMap["DENSITY"].data
    y, x = np.unravel_index(density.argmax(), density.shape)
    middle = (density.shape[0] - 1) / 2
    # The peak of 150 points with a spread of 2.5' under a kernel of 1': good to an arcminute.
    assert np.hypot(x - middle, y - middle) * 26.3 / 60 < 1.5


def test_quality_numbers(field, products):
    _, reference = field
    result = QualityCheckTask().run(products["export"], [reference])
    table = {(r["quantity"], r["band"]): r for r in result.qualityTable}
    assert table["mag_at_snr_10", "r"]["value"] == pytest.approx(23.5, abs=0.15)
    # The reference's positions are those of the catalogue.
    assert table["astrometry_offset_ra", ""]["value"] == pytest.approx(0, abs=0.01)
    assert table["psf_fwhm", "r"]["value"] == pytest.approx(
        2 * np.sqrt(np.log(2) * 11.5) * 0.263, rel=0.01
    )
    assert result.picture.startswith(b"\x89PNG")


def test_mass_fit_says_that_it_needs_a_redshift(products):
    with pytest.raises(ConfigError, match="set massFit:zLens"):
        MassFitTask().run(products["shear"], products["photoz"], products["map"].peaks)


def test_comparison_with_another_catalogue(field, products):
    config = FitZeroPointsTask.ConfigClass()
    config.applyColorTerms, config.doCompare, config.camera = False, True, ""
    config.connections.compareRefCat = "own"
    task = FitZeroPointsTask(config=config)
    result = task.run(products["dereddened"], [field[1]], [field[1]])
    for row in result.compared:
        # What the zero points were fitted to, but for what the stellar locus moved.
        assert abs(row["offset"]) < 0.01
    assert load_schema("zeroPointStars").problems(result.comparedStars) == []


def test_no_reference_leaves_the_magnitudes_and_says_so(products):
    config = FitZeroPointsTask.ConfigClass()
    config.locus.use = False
    result = FitZeroPointsTask(config=config).run(products["dereddened"], [])
    assert set(result.zeroPoints["source"]) == {"none"}
    assert all("no reference" in m for m in result.zeroPoints["message"])
    assert np.array_equal(
        result.outputCatalog["r_psf_mag"], products["dereddened"]["r_psf_mag"], equal_nan=True
    )
