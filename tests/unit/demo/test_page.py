"""The page of the report: every number is there with unit and error, a missing one misses."""

import re

import pytest

from skymill.demo.labels import find_label, show_value
from skymill.demo.page import Goal, Section, write_page


def _rows(text):
    found = re.findall(r"<tr>(.*?)</tr>", text, flags=re.S)
    return [[re.sub("<[^>]+>", "", c) for c in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in found]


def test_numbers_stand_with_units_errors_and_bands(tmp_path):
    numbers = {
        "relative_mas": 2.5,
        "c1": 0.0012,
        "c1_err": 0.0004,
        "fit_msun": 9.1e14,
        "highest_b_snr": None,
        "n_per_arcmin2": 13.0,
        "something_new_arcmin": 1.25,
        "bands": {"g": {"relative_mas": 3.0, "n_stars": 10}, "r": {"relative_mas": 2.0}},
        "tests": {"b_mode": {"value": 1.5e-5, "value_err": 1.1e-5, "p": 0.123}},
    }
    path = tmp_path / "index.html"
    section = Section(title="a < b", numbers=numbers, figures=("f.png",), caption="c & d")
    goals = [Goal(name="S/N", value="none", wanted="at least 5", met=False)]
    write_page(path, {"verdict": "v", "version": "1"}, [section], goals)
    text = path.read_text()
    rows = _rows(text)
    assert ["S/N", "none", "at least 5", "missed"] in rows
    assert ["scatter of one visit", "2.5", "mas"] in rows
    assert ["c1", "0.00120 &plusmn; 0.00040", ""] in rows
    assert ["M200", "9.10", "1014 Msun"] in rows
    assert ["highest B peak, S/N", "&ndash;", ""] in rows
    assert ["density", "13.0", "arcmin-2"] in rows
    # A number without a label of its own keeps the words of its name.
    assert ["something new", "1.25", "arcmin"] in rows
    assert ["band", "scatter of one visit [mas]", "stars"] in rows
    assert ["g", "3.0", "10"] in rows
    assert ["r", "2.0", "&ndash;"] in rows
    assert ["test", "value", "chance"] in rows
    assert ["b mode", "0.000015 &plusmn; 0.000011", "0.12"] in rows
    assert "a &lt; b" in text
    assert "c &amp; d" in text
    assert text.count('src="f.png"') == 1
    # The link of the contents leads to the section.
    target = re.search(r'href="#([^"]+)"', text).group(1)
    assert f'id="{target}"' in text


@pytest.mark.parametrize(
    ("name", "value", "error", "shown"),
    [
        ("objects", 21686, None, "21&#8239;686"),
        ("outliers", 0.2376, None, "23.8"),
        ("deviation_sigma", -1.83, None, "-1.83"),
        ("value", -3.03e-8, 2.1e-8, "-3.0e-08 &plusmn; 2e-08"),
        ("richness", 47.4, 7.9, "47.4 &plusmn; 7.9"),
        ("richness", 470.4, 79.0, "470 &plusmn; 79"),
        ("richness", 47.4, float("nan"), "47.4"),
        ("anything", True, None, "True"),
        ("anything", "<b>", None, "&lt;b&gt;"),
    ],
)
def test_digits_follow_the_error(name, value, error, shown):
    assert show_value(value, find_label(name), error) == shown
