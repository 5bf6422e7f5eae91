"""The cure of CPython gh-127847, here and in spawned processes."""

import multiprocessing
import random
import subprocess
import sys
import zipfile

import skymill
from skymill import _zip_seek


def read_at_random(path: str) -> int:
    """Number of wrong bytes in interleaved relative reads of two stored members."""
    wrong = 0
    rng = random.Random(3)
    with zipfile.ZipFile(path) as archive, archive.open("a") as a, archive.open("b") as b:
        for _ in range(200):
            for stream, byte in ((a, b"a"), (b, b"b")):
                stream.seek(rng.randrange(900))
                wrong += stream.read(20) != byte * 20
    return wrong


def write_archive(path: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", b"a" * 1000)
        archive.writestr("b", b"b" * 1000)


def test_interpreter_is_sound_after_import():
    assert skymill.__version__
    assert not _zip_seek.is_broken()


def test_random_access(tmp_path):
    path = str(tmp_path / "x.zip")
    write_archive(path)
    assert read_at_random(path) == 0


def test_spawned_process_is_repaired():
    # A child that imports nothing of ours: its target is a builtin of the standard library.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        modules = pool.apply(eval, ("'skymill._zip_seek' in __import__('sys').modules",))
    broken_by_version = (3, 12, 1) <= sys.version_info < (3, 12, 9) or (
        (3, 13, 0) <= sys.version_info < (3, 13, 2)
    )
    assert modules is broken_by_version


def test_butler_command_is_repaired():
    code = (
        "import lsst.daf.butler.cli.butler as b, click, sys;"
        "b.cli.list_commands(click.Context(b.cli)); print('skymill._zip_seek' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("True")
