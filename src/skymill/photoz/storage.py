"""p(z) kept small: one byte for each redshift bin."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError

__all__ = ["decode_pz", "encode_pz", "grid_of", "match_pz", "probability_above"]


def encode_pz(pz: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise probabilities by the square root of their ratio to the highest.

    Parameters
    ----------
    pz : (n, n_bin) float32
        Probability in each bin; rows of zeros stay so.

    Returns
    -------
    (n, n_bin) uint8
        ``round(255 sqrt(p / max p))``: bins down to 4e-6 of the highest survive, the highest has
        an error of 0.4 per cent.
    """
    top = pz.max(axis=1, keepdims=True)
    ratio = pz / np.where(top > 0, top, 1.0)
    return np.rint(255.0 * np.sqrt(ratio)).astype(np.uint8)


def decode_pz(code: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of `encode_pz`.

    Parameters
    ----------
    code : (n, n_bin) uint8
        Quantised probabilities.

    Returns
    -------
    (n, n_bin) float32
        Probability in each bin; each row sums to one, or to zero if it was empty.
    """
    value = np.asarray(code, np.float32) ** 2
    total = value.sum(axis=1, keepdims=True)
    return np.asarray(value / np.where(total > 0, total, 1.0), np.float32)


def grid_of(table: Table) -> NDArray[np.float64]:
    """Centres of the redshift bins of a ``photoz`` table.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``photoz``.

    Returns
    -------
    (n_bin,) float64
        Redshifts.

    Raises
    ------
    DataError
        If the table has no p(z).
    """
    if "pz" not in table.colnames or "pz_z0" not in table.colnames:
        raise DataError(
            "the photo-z table has no p(z): columns pz, pz_z0 and pz_dz are needed; run the "
            "photo_z step again, or use the point redshifts alone"
        )
    n = np.asarray(table["pz"]).shape[1]
    if len(table) == 0:
        raise DataError("the photo-z table has no rows")
    return float(table["pz_z0"][0]) + float(table["pz_dz"][0]) * np.arange(n)


def probability_above(table: Table, z: float) -> NDArray[np.float64]:
    """Probability of a redshift above a limit.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``photoz``.
    z : float
        The limit; a bin that holds it counts in part.

    Returns
    -------
    (n,) float64
        NaN for objects without a p(z).
    """
    if len(table) == 0:
        return np.zeros(0)
    grid, width = grid_of(table), float(table["pz_dz"][0])
    share = np.clip((grid + 0.5 * width - z) / width, 0.0, 1.0)
    pz = decode_pz(np.asarray(table["pz"], np.uint8))
    known = pz.any(axis=1)
    return np.where(known, pz @ share.astype(np.float32), np.nan).astype(np.float64)


def match_pz(photoz: Table, catalogue: Table) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """p(z) of the rows of a catalogue, found by their ID.

    Parameters
    ----------
    photoz : astropy.table.Table
        Schema ``photoz``.
    catalogue : astropy.table.Table
        A table with the same ``ID``.

    Returns
    -------
    pz : (n, n_bin) float32
        Zeros for objects without a p(z).
    z : (n_bin,) float64
        Centres of the bins.

    Raises
    ------
    DataError
        If a column is missing or no ID agrees.
    """
    z = grid_of(photoz)
    for name, table in (("photo-z table", photoz), ("catalogue", catalogue)):
        if "ID" not in table.colnames:
            raise DataError(f"the {name} has no column 'ID', by which p(z) is found")
    ids = np.asarray(photoz["ID"]).astype(str)
    wanted = np.asarray(catalogue["ID"]).astype(str)
    order = np.argsort(ids)
    position = np.clip(np.searchsorted(ids[order], wanted), 0, len(ids) - 1)
    row = order[position]
    found = ids[row] == wanted
    if len(wanted) and not found.any():
        raise DataError("no ID of the catalogue is in the photo-z table; are they of one field?")
    pz = decode_pz(np.asarray(photoz["pz"], np.uint8)[row])
    pz[~found] = 0.0
    return pz, z
