"""Stars and galaxies that are known before the fit."""

from __future__ import annotations

from pathlib import Path

import hpgeom
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from brick_scenes import DEC, RA, exposure, grid

from skymill.data.errors import DataError, MissingInputError
from skymill.release.brick.halos import halo_image, position_at
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.reference_sources import (
    GAIA_COLUMNS,
    mask_radius,
    masks_of,
    read_references,
)

ARCSEC = 1 / 3600


def _write_gaia(folder: Path, rows: list[dict[str, float]]) -> None:
    (folder / "gaia").mkdir(parents=True, exist_ok=True)
    table = Table()
    table["source_id"] = np.arange(len(rows), dtype=np.int64) + 10**18
    for name in ("ra", "dec", "pmra", "pmdec", "parallax", "ref_epoch"):
        table[name] = np.array([r.get(name, 2015.5 if name == "ref_epoch" else 0.0) for r in rows])
    for name in ("ra_error", "dec_error", "pmra_error", "pmdec_error", "parallax_error"):
        table[name] = np.full(len(rows), 0.1, np.float32)
    for name, dtype in GAIA_COLUMNS.items():
        table[name] = np.array([r.get(name, 0) for r in rows]).astype(dtype)
    pixel = int(hpgeom.angle_to_pixel(32, RA, DEC, nest=False))
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)]).writeto(
        folder / "gaia" / f"chunk-{pixel:05d}.fits"
    )


def _write_tycho(folder: Path, rows: list[dict[str, float]]) -> None:
    names = (
        *("ra", "dec", "pm_ra", "pm_dec", "epoch_ra", "epoch_dec", "mag_vt", "mag_bt", "mag_hp"),
        *("isgalaxy", "zguess", "sigma_ra", "sigma_dec", "sigma_pm_ra", "sigma_pm_dec"),
    )
    table = Table({n: np.array([float(r.get(n, 0)) for r in rows]) for n in names})
    for k, name in enumerate(("tyc1", "tyc2", "tyc3")):
        table[name] = np.full(len(rows), k + 1)
    table.write(folder / "tycho2.kd.fits")


def _options(folder: Path, **words: object) -> BrickOptions:
    return BrickOptions(
        survey_dir=str(folder), out_dir=str(folder), ra_dec=(RA, DEC), width=80, height=80, **words
    )  # type: ignore[arg-type]


def test_gaia_stars_have_their_flags_and_errors(tmp_path: Path) -> None:
    _write_gaia(
        tmp_path,
        [
            {"ra": RA, "dec": DEC, "phot_g_mean_mag": 12.0, "pmra": 50.0},
            {"ra": RA + 5 * ARCSEC, "dec": DEC, "phot_g_mean_mag": 17.0,
             "astrometric_excess_noise": 5.0},
            {"ra": RA - 5 * ARCSEC, "dec": DEC, "phot_g_mean_mag": 17.5},
            # So far away that a star of this magnitude does not matter.
            {"ra": RA + 100 * ARCSEC, "dec": DEC, "phot_g_mean_mag": 19.0},
        ],
    )  # fmt: skip
    found, notes = read_references(grid(), _options(tmp_path, tycho=False, large_galaxies=False))
    assert notes == []
    assert len(found) == 3
    assert found["is_bright"].tolist() == [True, False, False]
    assert found["is_point"].tolist() == [True, False, True]
    assert found["in_bounds"].all()
    assert found["x"][0] == pytest.approx(39.5, abs=1e-3)
    # 0.1 mas in degrees.
    assert found["ra_ivar"][0] == pytest.approx((3.6e6 / 0.1) ** 2, rel=1e-6)
    assert found["pmra_ivar"][0] == pytest.approx(100.0, rel=1e-6)


def test_positions_follow_the_proper_motion() -> None:
    from skymill.release.brick.reference_sources import empty_references

    star = empty_references(2)
    star["ra"], star["dec"] = RA, 60.0
    star["pmra"], star["pmdec"], star["ref_epoch"] = 1000.0, -500.0, 2015.5
    star["ref_epoch"][1] = 0.0
    mjd = 51544.5 + 20.5 * 365.25
    ra, dec = position_at(star, mjd)
    assert (ra[0] - RA) * 3600 == pytest.approx(5.0 / np.cos(np.radians(60.0)), rel=1e-6)
    assert (dec[0] - 60.0) * 3600 == pytest.approx(-2.5, rel=1e-6)
    assert (ra[1], dec[1]) == (RA, 60.0)


