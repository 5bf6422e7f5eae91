"""A picture gallery of a release: pages of HTML with thumbnails, numbers and links."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skymill.data.errors import DataError, NoDataError
from skymill.data.files import atomic_path
from skymill.qa.release_figures import draw_color
from skymill.release.finish.folder import (
    Problem,
    ReleaseFolder,
    each,
    is_brick_name,
    open_fits,
    read_catalogue,
)

__all__ = ["GalleryReport", "write_gallery"]

_KINDS = ("image", "model", "resid")
_SIZE = 256

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; background: #14161a; color: #e8e8e8; }
a { color: #8ab4f8; } h1 { font-weight: 500; }
.bricks { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; background: #1f2228; padding: .6rem; border-radius: 6px; }
figure img { width: 16rem; height: 16rem; object-fit: contain; background: #000; }
.row img { width: 12rem; height: 12rem; } figcaption { font-size: .85rem; color: #bbb; }
.fault { color: #f28b82; }
"""


@dataclass
class GalleryReport:
    """A gallery: its first page, its bricks, and what could not be shown."""

    index: Path
    n_bricks: int
    problems: list[Problem]


@dataclass(frozen=True)
class _Entry:
    brick: str
    thumbnails: dict[str, str]
    large: dict[str, str]
    numbers: str


def _entry(brick: str, *, root: Path, out: Path) -> _Entry:
    folder = ReleaseFolder(root)
    thumbnails, large = {}, {}
    for kind in _KINDS:
        path = folder.find(f"{kind}-jpeg", brick=brick)
        target = out / "thumbnails" / brick[:3] / f"{brick}-{kind}.jpg"
        if path is not None:
            picture = _open(path)
            large[kind] = os.path.relpath(path, out)
        else:
            array = _color(folder, brick, kind)
            if array is None:
                continue
            picture = Image.fromarray(array)
            target_large = out / "pictures" / brick[:3] / f"{brick}-{kind}.jpg"
            _save(picture, target_large)
            large[kind] = os.path.relpath(target_large, out)
        picture.thumbnail((_SIZE, _SIZE))
        _save(picture.convert("RGB"), target)
        thumbnails[kind] = os.path.relpath(target, out)
    if not thumbnails:
        raise DataError("it has neither pictures nor coadds")
    return _Entry(brick, thumbnails, large, _numbers(folder, brick))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except (OSError, UnidentifiedImageError, SyntaxError) as exc:
        raise DataError(f"{path} is no picture ({exc})") from exc


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as draft:
        picture.save(draft, format="JPEG", quality=90)


def _color(folder: ReleaseFolder, brick: str, kind: str) -> NDArray[np.uint8] | None:
    """A picture from the coadds, where the brick has none."""
    planes = {}
    for band in folder.bands(brick, "image"):
        values = _plane(folder, "image", brick, band)
        model = _plane(folder, "model", brick, band) if kind != "image" else None
        if kind == "model":
            values = model
        elif kind == "resid" and values is not None:
            values = values - model if model is not None else None
        if values is not None:
            planes[band] = values
    return draw_color(planes) if planes else None


def _plane(folder: ReleaseFolder, kind: str, brick: str, band: str) -> NDArray[np.float32] | None:
    path = folder.find(kind, brick=brick, band=band)
    if path is None:
        return None
    hdu = next((h for h in open_fits(path) if getattr(h, "data", None) is not None), None)
    return None if hdu is None else np.asarray(hdu.data, np.float32)


def _numbers(folder: ReleaseFolder, brick: str) -> str:
    path = folder.path("tractor", brick=brick)
    if not path.is_file():
        return '<span class="fault">no catalogue</span>'
    catalogue = read_catalogue(
        path, ("brick_primary", "type", "nobs_g", "nobs_r", "nobs_i", "nobs_z")
    )
    mine = catalogue.primary
    words = [f"{int(mine.sum())} objects"]
    kinds, counts = np.unique(np.char.strip(catalogue["type"][mine]), return_counts=True)
    words += [f"{k.decode()} {n}" for k, n in zip(kinds, counts, strict=True)]
    for band in "griz":
        if f"nobs_{band}" in catalogue and mine.any():
            words.append(f"{int(np.median(catalogue[f'nobs_{band}'][mine]))} x {band}")
    return html.escape(", ".join(words))


def write_gallery(
    folder: ReleaseFolder, out: Path, *, title: str, workers: int = 1
) -> GalleryReport:
    """Write the gallery of a release: an index, and a page for each 1 degree of RA.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    out : Path
        Folder of the gallery; ``index.html`` is its first page.
    title : str
        Title of the pages.
    workers : int
        Processes.

    Returns
    -------
    GalleryReport
        The first page.

    Raises
    ------
    NoDataError
        If no brick can be shown.
    """
    work = functools.partial(_entry, root=folder.root.resolve(), out=out.resolve())
    entries, problems = [], []
    for brick, found in each(work, folder.bricks(), workers=workers):
        if isinstance(found, Problem):
            problems.append(Problem(brick, found.text))
        else:
            entries.append(found)
    if not entries:
        raise NoDataError(f"{folder.root} has no brick that can be shown")
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.brick[:3], []).append(entry)
    for name, group in groups.items():
        body = "".join(_brick_html(e) for e in group)
        _page(out / f"bricks-{name}.html", f"{title}: bricks {name}", _back() + body)
    sections = "".join(_section(name, group) for name, group in groups.items())
    faults = "".join(f'<li class="fault">{html.escape(str(p))}</li>' for p in problems)
    lost = f"<h2>Not shown</h2><ul>{faults}</ul>" if faults else ""
    count = f"<p>{len(entries)} bricks. North is up, East is left.</p>"
    _page(out / "index.html", title, count + sections + lost)
    return GalleryReport(out / "index.html", len(entries), problems)


def _back() -> str:
    return '<p><a href="index.html">all bricks</a></p>'


def _section(name: str, group: Sequence[_Entry]) -> str:
    first = []
    for entry in group:
        kind = next(iter(entry.thumbnails))
        place = f"bricks-{name}.html#{entry.brick}"
        source = entry.thumbnails[kind]
        image = f'<img loading="lazy" src="{source}" alt="{entry.brick}">'
        picture = f'<a href="{place}">{image}</a>'
        first.append(f"<figure>{picture}<figcaption>{entry.brick}</figcaption></figure>")
    label = f"RA {name}" if is_brick_name(group[0].brick) else "custom regions"
    link = f'<a href="bricks-{name}.html">{label}</a>'
    return f'<h2>{link}</h2><div class="bricks">{"".join(first)}</div>'


def _brick_html(entry: _Entry) -> str:
    pictures = []
    for kind, thumbnail in entry.thumbnails.items():
        tag = (
            f'<a href="{entry.large[kind]}"><img loading="lazy" src="{thumbnail}" alt="{kind}"></a>'
        )
        pictures.append(f"<figure>{tag}<figcaption>{kind}</figcaption></figure>")
    head = f'<h2 id="{entry.brick}">{entry.brick}</h2><p>{entry.numbers}</p>'
    return f'{head}<div class="bricks row">{"".join(pictures)}</div>'


def _page(path: Path, title: str, body: str) -> None:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body>"
        "</html>\n"
    )
    with atomic_path(path) as draft:
        draft.write_text(text)
