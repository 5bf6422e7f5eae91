"""Which quanta are ready, in which order they go out, how many together. No processes here."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Iterable

__all__ = ["Plan", "PlannedQuantum", "Schedule"]

#: Quanta shorter than this go out several together.
_CHUNK_S = 0.15
_MAX_CHUNK = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedQuantum:
    """A quantum of a graph: id, task label, readable data ID, log file."""

    quantum_id: str
    label: str
    data_id: str
    log: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be run of one graph.

    ``labels`` are the tasks in topological order; ``edges`` are pairs (before, after) of quantum
    ids.
    """

    repo: str
    graph: str
    labels: tuple[str, ...]
    quanta: dict[str, PlannedQuantum]
    edges: tuple[tuple[str, str], ...]


class Schedule:
    """Order of the quanta of several graphs that run together.

    Quanta that are ready go out downstream first, so that intermediate products are used while
    they are fresh and a whole chain shows early whether it works.

    Parameters
    ----------
    plans : iterable of Plan
        The graphs.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.plans = list(plans)
        self.owner: dict[str, int] = {}
        self._after: dict[str, list[str]] = {}
        self._waiting: dict[str, int] = {}
        self._rank: dict[tuple[int, str], int] = {}
        self._seconds: dict[tuple[int, str], float] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._n_ready: Counter[tuple[int, str]] = Counter()
        self._order = itertools.count()
        self.n_open = 0
        for index, plan in enumerate(self.plans):
            self._add(index, plan)

    def _add(self, index: int, plan: Plan) -> None:
        for rank, label in enumerate(plan.labels):
            self._rank[index, label] = -rank
        for quantum_id in plan.quanta:
            self.owner[quantum_id] = index
            self._after[quantum_id] = []
            self._waiting[quantum_id] = 0
        for before, after in plan.edges:
            self._after[before].append(after)
            self._waiting[after] += 1
        self.n_open += len(plan.quanta)
        for quantum_id in plan.quanta:
            if self._waiting[quantum_id] == 0:
                self._push(quantum_id)

    def quantum(self, quantum_id: str) -> PlannedQuantum:
        """The quantum of an id.

        Parameters
        ----------
        quantum_id : str
            Id.

        Returns
        -------
        PlannedQuantum
            The quantum.
        """
        return self.plans[self.owner[quantum_id]].quanta[quantum_id]

    def _key(self, quantum_id: str) -> tuple[int, str]:
        index = self.owner[quantum_id]
        return index, self.plans[index].quanta[quantum_id].label

    def _push(self, quantum_id: str) -> None:
        key = self._key(quantum_id)
        self._n_ready[key] += 1
        heapq.heappush(self._ready, (self._rank[key], next(self._order), quantum_id))

    @property
    def has_ready(self) -> bool:
        """Whether a quantum could go out now."""
        return bool(self._ready)

    def take(self, n_workers: int) -> list[str]:
        """The next chunk: one quantum, or several of a task whose quanta are tiny.

        Parameters
        ----------
        n_workers : int
            Workers that share what is ready.

        Returns
        -------
        list of str
            Quantum ids of one task of one graph; empty if nothing is ready.
        """
        if not self._ready:
            return []
        key = self._key(self._ready[0][2])
        seconds = self._seconds.get(key)
        size = 1
        if seconds is not None:
            share = max(1, self._n_ready[key] // (2 * n_workers))
            size = max(1, min(_MAX_CHUNK, share, int(_CHUNK_S / max(seconds, 1e-4))))
        chunk: list[str] = []
        while self._ready and len(chunk) < size and self._key(self._ready[0][2]) == key:
            chunk.append(heapq.heappop(self._ready)[2])
        self._n_ready[key] -= len(chunk)
        return chunk

    def put_back(self, quantum_id: str) -> None:
        """Make a quantum ready again whose worker was lost; it will go out alone.

        Parameters
        ----------
        quantum_id : str
            Id.
        """
        # Larger than any chunk limit, so that the culprit of a lost worker is found.
        self._seconds[self._key(quantum_id)] = _CHUNK_S
        self._push(quantum_id)

    def finish(self, quantum_id: str, seconds: float) -> None:
        """Note a success, which may make others ready.

        Parameters
        ----------
        quantum_id : str
            Id.
        seconds : float
            Duration [s].
        """
        key = self._key(quantum_id)
        old = self._seconds.get(key)
        self._seconds[key] = seconds if old is None else 0.8 * old + 0.2 * seconds
        self.n_open -= 1
        for after in self._after[quantum_id]:
            if self._waiting[after] > 0:
                self._waiting[after] -= 1
                if self._waiting[after] == 0:
                    self._push(after)

    def fail(self, quantum_id: str) -> list[str]:
        """Note a failure, which blocks everything that depends on it, and nothing else.

        Parameters
        ----------
        quantum_id : str
            Id.

        Returns
        -------
        list of str
            Quanta that can never run now (each is returned by one failure only).
        """
        self.n_open -= 1
        blocked: list[str] = []
        stack = list(self._after[quantum_id])
        while stack:
            after = stack.pop()
            if self._waiting[after] < 0:
                continue
            self._waiting[after] = -1
            blocked.append(after)
            stack.extend(self._after[after])
        self.n_open -= len(blocked)
        return blocked
