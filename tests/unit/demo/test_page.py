"""The page of the report: every number is there with unit and error, a missing one misses."""

import re

from skymill.demo.page import Goal, Section, write_page


def _rows(path):
    text = path.read_text()
    found = re.findall(r"<tr>(.*?)</tr>", text, flags=re.S)
    return [[re.sub("<[^>]+>", "", c) for c in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in found]


def test_numbers_stand_with_units_errors_and_bands(tmp_path):
    numbers = {
        "relative_mas": 2.5,
        "c1": 0.0012,
        "c1_err": 0.0004,
        "fit_msun": 9.1e14,
        "highest": None,
        "n_per_arcmin2": 13.0,
        "bands": {"g": {"relative_mas": 3.0, "n_stars": 10}, "r": {"relative_mas": 2.0}},
    }
    path = tmp_path / "index.html"
    section = Section(title="a < b", numbers=numbers)
    goals = [Goal(name="S/N", value="none", wanted="at least 5", met=False)]
    write_page(path, {"verdict": "v", "version": "1"}, [section], goals)
    rows = _rows(path)
    assert ["S/N", "none", "at least 5", "missed"] in rows
    assert ["relative", "2.5", "mas"] in rows
    assert ["c1", "0.0012 &plusmn; 0.0004", ""] in rows
    assert ["fit", "9.100e+14", "Msun"] in rows
    assert ["highest", "&ndash;", ""] in rows
    assert ["number", "13", "arcmin-2"] in rows
    assert ["bands", "relative [mas]", "number stars"] in rows
    assert ["g", "3", "10"] in rows
    assert ["r", "2", "&ndash;"] in rows
    assert "a &lt; b" in path.read_text()
