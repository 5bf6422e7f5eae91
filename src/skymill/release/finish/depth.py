"""Histograms of the depth of all bricks: their sum, and one row a brick."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError, NoDataError
from skymill.data.files import atomic_path
from skymill.release.finish.folder import Problem, ReleaseFolder, each, read_catalogue

__all__ = ["DepthReport", "depth_bins", "depth_histogram"]

Float32Array = NDArray[np.float32]
_COUNTS = re.compile(r"counts_(ptsrc|gal)_([a-z])")


@dataclass
class DepthReport:
    """The sum over all bricks.

    Parameters
    ----------
    low, high : (50,) float32 [mag]
        Edges of the bins of the 5-sigma depth.
    counts : dict of str to (50,) int64
        Pixels in each bin for ``counts_ptsrc_g`` and so on.
    n_bricks : int
        Bricks in it.
    absent : dict of str to int
        Bricks without a column.
    problems : list of Problem
        Bricks that are not in it.
    """

    low: Float32Array
    high: Float32Array
    counts: dict[str, NDArray[np.int64]]
    n_bricks: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def depth_bins() -> tuple[Float32Array, Float32Array]:
    """Edges of the bins: 0, 20.1, 20.2, ..., 24.9, 100.

    Returns
    -------
    tuple of (50,) float32 [mag]
        Lower and upper edges.
    """
    inner = np.arange(201, 250) / 10
    return np.array([0.0, *inner], np.float32), np.array([*inner, 100.0], np.float32)


def _read(path: Path) -> tuple[Float32Array, Float32Array, dict[str, NDArray[np.int64]]]:
    table = read_catalogue(path)
    names = [n for n in table.columns if _COUNTS.fullmatch(n)]
    if not names:
        raise DataError(f"{path} has no columns counts_ptsrc_BAND")
    counts = {n: np.asarray(table[n], np.int64) for n in names}
    low, high = (np.asarray(table[n], np.float32) for n in ("depthlo", "depthhi"))
    return low, high, counts


def _order(names: Iterable[str]) -> list[str]:
    def key(name: str) -> tuple[int, str]:
        return "ugrizy".find(name[-1]), {"p": "0", "g": "1"}[name.split("_")[1][0]]

    return sorted(names, key=key)


def depth_histogram(
    folder: ReleaseFolder,
    out: Path,
    *,
    release: str,
    bricks: Iterable[str] | None = None,
    workers: int = 1,
) -> DepthReport:
    """Write ``NAME-depth-summary.fits.gz`` (sum) and ``NAME-depth.fits.gz`` (one row a brick).

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    out : Path
        Folder of the two files.
    release : str
        Begin of their names, such as ``dr9``.
    bricks : iterable of str, optional
        Bricks that the release has to have; a missing one is a problem.
    workers : int
        Processes.

    Returns
    -------
    DepthReport
        The sum.

    Raises
    ------
    NoDataError
        If no brick has a table of depths.
    """
    low, high = depth_bins()
    report = DepthReport(low, high, {})
    names = sorted({*folder.coadd_bricks(), *(bricks or ())})
    paths = [folder.path("depth-table", brick=b) for b in names]
    rows: list[tuple[str, dict[str, NDArray[np.int64]]]] = []
    for brick, (path, found) in zip(names, each(_read, paths, workers=workers), strict=True):
        if isinstance(found, Problem):
            report.problems.append(Problem(brick, found.text))
        elif found[0].shape != low.shape or not np.allclose([found[0], found[1]], [low, high]):
            report.problems.append(Problem(brick, f"{path} has other bins of depth"))
        else:
            rows.append((brick, found[2]))
    if not rows:
        raise NoDataError(f"{folder.root} has no table of depths (coadd/BRI/BRICK/*-depth.fits)")
    columns = _order({n for _, counts in rows for n in counts})
    report.counts = {n: np.zeros(low.size, np.int64) for n in columns}
    for _, counts in rows:
        for name in columns:
            if name in counts:
                report.counts[name] += counts[name]
            else:
                report.absent[name] = report.absent.get(name, 0) + 1
    report.n_bricks = len(rows)
    _write_summary(out / f"{release}-depth-summary.fits.gz", report, columns)
    _write_bricks(out / f"{release}-depth.fits.gz", report, columns, rows)
    return report


def _write_summary(path: Path, report: DepthReport, columns: Sequence[str]) -> None:
    out = [fits.Column("depthlo", "E", unit="mag", array=report.low)]
    out.append(fits.Column("depthhi", "E", unit="mag", array=report.high))
    out += [fits.Column(n, "K", unit="pixel", array=report.counts[n]) for n in columns]
    table = fits.BinTableHDU.from_columns(out, name="DEPTH_SUMMARY")
    table.header["NBRICKS"] = report.n_bricks
    with atomic_path(path) as draft:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(draft)


def _write_bricks(
    path: Path, report: DepthReport, columns: Sequence[str],
    rows: Sequence[tuple[str, dict[str, NDArray[np.int64]]]],
) -> None:  # fmt: skip
    n = report.low.size
    zeros = np.zeros(n, np.int64)
    width = max(len(b) for b, _ in rows)
    out = []
    for name in columns:
        values = np.stack([counts.get(name, zeros) for _, counts in rows])
        out.append(fits.Column(name, f"{n}J", unit="pixel", array=values.astype(np.int32)))
    out.append(fits.Column("brickname", f"{width}A", array=np.array([b for b, _ in rows])))
    bins = [fits.Column("depthlo", "E", unit="mag", array=report.low)]
    bins.append(fits.Column("depthhi", "E", unit="mag", array=report.high))
    tables = [
        fits.BinTableHDU.from_columns(out, name="DEPTH"),
        fits.BinTableHDU.from_columns(bins, name="BINS"),
    ]
    with atomic_path(path) as draft:
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(draft)
