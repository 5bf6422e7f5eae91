"""Sweeps: the primary objects of all bricks in boxes of 10 by 5 degrees."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.coadd.bricks import brick_from_name
from skymill.data.errors import DataError, NoDataError, SkymillError
from skymill.release.finish.columns import (
    OutputColumn,
    fill,
    header_of_bits,
    is_available,
    output_columns,
    source_names,
)
from skymill.release.finish.folder import (
    Catalogue,
    Problem,
    ReleaseFolder,
    each,
    is_brick_name,
    read_catalogue,
)
from skymill.release.finish.table_file import open_table

__all__ = ["SweepBox", "SweepReport", "write_sweeps"]

_WIDTH, _HEIGHT = 10, 5


@dataclass(frozen=True, order=True)
class SweepBox:
    """A box of 10 degrees in right ascension and 5 in declination; lower edges are inside.

    Parameters
    ----------
    ra, dec : int [deg]
        Lower edges.
    """

    ra: int
    dec: int

    @property
    def name(self) -> str:
        """Name such as ``sweep-310m005-320p000``."""
        low = f"{self.ra:03d}{_signed(self.dec)}"
        return f"sweep-{low}-{self.ra + _WIDTH:03d}{_signed(self.dec + _HEIGHT)}"

    def contains(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which positions are in the box.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            Positions with right ascensions in [0, 360).

        Returns
        -------
        (n,) bool
            The pole at +90 belongs to the last box.
        """
        top = self.dec + _HEIGHT
        below = (dec < top) | ((top == 90) & (dec == 90))
        return (ra >= self.ra) & (ra < self.ra + _WIDTH) & (dec >= self.dec) & below


def _signed(dec: int) -> str:
    return f"{'m' if dec < 0 else 'p'}{abs(dec):03d}"


@dataclass
class SweepReport:
    """What was written.

    Parameters
    ----------
    rows : dict of str to int
        Objects in each file.
    absent : dict of str to int
        Columns that were filled with zeros, with the number of bricks that lack them.
    problems : list of Problem
        Catalogues that could not be used; their objects are in no sweep.
    """

    rows: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Survey:
    """First look at a catalogue: its bands, boxes, and number of primary objects."""

    brick: str
    bands: tuple[str, ...]
    boxes: tuple[SweepBox, ...]
    n_primary: int
    largest_bits: int
    names: frozenset[str]


