"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_SHARED = _TESTS.parent / ".." / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file share a process, and with it what the file makes once for all of them.

    Holds for ``--dist loadgroup``; files that share more are marked with the name of a group.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(_TESTS).as_posix()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; the test skips where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip(f"no real data: {_SHARED} is absent")
    return _SHARED.resolve()
