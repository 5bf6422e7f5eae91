"""Numbers of the report that depend on where the field is."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.demo import numbers


@pytest.mark.parametrize(("ra0", "dec0"), [(150.0, 2.2), (0.0, -60.0), (359.99, 60.0)])
def test_field_and_area_do_not_depend_on_the_meridian(ra0, dec0):
    rng = np.random.default_rng(3)
    # A field of 20 x 20 arcmin, dense enough that no cell of 1 arcmin is empty.
    east, north = rng.uniform(-10, 10, (2, 20_000)) / 60
    ra = (ra0 + east / np.cos(np.radians(dec0))) % 360
    objects = Table({"coord_ra": ra, "coord_dec": dec0 + north})
    beside = Table({"ra": [(ra0 + 0.5) % 360, ra0, (ra0 - 0.5) % 360], "dec": [dec0] * 3})
    assert numbers._inside(beside, objects).tolist() == [False, True, False]
    area = numbers._area_arcmin2(Table({"ra": ra, "dec": dec0 + north}))
    # The outermost row and column of cells are cut.
    assert area == pytest.approx(400, rel=0.11)
