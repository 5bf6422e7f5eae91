"""Order, chunks and failure isolation of the scheduler, without processes."""

import random

import pytest

from skymill.engine.schedule import Plan, PlannedQuantum, Schedule


def make_plan(n, edges, labels=("a", "b"), label_of=lambda i: "a"):
    quanta = {
        str(i): PlannedQuantum(quantum_id=str(i), label=label_of(i), data_id=str(i), log="x")
        for i in range(n)
    }
    return Plan(repo="r", graph="g", labels=labels, quanta=quanta, edges=tuple(edges))


def test_downstream_goes_first():
    plan = make_plan(4, [("0", "2"), ("1", "3")], label_of=lambda i: "a" if i < 2 else "b")
    schedule = Schedule([plan])
    assert schedule.take(1) == ["0"]
    schedule.finish("0", 1.0)
    assert schedule.take(1) == ["2"]
    assert schedule.take(1) == ["1"]


def test_tiny_quanta_go_out_together_and_long_ones_alone():
    schedule = Schedule([make_plan(100, [])])
    first = schedule.take(2)
    assert len(first) == 1
    schedule.finish(first[0], 0.005)
    assert len(schedule.take(2)) == 24  # A quarter of those that are ready.
    long = Schedule([make_plan(100, [])])
    long.finish(long.take(2)[0], 3.0)
    assert len(long.take(2)) == 1


def test_quantum_of_a_lost_worker_goes_out_alone():
    schedule = Schedule([make_plan(100, [])])
    schedule.finish(schedule.take(2)[0], 0.001)
    chunk = schedule.take(2)
    for quantum_id in chunk:
        schedule.put_back(quantum_id)
    assert len(schedule.take(2)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_random_graph_ends_with_every_quantum_accounted_for(seed):
    rng = random.Random(seed)
    n = 60
    edges = [(str(i), str(j)) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.05]
    schedule = Schedule([make_plan(n, edges)])
    done, failed, blocked = set(), set(), set()
    while schedule.n_open:
        chunk = schedule.take(3)
        assert chunk
        for quantum_id in chunk:
            before = {a for a, b in edges if b == quantum_id}
            assert before <= done
            if rng.random() < 0.1:
                failed.add(quantum_id)
                blocked.update(schedule.fail(quantum_id))
            else:
                done.add(quantum_id)
                schedule.finish(quantum_id, 0.2)
    assert len(done) + len(failed) + len(blocked) == n
    # Oracle: blocked are exactly the descendants of the failed.
    descendants = set()
    frontier = set(failed)
    while frontier:
        frontier = {b for a, b in edges if a in frontier} - descendants
        descendants |= frontier
    assert blocked == descendants