def test_tycho_stars_that_gaia_has_are_left_out(tmp_path: Path) -> None:
    # Gaia's star moves 1 arcsec a decade: at 1991.5 it stands 2.4 arcsec away.
    _write_gaia(
        tmp_path,
        [{"ra": RA, "dec": DEC, "pmdec": 100.0, "phot_g_mean_mag": 13.5}],
    )
    _write_tycho(
        tmp_path,
        [
            {"ra": RA, "dec": DEC - 2.4 * ARCSEC, "mag_vt": 11.0, "epoch_ra": 1991.5,
             "epoch_dec": 1991.5},
            {"ra": RA + 8 * ARCSEC, "dec": DEC, "mag_vt": 0.0, "mag_hp": 12.5,
             "epoch_ra": 1991.5, "epoch_dec": 1991.5},
            {"ra": RA + 9 * ARCSEC, "dec": DEC, "mag_vt": 12.0, "isgalaxy": 1},
            {"ra": RA + 7 * ARCSEC, "dec": DEC, "mag_vt": 13.4},
        ],
    )  # fmt: skip
    found, _ = read_references(grid(), _options(tmp_path, large_galaxies=False))
    assert sorted(str(c) for c in found["ref_cat"]) == ["G2", "T2"]
    gaia = found[np.asarray(found["is_gaia"])][0]
    assert gaia["is_bright"]
    assert gaia["is_tycho"]
    tycho = found[~np.asarray(found["is_gaia"])][0]
    assert tycho["mag"] == pytest.approx(12.5)
    assert tycho["ref_id"] == 1000023


def test_stars_in_large_galaxies_are_not_fitted(tmp_path: Path) -> None:
    _write_gaia(
        tmp_path,
        [{"ra": RA + 1 * ARCSEC, "dec": DEC, "phot_g_mean_mag": 18.0},
         {"ra": RA + 4 * ARCSEC, "dec": DEC, "phot_g_mean_mag": 18.0}],
    )  # fmt: skip
    Table(
        {"SGA_ID": [7], "RA": [RA], "DEC": [DEC], "DIAM": [0.3], "BA": [0.5], "PA": [90.0],
         "MAG_LEDA": [14.0]}
    ).write(tmp_path / "SGA-test.fits")  # fmt: skip
    found, _ = read_references(grid(), _options(tmp_path, tycho=False))
    assert found["do_not_fit"].tolist() == [True, False, False]
    masks = masks_of(found, grid())
    # An ellipse of 9 by 4.5 arcsec, along East and West; 34.4 pixels are rounded up.
    area = np.pi * 35 * 17.5
    assert masks.galaxy.sum() == pytest.approx(area, rel=0.03)
    assert masks.galaxy[39, 8]
    assert not masks.galaxy[8, 39]


def test_a_survey_without_catalogues_says_so(tmp_path: Path) -> None:
    found, notes = read_references(grid(), _options(tmp_path))
    assert len(found) == 0
    assert len(notes) == 2
    assert "Gaia" in notes[0]
    with pytest.raises(MissingInputError, match=r"there is no folder .*nowhere"):
        read_references(grid(), _options(tmp_path, gaia_dir=str(tmp_path / "nowhere")))


def test_a_corrupt_catalogue_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tycho2.fits").write_bytes(b"SIMPLE  =  nonsense" * 300)
    with pytest.raises(DataError, match=r"tycho2.fits .*(truncated|no table)"):
        read_references(grid(), _options(tmp_path, gaia=False, large_galaxies=False))


def test_mask_radii_fall_with_magnitude() -> None:
    # The releases' formula: 1630 arcsec at magnitude 0.
    np.testing.assert_allclose(mask_radius(np.array([0.0, 10.0])) * 3600, [1630, 57.8], rtol=5e-3)


def test_halos_have_the_light_of_the_formula(tmp_path: Path) -> None:
    _write_gaia(tmp_path, [{"ra": RA, "dec": DEC, "phot_g_mean_mag": 10.0}])
    found, _ = read_references(grid(), _options(tmp_path, tycho=False, large_galaxies=False))
    image = exposure([], size=160)
    halo = halo_image(image, found)
    flux = 10 ** (0.4 * (22.5 - float(found["mag_r"][0])))
    v, u = np.mgrid[:160, :160]
    radius = 0.262 * np.hypot(u - 79.5, v - 79.5)
    ring = (radius > 9) & (radius < 15)
    np.testing.assert_allclose(halo[ring], flux * 0.00033 * 0.262**2 / radius[ring] ** 2, rtol=1e-4)
    assert (halo[radius < 6.9] == 0).all()
    image.camera = "90prime"
    assert (halo_image(image, found) == 0).all()
