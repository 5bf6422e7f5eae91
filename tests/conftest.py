"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; the test skips where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip(f"no real data: {_SHARED} is absent")
    return _SHARED.resolve()
