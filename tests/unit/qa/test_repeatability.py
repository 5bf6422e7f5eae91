"""Repeatability of stars whose scatter is known."""

import numpy as np

from skymill.qa.repeatability import measure_repeatability


def visits(rng, n_visits, n_stars=3000, sigma_mas=8.0, sigma_mmag=6.0):
    ra0, dec0 = rng.uniform(359.7, 360.3, n_stars) % 360, rng.uniform(20, 20.6, n_stars)
    flux0 = 10 ** rng.uniform(3, 5, n_stars)
    rows = []
    for v in range(n_visits):
        rows.append(
            (
                ra0 + rng.normal(0, sigma_mas, n_stars) / 3.6e6 / np.cos(np.radians(dec0)),
                dec0 + rng.normal(0, sigma_mas, n_stars) / 3.6e6,
                flux0 * 10 ** (rng.normal(0, sigma_mmag, n_stars) / 2500),
                np.full(n_stars, v),
            )
        )
    ra, dec, flux, visit = (np.concatenate(c) for c in zip(*rows, strict=True))
    return {
        "ra": ra % 360,
        "dec": dec,
        "flux": flux,
        "visit": visit.astype(np.int64),
        "snr": np.full(ra.size, 500.0),
        "star": np.ones(ra.size, bool),
    }


def test_known_scatter_is_found_whatever_the_number_of_visits():
    for n_visits in (2, 5):
        found = measure_repeatability(**visits(np.random.default_rng(n_visits), n_visits))
        # 3000 stars x 2 axes give the scatter to 1.5 %.
        assert abs(found.astrometry_mas / 8.0 - 1) < 0.05
        assert abs(found.astrometry_rms_mas / 8.0 - 1) < 0.05
        assert abs(found.photometry_mmag / 6.0 - 1) < 0.05
        assert found.n_stars > 2900


def test_faint_sources_and_galaxies_do_not_count():
    data = visits(np.random.default_rng(3), 2)
    data["star"][::2] = False
    data["snr"][1::4] = 5.0
    assert measure_repeatability(**data).d_mag.size < 0.3 * data["ra"].size


def test_one_visit_has_no_repeatability():
    found = measure_repeatability(**visits(np.random.default_rng(4), 1))
    assert found.n_stars == 0
    assert np.isnan(found.photometry_mmag)
