"""The kd-tree of CCDs in the FITS extensions that readers of the Legacy Surveys look for.

Unit vectors in units of 2^-31 from -1; nodes in heap order; a leaf's points are neighbours in the
table. ``kdtree_lr`` holds the last point of each leaf, ``kdtree_split`` the plane of each inner
node with its dimension in the lowest two bits, ``kdtree_range`` the limits and the scale,
``kdtree_data`` the points. Numbers are in the order of bytes of a little-endian machine, as the
card ENDIAN says.
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from skymill.release.survey.overlap import unit_vectors

__all__ = ["LEAF_SIZE", "RawTable", "kd_tree_tables", "search_kd_tree"]

#: Most points of a leaf.
LEAF_SIZE = 25

_SCALE = (2.0**32 - 1) / 2.0
_DIM_BITS = 3

Uint32Array = NDArray[np.uint32]


class RawTable:
    """A FITS table of one column of bytes, perhaps of no width.

    Parameters
    ----------
    name : str
        Name of the column.
    data : bytes
        Its bytes.
    width : int
        Bytes of a row.
    cards : dict, optional
        Further cards.
    """

    def __init__(
        self, name: str, data: bytes, width: int, cards: dict[str, object] | None = None
    ) -> None:
        self.name, self.data, self.width, self.cards = name, data, width, cards or {}

    def tobytes(self) -> bytes:
        """The header and the data in blocks of 2880 bytes."""
        header = fits.Header()
        header["XTENSION"] = ("BINTABLE", "FITS Binary Table Extension")
        header["BITPIX"], header["NAXIS"] = 8, 2
        header["NAXIS1"] = self.width if self.data else (self.width if self.width else 0)
        header["NAXIS2"] = len(self.data) // self.width if self.width else 0
        header["PCOUNT"], header["GCOUNT"], header["TFIELDS"] = 0, 1, 1
        header["TTYPE1"], header["TFORM1"] = self.name, f"{self.width}A"
        for key, value in self.cards.items():
            header[key] = value
        out = header.tostring(endcard=True, padding=True).encode("ascii")
        return out + self.data + b"\0" * (-len(self.data) % 2880)


def _quantize(vectors: NDArray[np.float64]) -> Uint32Array:
    return np.clip(np.round((vectors + 1.0) * _SCALE), 0, 2.0**32 - 1).astype(np.uint32)


def _n_levels(n: int) -> int:
    levels = 1
    while n > LEAF_SIZE * 2 ** (levels - 1):
        levels += 1
    return levels


def _build(points: Uint32Array) -> tuple[NDArray[np.int64], Uint32Array, Uint32Array]:
    """Order of the points, last point of each leaf, planes of the inner nodes."""
    n, levels = len(points), _n_levels(len(points))
    order = np.arange(n)
    split = np.zeros(2 ** (levels - 1) - 1, np.uint32)
    bounds = [(0, n)]
    for level in range(levels - 1):
        halves = []
        for k, (start, stop) in enumerate(bounds):
            part = points[order[start:stop]]
            spread = part.max(axis=0).astype(np.int64) - part.min(axis=0) if len(part) else [0]
            dim = int(np.argmax(spread))
            middle = (stop - start) // 2
            by_value = np.argsort(part[:, dim], kind="stable")
            order[start:stop] = order[start:stop][by_value]
            plane = int(part[by_value[middle], dim]) if len(part) else 0
            split[2**level - 1 + k] = np.uint32((plane & ~_DIM_BITS) | dim)
            halves += [(start, start + middle), (start + middle, stop)]
        bounds = halves
    last = np.array([(stop - 1) % 2**32 for _, stop in bounds], np.uint32)
    return order, last, split


def _cards(name: str, n: int, dims: int, nodes: int, kind: str) -> dict[str, object]:
    return {
        "AN_FILE": ("SKDT", "This file is a star kdtree."),
        "ENDIAN": ("04:03:02:01", "Endianness detector: u32 0x01020304"),
        "KDT_NAME": (name, "kdtree: name of this tree"),
        "KDT_NDAT": (n, "kdtree: number of data points"),
        "KDT_NDIM": (dims, "kdtree: number of dimensions"),
        "KDT_NNOD": (nodes, "kdtree: number of nodes"),
        "KDT_VER": (1, "kdtree: version number"),
        "KDT_EXT": ("double", "kdtree: external type"),
        "KDT_INT": (kind, "kdtree: type of the tree's structures"),
        "KDT_DATA": (kind, "kdtree: type of the data"),
        "KDT_LINL": (False, "kdtree: has_linear_lr"),
    }


def kd_tree_tables(
    ra: ArrayLike, dec: ArrayLike, expnum: ArrayLike
) -> tuple[NDArray[np.int64], list[RawTable]]:
    """The trees of positions and of exposure numbers.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions; n > 0.
    expnum : (n,) int
        Exposures.

    Returns
    -------
    order : (n,) int64
        In which the rows of the table must be written.
    tables : list of RawTable
        The extensions, to be written behind the table.
    """
    points = _quantize(unit_vectors(ra, dec))
    order, last, split = _build(points)
    n, nodes = len(points), 2 * len(last) - 1
    limits = np.array([-1.0] * 3 + [1.0] * 3 + [_SCALE], "<f8")
    tables = [
        RawTable("kdtree_header_ccds", b"", 0, _cards("ccds", n, 3, nodes, "u32")),
        RawTable("kdtree_lr_ccds", last.astype("<u4").tobytes(), 4),
        RawTable("kdtree_split_ccds", split.astype("<u4").tobytes(), 4),
        RawTable("kdtree_range_ccds", limits.tobytes(), 8),
        RawTable("kdtree_data_ccds", points[order].astype("<u4").tobytes(), 12),
    ]
    numbers = np.asarray(expnum)[order].astype("<f8")
    by_number = np.argsort(numbers, kind="stable")
    # One leaf: the numbers are searched one after the other, which is quick.
    tables += [
        RawTable("kdtree_header_expnum", b"", 0, _cards("expnum", n, 1, 1, "double")),
        RawTable("kdtree_lr_expnum", np.array([n - 1], "<u4").tobytes(), 4),
        RawTable("kdtree_perm_expnum", by_number.astype("<u4").tobytes(), 4),
        RawTable("kdtree_split_expnum", b"", 8),
        RawTable("kdtree_splitdim_expnum", b"", 1),
        RawTable("kdtree_data_expnum", numbers[by_number].tobytes(), 8),
    ]
    return order, tables


def search_kd_tree(
    hdus: fits.HDUList, *, ra: float, dec: float, radius_deg: float
) -> NDArray[np.int64]:
    """Rows of a table within a circle, by its tree.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file ``*.kd.fits``.
    ra, dec, radius_deg : float [deg]
        The circle.

    Returns
    -------
    (k,) int64
        Rows of the table, ascending.
    """
    raw = {hdu.columns[0].name: hdu for hdu in hdus[2:] if hdu.columns[0].name.endswith("_ccds")}

    def array(name: str, kind: str) -> NDArray[np.generic]:
        return np.frombuffer(raw[f"kdtree_{name}_ccds"].data.tobytes(), kind)

    last, split = array("lr", "<u4").astype(np.int64), array("split", "<u4").astype(np.int64)
    limits = array("range", "<f8").astype(float)
    points = array("data", "<u4").astype(float).reshape(-1, 3) / limits[6] + limits[:3]
    centre = unit_vectors(ra, dec)
    chord = 2.0 * np.sin(np.radians(radius_deg) / 2.0)
    found, stack = [], [0]
    while stack:
        node = stack.pop()
        if node < len(split):
            dim = int(split[node]) & _DIM_BITS
            plane = (int(split[node]) & ~_DIM_BITS) / limits[6] + limits[dim]
            slack = 4.0 / limits[6]
            if centre[dim] - chord <= plane + slack:
                stack.append(2 * node + 1)
            if centre[dim] + chord >= plane - slack:
                stack.append(2 * node + 2)
            continue
        leaf = node - len(split)
        start = 0 if leaf == 0 else int(last[leaf - 1]) + 1
        rows = np.arange(start, int(last[leaf]) + 1)
        near = ((points[rows] - centre) ** 2).sum(axis=1) <= chord**2
        found.append(rows[near])
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
