"""Choice of the reference band and the public columns of blends."""

import numpy as np
from astropy.table import Table

from skymill.data.flags import MeasureFlag
from skymill.data.tables import load_schema
from skymill.measure.object_table import choose_reference, join_bands, public_objects

ZERO = {"f": np.nan, "i": 0, "u": 0, "b": False}


def blank(schema, n, **columns):
    """A table of a schema without optional columns, filled as told."""
    table = Table()
    for column in load_schema(schema).columns:
        if column.optional or "{" in column.name:
            continue
        dtype = np.dtype("U8" if column.dtype.startswith("str") else column.dtype)
        table[column.name] = np.full(n, ZERO.get(dtype.kind, ""), dtype)
    for name, values in columns.items():
        table[name] = np.asarray(values)
    return table


def measured(n, *, flags, snr, x):
    return blank(
        "deepCoadd_meas", n, id=np.arange(1, n + 1), psfFlux=np.asarray(snr, float),
        psfFluxErr=np.ones(n), peak_detected=np.ones(n, bool), x=np.asarray(x, float),
        centroid_flags=np.asarray(flags, np.uint32), parent=[1, 1, 0], n_siblings=[2, 2, 1],
    )  # fmt: skip


def test_a_saturated_core_does_not_lead():
    masked = int(MeasureFlag.UNUSABLE_CENTRE | MeasureFlag.SATURATED)
    r = measured(3, flags=[masked, 0, masked], snr=[900, 900, 900], x=[1, 1, 1])
    g = measured(3, flags=[0, 0, masked], snr=[90, 90, 90], x=[2, 2, 2])
    reference = choose_reference({"r": r, "g": g})
    # Not saturated in g; best in r; saturated in both: r, for it is the first.
    assert reference["refBand"].tolist() == ["g", "r", "r"]
    assert reference["x"].tolist() == [2, 1, 1]


def test_children_are_counted_where_their_footprint_is_led():
    r = measured(3, flags=[0, 0, 0], snr=[90, 90, 90], x=[1, 1, 1])
    reference = choose_reference({"r": r})
    objects = public_objects(join_bands({"r": r}, {}, reference), tract=1, patch=2)
    assert objects["deblend_nChild"].tolist() == [2, 0, 0]
    assert objects["parentObjectId"].tolist() == [1, 1, 0]
    assert "ebv" not in objects.colnames
