"""Reference stars from files and folders; where a star appears at a time."""

import hpgeom
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import GCRS, ICRS, Distance, SkyCoord
from astropy.table import Table
from astropy.time import Time

from skymill.data.errors import DataError, MissingInputError
from skymill.release.survey.reference_stars import (
    apparent_positions,
    open_reference,
    ps1_magnitudes,
)


def test_parallax_and_proper_motion_against_astropy():
    columns = {"ra": [40.0, 200.0], "dec": [50.0, -30.0], "pm_ra": [100.0, 0.0]}
    columns |= {"pm_dec": [-50.0, 0.0], "parallax": [100.0, 50.0], "epoch": [57000.0] * 2}
    table = Table(columns)
    mjd = 58100.0
    ra, dec = apparent_positions(table, mjd)
    time = Time(mjd, format="mjd", scale="tai")
    stars = SkyCoord(
        table["ra"] * u.deg, table["dec"] * u.deg, pm_ra_cosdec=table["pm_ra"] * u.mas / u.yr,
        pm_dec=table["pm_dec"] * u.mas / u.yr,
        distance=Distance(parallax=table["parallax"] * u.mas),
        obstime=Time(57000.0, format="mjd", scale="tai"),
    ).apply_space_motion(time)  # fmt: skip
    # Aberration and the bending of light are the same for a star far away: their difference is
    # the parallax.
    far = SkyCoord(ICRS(stars.ra, stars.dec, distance=[1e9, 1e9] * u.pc))
    seen, unmoved = (c.transform_to(GCRS(obstime=time)) for c in (SkyCoord(stars.icrs), far))
    for k in range(2):
        east = (seen[k].ra - unmoved[k].ra).to_value("arcsec") * np.cos(seen[k].dec.rad)
        north = (seen[k].dec - unmoved[k].dec).to_value("arcsec")
        own_east = (ra[k] - stars[k].ra.deg) * 3600 * np.cos(stars[k].dec.rad)
        own_north = (dec[k] - stars[k].dec.deg) * 3600
        assert own_east == pytest.approx(east, abs=5e-4)
        assert own_north == pytest.approx(north, abs=5e-4)


def test_real_catalogues(shared_data):
    ps1 = open_reference("ps1", shared_data / "refcats/ps1_cosmos_i21p5.fits.gz")
    stars = ps1.near(ra=150.1, dec=2.2, radius_deg=0.1)
    assert len(stars) > 100
    magnitudes = ps1_magnitudes(stars)
    assert set(magnitudes) == set("grizy")
    # The catalogue is limited at i = 21.5.
    assert np.nanmax(magnitudes["i"]) < 21.6
    gaia = open_reference("gaia", shared_data / "refcats/gaia_dr2_cosmos.fits.gz")
    assert 20 < len(gaia.near(ra=150.1, dec=2.2, radius_deg=0.1)) < 200


def test_folders_by_healpix(shared_data):
    gaia = open_reference("gaia", shared_data / "cutouts/testcase3/gaia")
    stars = gaia.near(ra=244.78, dec=12.07, radius_deg=0.03)
    assert len(stars) > 3
    distance = np.hypot((stars["ra"] - 244.78) * np.cos(np.radians(12.07)), stars["dec"] - 12.07)
    assert distance.max() < 0.03
    assert len(gaia.near(ra=10.0, dec=-40.0, radius_deg=0.1)) == 0


def test_chunks_of_pan_starrs(tmp_path):
    pixel = int(hpgeom.angle_to_pixel(32, 10.0, 5.0, nest=False))
    Table({"obj_id": [7, 8], "ra": [10.0, 10.001], "dec": [5.0, 5.0],
           "median": [[18.0, 17.5, 17.2, 17.0, 16.9], [19.0, np.nan, 18.0, 17.0, 16.0]],
           "nmag_ok": [[3, 3, 3, 3, 0], [1, 1, 1, 1, 1]]}).write(
        tmp_path / f"ps1-{pixel:05d}.fits"
    )  # fmt: skip
    stars = open_reference("ps1", tmp_path).near(ra=10.0, dec=5.0, radius_deg=0.01)
    magnitudes = ps1_magnitudes(stars)
    assert magnitudes["g"][0] == pytest.approx(18.0)
    assert np.isnan(magnitudes["r"][1])
    assert np.isnan(magnitudes["y"][0])


def test_what_is_no_catalogue_is_told(tmp_path):
    with pytest.raises(MissingInputError, match="no reference catalogue"):
        open_reference("gaia", tmp_path / "none")
    with pytest.raises(MissingInputError, match="holds no reference catalogue"):
        open_reference("gaia", tmp_path).near(ra=0, dec=0, radius_deg=1)
    (tmp_path / "stars.fits").write_bytes(b"no fits")
    with pytest.raises(DataError, match=r"stars\.fits"):
        open_reference("gaia", tmp_path / "stars.fits").near(ra=0, dec=0, radius_deg=1)
