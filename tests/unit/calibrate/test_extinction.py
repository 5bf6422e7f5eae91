import numpy as np
import pytest

from skymill.calibrate.extinction import (
    COEFFICIENTS,
    DustMap,
    ExtinctionOptions,
    extinction_coefficient,
    parse_coefficients,
)
from skymill.data.errors import ConfigError, MissingInputError


def test_coefficients():
    assert extinction_coefficient("g") == 3.11
    assert extinction_coefficient("r", survey="ps1") == 2.20
    assert extinction_coefficient("g", other=parse_coefficients(("g=3.2",))) == 3.2
    assert set("ugriz") <= set(COEFFICIENTS["des"])
    with pytest.raises(ConfigError, match="no extinction coefficient for band 'VR' of decam"):
        extinction_coefficient("VR")
    with pytest.raises(ConfigError, match="a coefficient is written band=value"):
        ExtinctionOptions(coefficients=("g:3",))
    with pytest.raises(ConfigError, match="needs map_path"):
        ExtinctionOptions(source="map")


def test_missing_map_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"absent\.fits does not exist"):
        DustMap(tmp_path / "absent.fits")


def test_real_map_cut_out(shared_data):
    path = shared_data / "dust" / "SFD_dust_4096_ngp_cutout.fits"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

    image = fits.getdata(path)
    # The projection by the formula of SFD's header, not by a WCS library.
    longitude, latitude = np.radians([40.0, 120.0, 200.0]), np.radians([67.0, 68.0, 69.5])
    rho = np.sqrt(1 - np.sin(latitude)) * 2048
    header = fits.getheader(path)
    x = header["CRPIX1"] - 1 + rho * np.cos(longitude)
    y = header["CRPIX2"] - 1 - rho * np.sin(longitude)
    inside = (x > 1) & (x < 98) & (y > 1) & (y < 98)
    rng = np.random.default_rng(1)
    while not inside.any():
        longitude, latitude = rng.uniform(0, 2 * np.pi, 200000), rng.uniform(0, np.pi / 2, 200000)
        rho = np.sqrt(1 - np.sin(latitude)) * 2048
        x = header["CRPIX1"] - 1 + rho * np.cos(longitude)
        y = header["CRPIX2"] - 1 - rho * np.sin(longitude)
        inside = (x > 1) & (x < 98) & (y > 1) & (y < 98)
    x, y = x[inside][:50], y[inside][:50]
    sky = SkyCoord(l=longitude[inside][:50], b=latitude[inside][:50], unit="rad", frame="galactic")
    found = DustMap(path).ebv(sky.icrs.ra.deg, sky.icrs.dec.deg)
    ix, iy = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - ix, y - iy
    expected = (
        image[iy, ix] * (1 - fx) * (1 - fy) + image[iy, ix + 1] * fx * (1 - fy)
        + image[iy + 1, ix] * (1 - fx) * fy + image[iy + 1, ix + 1] * fx * fy
    )  # fmt: skip
    # The header's CD matrix is rounded at the seventh digit: 1e-4 pixel.
    assert np.allclose(found, expected, rtol=1e-3)
    assert np.isnan(DustMap(path).ebv([0.0], [-80.0])).all()
