import galsim
import numpy as np
import pytest

from skymill.data.errors import DataError, NoDataError
from skymill.lensing.catalogue import ShearSample, plane_to_sky, sky_to_plane, tangential_shear


@pytest.mark.parametrize("centre", [(10.0, -20.0), (0.001, 45.0), (123.0, 89.9), (200.0, -90.0)])
def test_projection_round_trip_across_ra_zero_and_at_the_pole(centre):
    rng = np.random.default_rng(1)
    east, north = rng.uniform(-60, 60, (2, 50))
    ra, dec = plane_to_sky(east=east, north=north, centre=centre)
    assert (ra >= 0).all()
    assert (ra < 360).all()
    e, n = sky_to_plane(ra=ra, dec=dec, centre=centre)
    assert np.allclose(e, east, atol=1e-9)
    assert np.allclose(n, north, atol=1e-9)


def test_projection_agrees_with_galsim():
    middle = galsim.CelestialCoord(30 * galsim.degrees, 50 * galsim.degrees)
    other = galsim.CelestialCoord(30.5 * galsim.degrees, 50.3 * galsim.degrees)
    u, v = middle.project(other)  # u to the West
    east, north = sky_to_plane(ra=[30.5], dec=[50.3], centre=(30.0, 50.0))
    assert east[0] == pytest.approx(-u / galsim.arcmin, rel=1e-9)
    assert north[0] == pytest.approx(v / galsim.arcmin, rel=1e-9)


def test_signs_of_the_conventions():
    # A galaxy East of the mass, stretched North-South, is tangential: g1 < 0.
    g_t, g_x = tangential_shear(
        east=np.array([1.0, 0.0, 1.0]), north=np.array([0.0, 1.0, 1.0]),
        g1=np.array([-0.1, 0.1, 0.0]), g2=np.array([0.0, 0.0, -0.1]),
    )  # fmt: skip
    assert np.allclose(g_t, 0.1)
    assert np.allclose(g_x, 0.0)


def test_local_axes_turn_with_the_meridians():
    # Far from the centre's meridian at dec 60 local North differs from the plane's y axis; a shape
    # that points at the centre along the great circle stays radial in the plane.
    centre = (50.0, 60.0)
    a = galsim.CelestialCoord(52.0 * galsim.degrees, 60.5 * galsim.degrees)
    b = galsim.CelestialCoord(50.0 * galsim.degrees, 60.0 * galsim.degrees)
    pole = galsim.CelestialCoord(0 * galsim.degrees, 90 * galsim.degrees)
    position_angle = a.angleBetween(b, pole) / galsim.radians  # from the direction to b to North
    # Angle of the direction to the centre from local East towards North.
    phi = np.pi / 2 + position_angle
    g1, g2 = -0.1 * np.cos(2 * phi), -0.1 * np.sin(2 * phi)
    sample = ShearSample(
        ra=np.array([52.0, 48.0]), dec=np.array([60.5, 60.5]), g1=np.array([g1, 0.0]),
        g2=np.array([g2, 0.0]), weight=np.ones(2), axes="local",
    )  # fmt: skip
    east, north, p1, p2 = sample.in_plane(centre)
    g_t, g_x = tangential_shear(east=east, north=north, g1=p1, g2=p2)
    # Exact up to the shear of the gnomonic projection itself, (theta)^2 = 3e-4.
    assert g_t[0] == pytest.approx(0.1, rel=1e-3)
    assert abs(g_x[0]) < 1e-4


def test_unusable_rows_are_counted():
    sample, dropped = ShearSample.from_columns(
        ra=[1, 2, np.nan, 4, 5], dec=[0, 0, 0, 0, 0], g1=[0.1, np.nan, 0, 0, 5], g2=[0, 0, 0, 0, 0],
        weight=[1, 1, 1, 0.5, 1],
    )  # fmt: skip
    assert (len(sample), dropped) == (2, 3)


def test_one_galaxy_is_not_enough():
    with pytest.raises(NoDataError, match=r"at least 2 galaxies .* 1 of 1 rows are usable"):
        ShearSample.from_columns(ra=[1], dec=[1], g1=[0], g2=[0])


def test_lengths_must_agree():
    with pytest.raises(DataError, match="g2 has 1 rows, but ra has 2"):
        ShearSample.from_columns(ra=[1, 2], dec=[1, 2], g1=[0, 0], g2=[0])
