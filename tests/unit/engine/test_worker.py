"""What a worker tells of an exception."""

import errno

import pytest

from skymill.engine.worker import _describe


def raised(cause, outer):
    try:
        raise outer from cause
    except Exception as exc:
        return exc


@pytest.mark.parametrize(
    "cause", [OSError(errno.ENOSPC, "no space"), OSError("Not enough space on disk: requested 8")]
)
def test_full_disk_is_told_however_it_is_wrapped(cause):
    name, text = _describe(raised(cause, RuntimeError("Failed to serialize")))
    assert name == "DiskFull"
    assert text == "the disk is full; free some space and run the same command again"


def test_cause_is_told():
    found = _describe(raised(ValueError("bad pixel"), RuntimeError("Failed to serialize")))
    assert found == ("RuntimeError", "Failed to serialize (ValueError: bad pixel)")
