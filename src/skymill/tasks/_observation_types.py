"""Keep the quanta of exposures of some observation types only."""

from __future__ import annotations

from collections.abc import Collection

from lsst.pipe.base import QuantaAdjuster

__all__ = ["keep_observation_types"]


def keep_observation_types(adjuster: QuantaAdjuster, types: Collection[str]) -> None:
    """Remove the quanta of exposures whose observation type is not wanted.

    Parameters
    ----------
    adjuster : lsst.pipe.base.QuantaAdjuster
        The quanta of a task with the dimension ``exposure``.
    types : collection of str
        Wanted types, as in the Butler's exposure records (``zero``, ``dome flat``, ``science``);
        empty keeps everything.
    """
    if not types:
        return
    for data_id in list(adjuster.iter_data_ids()):
        record = adjuster.expand_quantum_data_id(data_id).records["exposure"]
        if record is None or record.observation_type not in types:
            adjuster.remove_quantum(data_id)
