"""Records: every kind of value comes back as it was, and nothing else is accepted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from skymill.data.errors import DataError
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box
from skymill.store.records import read_record, record_hdus

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def there_and_back(value: object) -> object:
    return read_record(fits.HDUList([fits.PrimaryHDU(), *record_hdus(value)]))


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and np.isnan(a):
        return isinstance(b, float) and np.isnan(b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_values(value):
    assert same(value, there_and_back(value))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "u2", "u4", "i2", "?", "U5"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0, 4), (11, 13), (3, 5, 7)])
def test_arrays(dtype, shape):
    rng = np.random.default_rng(2)
    array = rng.integers(0, 100, size=shape).astype(dtype)
    found = there_and_back({"a": array, "b": [array]})
    for other in (found["a"], found["b"][0]):
        assert other.dtype == array.dtype
        np.testing.assert_array_equal(other, array)
    assert found["a"].flags.writeable


def test_infinite_pixels_and_classes(tmp_path):
    array = np.full(100, np.nan)
    array[3] = np.inf
    value = {"box": Box(x0=1, y0=2, x1=3, y1=4), "pixels": array}
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), *record_hdus(value)]).writeto(path)
    with fits.open(path) as hdus:
        found = read_record(hdus)
    assert found["box"] == value["box"]
    np.testing.assert_array_equal(found["pixels"], array)
    wcs = make_tan_wcs(ra=10.123456789012, dec=-9, scale=0.263, x=1, y=2)
    assert there_and_back(wcs) == wcs


def test_other_things_are_refused():
    with pytest.raises(DataError, match="type object cannot be stored"):
        record_hdus(object())
    with pytest.raises(DataError, match="dtype complex128"):
        record_hdus(np.zeros(3, complex))

    @dataclasses.dataclass
    class Foreign:
        a: int = 1

    with pytest.raises(DataError, match="type Foreign cannot be stored"):
        record_hdus(Foreign())


def test_files_of_others_are_refused():
    with pytest.raises(DataError, match="no record of skymill"):
        read_record(fits.HDUList([fits.PrimaryHDU()]))
    hdus = record_hdus(1)
    hdus[0].header["SKYVERS"] = 99
    with pytest.raises(DataError, match="newer skymill"):
        read_record(fits.HDUList([fits.PrimaryHDU(), *hdus]))
    evil = b'{"$class": "os:system", "fields": {}}'
    hdu = fits.ImageHDU(np.frombuffer(evil, dtype=np.uint8), name="SKYMILL")
    with pytest.raises(DataError, match="outside of skymill"):
        read_record(fits.HDUList([fits.PrimaryHDU(), hdu]))
