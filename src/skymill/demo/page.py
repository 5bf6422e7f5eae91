"""The report's page: plain HTML with pictures beside it, no script."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Section", "write_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2330; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.verdict { font-size: 1.1rem; margin-top: .3rem; color: #345; }
img { max-width: 100%; height: auto; border: 1px solid #dde; border-radius: 4px; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #e6e9f0; }
th { font-weight: 500; color: #456; } td { text-align: right; }
"""


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
        Nested names and values.
    """

    title: str
    figure: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


def _rows(numbers: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out = []
    for name, value in numbers.items():
        words = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            out += _rows(value, prefix=f"{words}, ")
        elif value is None:
            out.append((words, "none"))
        elif isinstance(value, float):
            out.append((words, f"{value:.4g}"))
        else:
            out.append((words, str(value)))
    return out


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.figure:
        title = html.escape(section.title)
        parts.append(f'<img src="{html.escape(section.figure)}" alt="{title}">')
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in _rows(section.numbers)
    )
    if rows:
        parts.append(f"<table>{rows}</table>")
    return "\n".join(parts)


def write_page(path: Path, summary: dict[str, Any], sections: list[Section]) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        File to write.
    summary : dict
        With ``verdict`` and ``version``.
    sections : list of Section
        In order.
    """
    body = "\n".join(_section(s) for s in sections)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>skymill demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>From raw frames to a mass</h1>
<p class="verdict">{html.escape(str(summary["verdict"]))}</p>
<p>A simulated DECam field around a lensing cluster, processed by skymill
{html.escape(str(summary["version"]))} without knowledge of the truth, which this page alone reads.
All numbers: <a href="summary.json">summary.json</a>.</p>
{body}
</body></html>
"""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
