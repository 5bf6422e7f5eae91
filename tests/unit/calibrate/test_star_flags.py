import numpy as np
from astropy.table import Table

from skymill.calibrate.star_flags import psf_star_flags


def visit(ra, used, reserved):
    return Table(
        {
            "ra": np.asarray(ra, float) % 360, "dec": np.full(len(ra), -30.0),
            "calib_psf_used": used, "calib_psf_reserved": reserved,
        }
    )  # fmt: skip


def test_flags_of_all_visits_join():
    step = 5 / 3600 / np.cos(np.radians(30))  # 5 arcsec
    ra = (359.999 + step * np.arange(5)) % 360
    first = visit(ra[:3] + 0.3 / 3600, [True, False, False], [False, True, False])
    second = visit(ra[[1, 4]], [True, True], [False, False])
    far = visit([ra[3] + 1.5 / 3600], [True], [False])
    used, reserved = psf_star_flags(ra, np.full(5, -30.0), [first, second, far])
    assert used.tolist() == [True, True, False, False, True]
    assert reserved.tolist() == [False, True, False, False, False]


def test_nothing_to_match():
    empty = visit([], np.empty(0, bool), np.empty(0, bool))
    used, reserved = psf_star_flags([10.0, np.nan], [0.0, 0.0], [empty])
    assert not used.any()
    assert not reserved.any()
    assert psf_star_flags([], [], [visit([1.0], [True], [False])])[0].size == 0
