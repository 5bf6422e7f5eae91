import hpgeom
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from skymill.calibrate.extinction import ExtinctionOptions, read_ebv
from skymill.calibrate.healpix_map import HealpixDust, is_healpix
from skymill.data.errors import DataError, MissingInputError

NSIDE = 64


def dust(lon, lat):
    """A smooth sky [mag]."""
    lon, lat = np.radians(lon), np.radians(lat)
    return 0.1 + 0.05 * np.cos(lat) * np.cos(lon) + 0.03 * np.sin(lat)


def write(path, *, nest=True, frame="G", column="EBV", scale=1.0, region=None, extra=()):
    pixel = np.arange(12 * NSIDE**2)
    lon, lat = hpgeom.pixel_to_angle(NSIDE, pixel, nest=nest)
    value = (dust(lon, lat) / scale).astype(np.float32)
    columns = []
    if region is not None:
        keep = np.hypot(lon - region[0], lat - region[1]) < 10
        pixel, value = pixel[keep], value[keep]
        columns.append(fits.Column("PIXEL", "J", array=pixel))
    columns.append(fits.Column(column, "E", array=value))
    columns += [fits.Column(n, "E", array=value) for n in extra]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update(PIXTYPE="HEALPIX", NSIDE=NSIDE, ORDERING="NESTED" if nest else "RING",
                      COORDSYS=frame, INDXSCHM="EXPLICIT" if region else "IMPLICIT")  # fmt: skip
    hdu.writeto(path)
    return path


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize(("frame", "name"), [("G", "galactic"), ("C", "icrs")])
def test_bilinear_values_of_a_smooth_sky(tmp_path, nest, frame, name):
    path = write(tmp_path / "m.fits", nest=nest, frame=frame)
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))
    sky = SkyCoord(ra, dec, unit="deg").transform_to(name).spherical
    found = read_ebv(ExtinctionOptions(source="map", map_path=str(path)), ra, dec)
    # The nearest of these pixels of 0.9 degrees is wrong by up to 5e-4.
    assert np.abs(found - dust(sky.lon.deg, sky.lat.deg)).max() < 6e-5
    twice = ExtinctionOptions(source="map", map_path=str(path), map_scale=2.0)
    assert read_ebv(twice, ra, dec) == pytest.approx(2 * found)


def test_part_of_the_sky_and_optical_depth(tmp_path):
    path = write(tmp_path / "m.fits", column="TAU353", scale=1.49e4, region=(120.0, 30.0))
    inside = SkyCoord(l=[120.0, 122.0, 160.0], b=[30.0, 33.0, 0.0], unit="deg", frame="galactic")
    found = HealpixDust(path).ebv(inside.icrs.ra.deg, inside.icrs.dec.deg)
    assert found[:2] == pytest.approx(
        dust(np.array([120.0, 122.0]), np.array([30.0, 33.0])), rel=1e-3
    )
    assert np.isnan(found[2])
    assert np.isnan(HealpixDust(path).ebv([np.nan], [0.0]))


def test_pixels_without_a_value(tmp_path):
    path = write(tmp_path / "m.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[1].data["EBV"][:] = -1.6375e30
    assert np.isnan(HealpixDust(path).ebv([10.0, 200.0], [5.0, -60.0])).all()


def test_clear_sentences(tmp_path):
    path = write(tmp_path / "m.fits", column="A", extra=("B",))
    assert is_healpix(path)
    assert not is_healpix(tmp_path / "none.fits")
    with pytest.raises(DataError, match="has the columns A, B; say which with map_column"):
        HealpixDust(path)
    with pytest.raises(DataError, match="no column 'X'; it has A, B"):
        HealpixDust(path, column="X")
    with pytest.raises(MissingInputError, match="does not exist"):
        HealpixDust(tmp_path / "none.fits")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "i.fits")
    with pytest.raises(DataError, match="holds no HEALPix map"):
        HealpixDust(tmp_path / "i.fits")
