"""The report's page: plain HTML with pictures beside it, no script."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skymill.data.files import atomic_path

__all__ = ["Goal", "Section", "write_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2330; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.verdict { font-size: 1.1rem; margin-top: .3rem; color: #345; }
img { max-width: 100%; height: auto; border: 1px solid #dde; border-radius: 4px; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #e6e9f0; }
th { font-weight: 500; color: #456; } td { text-align: right; }
td.unit, td.word { text-align: left; color: #678; } .missed { color: #b3261e; font-weight: 600; }
.met { color: #2a6f3a; }
"""

# Last word of a name in summary.json -> unit as it is shown.
_UNITS = {
    "mas": "mas",
    "mmag": "mmag",
    "arcmin": "arcmin",
    "arcmin2": "arcmin<sup>-2</sup>",
    "msun": "M<sub>sun</sub>",
    "s": "s",
    "ra": "deg",
    "dec": "deg",
}
_WORDS = {"snr": "S/N", "nmad": "NMAD", "ra": "RA", "dec": "Dec", "n": "number"}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A number beside what it should be.

    Parameters
    ----------
    name, value, wanted : str
        What it is, what it came to, what it should be.
    met : bool
        True if it is so.
    """

    name: str
    value: str
    wanted: str
    met: bool


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section: a title, a picture, numbers.

    Parameters
    ----------
    title : str
        Heading.
    figure : str, optional
        File name of a picture beside the page.
    numbers : dict
        Nested names and values; ``NAME_err`` is the error of ``NAME``, the last word is the unit.
    """

    title: str
    figure: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


def _label(name: str) -> tuple[str, str]:
    """Words and unit of a name: ``relative_mas`` -> ``relative``, ``mas``."""
    words = name.split("_")
    unit = _UNITS.get(words[-1], "")
    if unit and len(words) > 1 and words[-1] not in _WORDS:
        words = words[:-1]
    if unit == _UNITS["arcmin2"] and words[-1] == "per":
        words = words[:-1]
    return html.escape(" ".join(_WORDS.get(w, w) for w in words)), unit


def _show(value: Any, error: Any = None) -> str:
    if value is None:
        return "&ndash;"
    if isinstance(value, float):
        text = f"{value:.3e}" if abs(value) >= 1e6 else f"{value:.4g}"
        return text if error is None else f"{text} &plusmn; {error:.2g}"
    return html.escape(str(value))


def _is_matrix(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())


def _matrix(name: str, value: dict[str, dict[str, Any]]) -> str:
    """A table with a row an item (band) and a column a quantity."""
    columns = list(dict.fromkeys(key for row in value.values() for key in row))
    head = "".join(
        f"<th>{label}{f' [{unit}]' if unit else ''}</th>" for label, unit in map(_label, columns)
    )
    rows = "".join(
        f"<tr><th>{html.escape(item)}</th>"
        + "".join(f"<td>{_show(row.get(column))}</td>" for column in columns)
        + "</tr>"
        for item, row in value.items()
    )
    return f"<table><tr><th>{_label(name)[0]}</th>{head}</tr>{rows}</table>"


def _tables(numbers: dict[str, Any]) -> str:
    rows, matrices = [], []
    errors = {name for name in numbers if name.endswith("_err") and name[:-4] in numbers}
    for name, value in numbers.items():
        if name in errors:
            continue
        if _is_matrix(value) and value:
            matrices.append(_matrix(name, value))
        elif isinstance(value, dict):
            label = _label(name)[0]
            rows += [f"<tr><th>{label}, {html.escape(str(key))}</th><td>{_show(v)}</td>"
                     '<td class="unit"></td></tr>' for key, v in value.items()]  # fmt: skip
        else:
            label, unit = _label(name)
            shown = _show(value, numbers.get(f"{name}_err"))
            rows.append(f'<tr><th>{label}</th><td>{shown}</td><td class="unit">{unit}</td></tr>')
    return (f"<table>{''.join(rows)}</table>" if rows else "") + "".join(matrices)


def _goals(goals: list[Goal]) -> str:
    if not goals:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(g.name)}</th><td>{html.escape(g.value)}</td>"
        f'<td class="word">{html.escape(g.wanted)}</td>'
        + ('<td class="met">met</td></tr>' if g.met else '<td class="missed">missed</td></tr>')
        for g in goals
    )
    return f"<table><tr><th></th><th>found</th><th>wanted</th><th></th></tr>{rows}</table>"


def _section(section: Section) -> str:
    title = html.escape(section.title)
    parts = [f"<h2>{title}</h2>"]
    if section.figure:
        parts.append(f'<img src="{html.escape(section.figure)}" alt="{title}">')
    if section.numbers:
        parts.append(_tables(section.numbers))
    return "\n".join(parts)


def write_page(
    path: Path,
    summary: dict[str, Any],
    sections: list[Section],
    goals: list[Goal],
    *,
    cluster: str = "",
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        File to write.
    summary : dict
        With ``verdict`` and ``version``.
    sections : list of Section
        In order.
    goals : list of Goal
        What the demonstration should reach, shown first.
    cluster : str
        Name of a real cluster; empty for a demonstration.
    """
    version = html.escape(str(summary["version"]))
    head, lead = "skymill demo", (
        "A simulated DECam field around a lensing cluster, processed by skymill\n"
        f"{version} without knowledge of the truth, which this page alone reads."
    )  # fmt: skip
    if cluster:
        head, lead = html.escape(cluster), f"Processed by skymill {version}."
    body = "\n".join(_section(s) for s in sections)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{head}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>{head if cluster else "From raw frames to a mass"}</h1>
<p class="verdict">{html.escape(str(summary["verdict"]))}</p>
<p>{lead}
All numbers: <a href="summary.json">summary.json</a>.</p>
{_goals(goals)}
{body}
</body></html>
"""
    with atomic_path(path) as draft:
        draft.write_text(text)
