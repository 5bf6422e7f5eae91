"""The report's page: plain HTML with pictures beside it, no script."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skymill.data.files import atomic_path
from skymill.demo.labels import find_label, show_value

__all__ = ["Goal", "Section", "write_page"]

_STYLE = """
:root { --ink: #1c2330; --soft: #5b6b80; --line: #e3e8f0; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem;
       color: var(--ink); background: #fff; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0 0 .4rem; scroll-margin-top: 1rem; }
p { margin: .4rem 0; } p.verdict { font-size: 1.15rem; color: #2c4a6e; }
p.caption, p.lead { color: var(--soft); font-size: .92rem; }
nav { margin: .8rem 0; font-size: .92rem; } nav a { margin-right: 1rem; white-space: nowrap; }
a { color: #1a5fb4; text-decoration: none; } a:hover { text-decoration: underline; }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 2rem; }
section { grid-column: span 2; border-top: 1px solid var(--line); padding-top: 1rem; }
section.half { grid-column: span 1; }
@media (max-width: 52rem) { section.half { grid-column: span 2; } }
img { display: block; max-width: 100%; max-height: 46rem; height: auto; margin: .3rem 0 .6rem; }
sup, sub { line-height: 0; }
.tables { display: flex; flex-wrap: wrap; gap: .3rem 3rem; align-items: flex-start; }
table { border-collapse: collapse; margin: .3rem 0; font-variant-numeric: tabular-nums;
        font-size: .92rem; }
th, td { text-align: left; padding: .12rem 1.1rem .12rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); } td { text-align: right; }
td.unit, td.word { text-align: left; color: var(--soft); }
.missed { color: #b3261e; font-weight: 600; } .met { color: #2a6f3a; }
"""

#: Rows of a table before another is put beside it.
_ROWS = 5


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
    """One section: a title, pictures, a sentence about them, numbers.

    Parameters
    ----------
    title : str
        Heading.
    figures : tuple of str
        File names of pictures beside the page.
    caption : str
        What the pictures show.
    numbers : dict
        Nested names and values; ``NAME_err`` is the error of ``NAME``.
    half : bool
        Half of the page's width is enough.
    """

    title: str
    figures: tuple[str, ...] = ()
    caption: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    half: bool = False


def _is_matrix(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())


def _cell(row: dict[str, Any], column: str) -> str:
    return show_value(row.get(column), find_label(column), row.get(f"{column}_err"))


def _matrix(name: str, value: dict[str, dict[str, Any]]) -> str:
    """A table with a row an item (band) and a column a quantity."""
    columns = list(dict.fromkeys(key for row in value.values() for key in row))
    columns = [c for c in columns if not (c.endswith("_err") and c[:-4] in columns)]
    labels = [find_label(column) for column in columns]
    head = "".join(
        f"<th>{label.text}{f' [{label.unit}]' if label.unit else ''}</th>" for label in labels
    )
    rows = "".join(
        f"<tr><th>{find_label(item).text}</th>"
        + "".join(f"<td>{_cell(row, column)}</td>" for column in columns)
        + "</tr>"
        for item, row in value.items()
    )
    return f"<table><tr><th>{find_label(name).text}</th>{head}</tr>{rows}</table>"


def _tables(numbers: dict[str, Any]) -> str:
    rows, matrices = [], []
    errors = {name for name in numbers if name.endswith("_err") and name[:-4] in numbers}
    for name, value in numbers.items():
        if name in errors:
            continue
        label = find_label(name)
        if _is_matrix(value) and value:
            matrices.append(_matrix(name, value))
        elif isinstance(value, dict):
            rows += [f"<tr><th>{label.text}, {html.escape(str(key))}</th>"
                     f"<td>{show_value(v, find_label(str(key)))}</td>"
                     '<td class="unit"></td></tr>' for key, v in value.items()]  # fmt: skip
        else:
            shown = show_value(value, label, numbers.get(f"{name}_err"))
            rows.append(
                f'<tr><th>{label.text}</th><td>{shown}</td><td class="unit">{label.unit}</td></tr>'
            )
    # Long lists stand beside each other, as equal as can be.
    n = -(-len(rows) // -(-len(rows) // _ROWS)) if rows else 1
    parts = [f"<table>{''.join(rows[i : i + n])}</table>" for i in range(0, len(rows), n)]
    tables = parts + matrices
    return f'<div class="tables">{"".join(tables)}</div>'


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


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _section(section: Section) -> str:
    title = html.escape(section.title)
    kind = ' class="half"' if section.half else ""
    parts = [f'<section{kind} id="{_anchor(section.title)}"><h2>{title}</h2>']
    parts += [
        f'<img src="{html.escape(name)}" alt="{title}" loading="lazy">' for name in section.figures
    ]
    if section.caption:
        parts.append(f'<p class="caption">{html.escape(section.caption)}</p>')
    if section.numbers:
        parts.append(_tables(section.numbers))
    return "\n".join([*parts, "</section>"])


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
    links = "\n".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    body = "\n".join(_section(s) for s in sections)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{head}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>{head if cluster else "From raw frames to a mass"}</h1>
<p class="verdict">{html.escape(str(summary["verdict"]))}</p>
<p class="lead">{lead}
All numbers: <a href="summary.json">summary.json</a>.</p>
{_goals(goals)}
<nav>{links}</nav>
<main>
{body}
</main>
</body></html>
"""
    with atomic_path(path) as draft:
        draft.write_text(text)
