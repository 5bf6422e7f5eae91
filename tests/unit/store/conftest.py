"""Repositories for the tests of the store."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository with DECam registered, made once."""
    from skymill.store.repository import create_repository, register_instrument

    folder = tmp_path_factory.mktemp("template") / "repo"
    create_repository(folder)
    register_instrument(folder)
    return folder


@pytest.fixture
def repo(tmp_path: Path, template: Path) -> Path:
    """A repository of its own for a test."""
    shutil.copytree(template, tmp_path / "repo")
    return tmp_path / "repo"
