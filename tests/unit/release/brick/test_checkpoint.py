"""Checkpoints survive kills, truncation and damage, and never give a stale result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from skymill.release.brick.checkpoint import Checkpoint, digest


def _fill(path: Path, n: int) -> list[bytes]:
    keys = [digest("blob", k) for k in range(n)]
    checkpoint = Checkpoint(path)
    for k, key in enumerate(keys):
        checkpoint.add(key, {"flux": np.full(3, float(k)), "name": np.array("DEV")})
    return keys


def test_blobs_come_back_as_they_were(tmp_path: Path) -> None:
    keys = _fill(tmp_path / "c", 4)
    again = Checkpoint(tmp_path / "c")
    assert len(again) == 4
    assert again.notes == []
    for k, key in enumerate(keys):
        found = again.get(key)
        assert found is not None
        assert found["flux"].tolist() == [k, k, k]
        assert str(found["name"]) == "DEV"


def test_another_input_is_another_key() -> None:
    a = np.arange(4.0)
    assert digest("a", a) == digest("a", a.copy())
    assert len({digest("a", a), digest("b", a), digest("a", a + 1), digest("a", a.reshape(2, 2)),
                digest("a", a.astype(np.float32))}) == 5  # fmt: skip
    # The border between two words counts.
    assert digest("ab", "c") != digest("a", "bc")


def test_an_unknown_blob_is_none(tmp_path: Path) -> None:
    _fill(tmp_path / "c", 1)
    assert Checkpoint(tmp_path / "c").get(digest("other")) is None


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_truncated_last_record_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c"
    keys = _fill(path, 3)
    path.write_bytes(path.read_bytes()[:-cut])
    again = Checkpoint(path)
    assert len(again) == 2
    assert len(again.notes) == 1
    again.add(keys[2], {"flux": np.ones(1)})
    third = Checkpoint(path)
    assert len(third) == 3
    assert third.notes == []


def test_damage_in_the_middle_loses_one_blob_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c"
    keys = _fill(path, 3)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    again = Checkpoint(path)
    assert [key in again for key in keys] == [True, False, True]
    assert "damaged" in again.notes[0]
    assert str(path) in again.notes[0]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all" * 20])
def test_a_file_of_something_else_holds_no_blob(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    again = Checkpoint(path)
    assert len(again) == 0
    assert len(again.notes) == (1 if content else 0)
    again.add(digest("a"), {"x": np.ones(2)})
    assert len(Checkpoint(path)) == 1


def test_force_forgets(tmp_path: Path) -> None:
    _fill(tmp_path / "c", 2)
    assert len(Checkpoint(tmp_path / "c", force=True)) == 0


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"allow_pickle|Object arrays"):
        Checkpoint(tmp_path / "c").add(digest("a"), {"x": np.array([{}], object)})


def test_a_killed_writer_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "c"
    program = textwrap.dedent(f"""
        import numpy as np
        from skymill.release.brick.checkpoint import Checkpoint, digest
        c = Checkpoint({str(path)!r})
        k = 0
        while True:
            c.add(digest("blob", k), {{"x": np.full(20000, float(k))}})
            k += 1
    """)
    writer = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > 2_000_000):
        time.sleep(0.02)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    again = Checkpoint(path)
    assert len(again) >= 10
    for k in range(len(again)):
        found = again.get(digest("blob", k))
        assert found is not None
        assert (found["x"] == k).all()
