"""Names, types and units of the released tables are those of the releases."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import DataError
from skymill.release.columns import columns_of, ordered_columns, zero_columns
from skymill.release.fits_bytes import empty_primary, table


def _published(path: Path) -> list[tuple[str, str, str | None]]:
    with warnings.catch_warnings(), fits.open(path) as hdus:
        warnings.simplefilter("ignore")
        return [(c.name, c.format.removeprefix("1"), c.unit) for c in hdus[1].columns]


def _ours(name: str) -> list[tuple[str, str, str | None]]:
    columns = columns_of(name)
    values = ordered_columns(columns, zero_columns(columns, 2), name="CATALOG")
    units = {c.name: c.unit for c in columns if c.unit}
    file = io.BytesIO(empty_primary() + table(values, name="CATALOG", units=units))
    with fits.open(file) as hdus:
        return [(c.name, c.format.removeprefix("1"), c.unit) for c in hdus[1].columns]


@pytest.mark.parametrize("case", ["testcase3", "testcase6", "mzlsbass2"])
def test_tractor_has_the_columns_of_dr9(shared_data: Path, case: str) -> None:
    published = _published(shared_data / f"cutouts/{case}/reference/tractor-dr9.fits")
    assert _ours("tractor") == published


def test_sweeps_have_the_columns_of_the_published_sweeps(shared_data: Path) -> None:
    assert _ours("sweep") == _published(shared_data / "release_examples/sweep-310m005-320p000.fits")


def test_every_column_has_a_meaning() -> None:
    for name in ("tractor", "tractor-i", "wise", "sweep"):
        found = columns_of(name)
        assert all(len(c.description) > 10 for c in found)
        assert len({c.name for c in found}) == len(found)


def test_bands_repeat_their_columns() -> None:
    names = [c.name for c in columns_of("tractor", ("g", "i"))]
    assert "flux_i" in names
    assert "flux_r" not in names
    assert names.index("flux_i") == names.index("flux_g") + 1


def test_a_missing_column_or_a_wrong_shape_is_told() -> None:
    columns = columns_of("tractor")
    values = zero_columns(columns, 1)
    with pytest.raises(DataError, match=r"apflux_g .* must have the shape"):
        ordered_columns(columns, values | {"apflux_g": np.zeros((1, 7))}, name="CATALOG")
    values.pop("flux_z")
    with pytest.raises(DataError, match="lacks the column flux_z"):
        ordered_columns(columns, values, name="CATALOG")
