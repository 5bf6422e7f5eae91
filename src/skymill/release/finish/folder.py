"""The folder of a release: which bricks it has, their files, and reading their catalogues."""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError, SkymillError
from skymill.release.survey.layout import release_path

__all__ = [
    "Catalogue",
    "Problem",
    "ReleaseFolder",
    "each",
    "is_brick_name",
    "open_fits",
    "pixels_of",
    "read_catalogue",
    "read_names",
]

_ORDER = "ugrizY"


def is_brick_name(text: str) -> bool:
    """Whether a text has the form of a brick's name, such as ``1867p255``.

    Parameters
    ----------
    text : str
        A text.

    Returns
    -------
    bool
        Whether it is four digits, p or m, and three digits.
    """
    return re.fullmatch(r"\d{4}[pm]\d{3}", text) is not None


@dataclass(frozen=True)
class Problem:
    """Something wrong with a brick or a file; the work went on without it.

    Parameters
    ----------
    where : str
        Brick or file.
    text : str
        One sentence.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass
class Catalogue:
    """Columns of a catalogue under their names in lower case.

    Parameters
    ----------
    path : Path
        Its file.
    columns : dict of str to array
        Values; words as bytes.
    units : dict of str to str
        Units of the columns that have one.
    header : astropy.io.fits.Header
        Of the primary HDU.
    """

    path: Path
    columns: dict[str, NDArray[Any]]
    units: dict[str, str] = field(default_factory=dict)
    header: fits.Header = field(default_factory=fits.Header)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            raise DataError(f"{self.path} has no column {name}")
        return self.columns[name]

    @property
    def primary(self) -> NDArray[np.bool_]:
        """Objects that belong to the brick and to no neighbour."""
        return np.asarray(self["brick_primary"], bool)

    def bands(self) -> list[str]:
        """Optical bands with fluxes.

        Returns
        -------
        list of str
            In the order of wavelength.
        """
        found = [n[5:] for n in self.columns if re.fullmatch(r"flux_[a-z]", n)]
        return sorted(found, key=lambda b: (_ORDER.lower().find(b) % 99, b))


def open_fits(path: Path) -> fits.HDUList:
    """A FITS file whose truncation is an error, read whole.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    astropy.io.fits.HDUList
        With the data of every HDU in memory.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is truncated or no FITS file.
    """
    if not path.is_file():
        raise MissingInputError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VerifyWarning)
            warnings.filterwarnings("error", "(?s).*(truncated|corrupted)", AstropyWarning)
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False) as hdus:
                for hdu in hdus:
                    _ = hdu.data
                return hdus
    except (
        OSError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        EOFError,
        zlib.error,
        AstropyWarning,
    ) as exc:
        raise DataError(f"{path} is truncated or no FITS file ({exc})") from exc


def pixels_of(
    x: NDArray[Any], y: NDArray[Any], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Pixels of positions on an image.

    Parameters
    ----------
    x, y : (n,) float [pixel]
        Positions; the first pixel's centre is (0, 0).
    shape : (ny, nx)
        Of the image.

    Returns
    -------
    tuple
        Columns and rows (n,), and which positions lie on the image, its edges included.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    ny, nx = shape
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
    column = np.clip(np.rint(np.where(inside, x, 0)), 0, nx - 1).astype(np.int64)
    row = np.clip(np.rint(np.where(inside, y, 0)), 0, ny - 1).astype(np.int64)
    return column, row, inside


def read_catalogue(path: Path, names: Iterable[str] | None = None) -> Catalogue:
    """A catalogue of a brick.

    Parameters
    ----------
    path : Path
        FITS file with a table in its first extension.
    names : iterable of str, optional
        Columns to keep, in lower case; those that the table lacks are left out.

    Returns
    -------
    Catalogue
        The table.

    Raises
    ------
    DataError
        If the file is truncated or has no table.
    """
    hdus = open_fits(path)
    if len(hdus) < 2 or not isinstance(hdus[1], fits.BinTableHDU):
        raise DataError(f"{path} has no table in its first extension")
    data, definition = hdus[1].data, hdus[1].columns
    wanted = None if names is None else set(names)
    columns: dict[str, NDArray[Any]] = {}
    units: dict[str, str] = {}
    for column in definition:
        name = column.name.lower()
        if wanted is not None and name not in wanted:
            continue
        values = np.asarray(data.field(column.name))
        if values.dtype.kind == "U":
            values = np.char.encode(values, "ascii", "replace")
        columns[name] = values.astype(values.dtype.newbyteorder("="), copy=False)
        if column.unit:
            units[name] = column.unit
    return Catalogue(path, columns, units, hdus[0].header)


def read_names(path: Path) -> list[str]:
    """Names of bricks, one a line.

    Parameters
    ----------
    path : Path
        A text; empty lines and those that begin with # are left out.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    DataError
        If a line is no brick's name.
    """
    names = [line.strip() for line in path.read_text().splitlines()]
    names = [n for n in names if n and not n.startswith("#")]
    bad = [n for n in names if not (is_brick_name(n) or n.startswith("custom-"))]
    if bad:
        raise DataError(f"{path} has a line that is no brick's name: {bad[0]!r}")
    return names


class ReleaseFolder:
    """The folder of a release, with ``tractor``, ``coadd``, ``metrics`` and so on.

    Parameters
    ----------
    root : path
        The folder.

    Raises
    ------
    MissingInputError
        If there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise MissingInputError(f"there is no release folder {root}")

    def path(self, kind: str, *, brick: str | None = None, band: str | None = None) -> Path:
        """Path of a file; see `skymill.release.survey.layout.release_path`.

        Parameters
        ----------
        kind : str
            Kind of file.
        brick, band : str, optional
            Of the file.

        Returns
        -------
        Path
            Where it is or would be.
        """
        return release_path(self.root, kind, brick=brick, band=band)

    def catalogues(self, prefix: str = "") -> dict[str, Path]:
        """The catalogue of each brick that has one.

        Parameters
        ----------
        prefix : str
            Only bricks whose names begin so.

        Returns
        -------
        dict of str to Path
            In the order of names.
        """
        found = self.root.glob("tractor/*/tractor-*.fits")
        pairs = {p.name[len("tractor-") : -len(".fits")]: p for p in found}
        return {name: pairs[name] for name in sorted(pairs) if name.startswith(prefix)}

    def coadd_bricks(self, prefix: str = "") -> list[str]:
        """Bricks with a folder of coadds.

        Parameters
        ----------
        prefix : str
            Only bricks whose names begin so.

        Returns
        -------
        list of str
            Names in order.
        """
        folders = (p for p in self.root.glob("coadd/*/*") if p.is_dir())
        return sorted(p.name for p in folders if p.name.startswith(prefix) and any(p.iterdir()))

    def bricks(self, prefix: str = "") -> list[str]:
        """Bricks of which there is anything.

        Parameters
        ----------
        prefix : str
            Only bricks whose names begin so.

        Returns
        -------
        list of str
            Names in order.
        """
        return sorted({*self.catalogues(prefix), *self.coadd_bricks(prefix)})

    def bands(self, brick: str, kind: str = "nexp") -> list[str]:
        """Bands of a brick's coadds.

        Parameters
        ----------
        brick : str
            Its name.
        kind : str
            Kind of coadd to look for.

        Returns
        -------
        list of str
            In the order of wavelength.
        """
        folder = self.path("coadd-folder", brick=brick)
        start = f"legacysurvey-{brick}-{kind}-"
        names = [p.name[len(start) :].partition(".")[0] for p in folder.glob(f"{start}*.fits*")]
        return sorted(set(names), key=lambda b: (_ORDER.find(b) % 99, b))

    def find(self, kind: str, *, brick: str, band: str | None = None) -> Path | None:
        """A file under its name of any release: packed, zipped or plain.

        Parameters
        ----------
        kind, brick, band : str
            Of the file.

        Returns
        -------
        Path or None
            None if there is none.
        """
        path = self.path(kind, brick=brick, band=band)
        stem = re.sub(r"(\.fits)(\.fz|\.gz)?$", r"\1", str(path))
        for end in (".fz", ".gz", ""):
            if Path(stem + end).is_file():
                return Path(stem + end)
        return path if path.is_file() else None


def each[T, R](
    function: Callable[[T], R], items: Sequence[T], *, workers: int = 1
) -> Iterator[tuple[T, R | Problem]]:
    """Results of a function for many items; an error of one is its result.

    Parameters
    ----------
    function : callable
        Of a module, without state.
    items : sequence
        What it is called with.
    workers : int
        Processes.

    Yields
    ------
    tuple
        The item, and its result or what is wrong with it, in order.
    """
    if workers <= 1 or len(items) < 2:
        for item in items:
            yield item, _safely(function, item)
        return
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context("spawn")) as pool:
        # A future for each item at once would hold all results of a large release.
        futures = []
        todo = iter(items)
        for item in todo:
            futures.append((item, pool.submit(_safely, function, item)))
            if len(futures) >= 4 * workers:
                first, future = futures.pop(0)
                yield first, future.result()
        for item, future in futures:
            yield item, future.result()


def _safely[T, R](function: Callable[[T], R], item: T) -> R | Problem:
    try:
        return function(item)
    except SkymillError as exc:
        return Problem(str(item), str(exc))