def _look(path: Path) -> _Survey:
    catalogue = read_catalogue(path)
    brick = path.name[len("tractor-") : -len(".fits")]
    rows = catalogue.primary
    ra, dec = np.asarray(catalogue["ra"])[rows], np.asarray(catalogue["dec"])[rows]
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise DataError("a primary object has no position")
    if np.any((ra < 0) | (ra >= 360) | (np.abs(dec) > 90)):
        raise DataError("a primary object has a position outside of 0 <= ra < 360, |dec| <= 90")
    # The pole at +90 belongs to the last box.
    cells = np.stack([ra // _WIDTH, np.minimum(dec, 89.9) // _HEIGHT], axis=1).astype(int)
    boxes = tuple(SweepBox(int(a) * _WIDTH, int(d) * _HEIGHT) for a, d in np.unique(cells, axis=0))
    _check_brick(brick, catalogue.columns.get("brickname"))
    bits = catalogue["maskbits"][rows] if "maskbits" in catalogue else np.zeros(0, np.int32)
    largest = int(bits.max()) if bits.size else 0
    names = frozenset(catalogue.columns)
    return _Survey(brick, tuple(catalogue.bands()), boxes, int(rows.sum()), largest, names)


def _check_brick(brick: str, names: NDArray[Any] | None) -> None:
    """The rows of a brick must be of this brick."""
    if names is None or not is_brick_name(brick):
        return
    brick_from_name(brick)
    other = {n.decode().strip() for n in np.unique(names)} - {brick}
    if other:
        raise DataError(f"the catalogue of {brick} has rows of the brick {sorted(other)[0]}")


def write_sweeps(
    folder: ReleaseFolder,
    out: Path,
    *,
    bricks: Iterable[str] | None = None,
    workers: int = 1,
    on_file: Callable[[str, int], None] = lambda name, rows: None,
) -> SweepReport:
    """Write the sweeps of a release.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    out : Path
        Folder of the sweeps.
    bricks : iterable of str, optional
        Bricks that the release has to have; a missing one is a problem.
    workers : int
        Processes.
    on_file : callable
        Called with each file and its number of objects.

    Returns
    -------
    SweepReport
        Files, zero columns, problems.

    Raises
    ------
    NoDataError
        If there is no catalogue at all.
    """
    paths = folder.catalogues()
    report = SweepReport()
    for brick in sorted(set(bricks or ()) - set(paths)):
        report.problems.append(Problem(brick, "it has no catalogue"))
    looks: list[_Survey] = []
    for path, found in each(_look, list(paths.values()), workers=workers):
        if isinstance(found, Problem):
            report.problems.append(Problem(path.name, found.text))
        else:
            looks.append(found)
    if not looks:
        raise NoDataError(f"{folder.root} has no catalogue of a brick that can be read")
    order = "ugrizy"
    bands = sorted({b for s in looks for b in s.bands} | set("grz"), key=order.find)
    boxes: dict[SweepBox, list[_Survey]] = {}
    for look in looks:
        for box in look.boxes:
            boxes.setdefault(box, []).append(look)
    columns = output_columns(bands, largest_bits=max(s.largest_bits for s in looks))
    write = functools.partial(_write_box, root=folder.root, columns=columns, out=out)
    for item, done in each(write, sorted(boxes.items()), workers=workers):
        if isinstance(done, Problem):
            report.problems.append(Problem(item[0].name, done.text))
            continue
        report.rows[item[0].name] = done[0]
        report.problems += done[1]
        on_file(item[0].name, done[0])
    for column in columns:
        number = sum(not is_available(column, s.names) for s in looks)
        if number:
            report.absent[column.name] = number
    total, wanted = sum(report.rows.values()), sum(s.n_primary for s in looks)
    if total != wanted and not report.problems:
        raise DataError(f"the sweeps have {total} objects; the bricks have {wanted} primary ones")
    return report


def _write_box(
    item: tuple[SweepBox, list[_Survey]], *, root: Path, columns: list[OutputColumn], out: Path
) -> tuple[int, list[Problem]]:
    """One file: its number of rows, and bricks that are not in it."""
    box, looks = item
    folder = ReleaseFolder(root)
    names = source_names(columns)
    problems = []
    absent = [c.name for c in columns if not all(is_available(c, s.names) for s in looks)]
    first = read_catalogue(folder.path("tractor", brick=looks[0].brick), ("ra",))
    cards = header_of_bits(first.header)
    target = out / f"{box.name}.fits"
    with open_table(target, columns, name="SWEEP", cards=cards, absent=absent) as table:
        for look in looks:
            try:
                catalogue = read_catalogue(folder.path("tractor", brick=look.brick), names)
                values = _values(catalogue, box, columns)
            except SkymillError as exc:
                problems.append(Problem(look.brick, str(exc)))
                continue
            table.append(values)
    return table.n_rows, problems


def _values(
    catalogue: Catalogue, box: SweepBox, columns: list[OutputColumn]
) -> dict[str, NDArray[Any]]:
    """The rows of a brick that are in a box."""
    ra, dec = np.asarray(catalogue["ra"]), np.asarray(catalogue["dec"])
    rows = np.flatnonzero(catalogue.primary & box.contains(ra, dec))
    result = {}
    for column in columns:
        values = fill(column, catalogue, rows)
        result[column.name] = column.empty(rows.size) if values is None else values
    return result
