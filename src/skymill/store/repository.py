"""Make a Butler repository, open one, and let it know the words of skymill."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lsst.daf.butler import Butler, CollectionType, Config
from lsst.daf.butler.registry import MissingCollectionError

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.files import atomic_path

__all__ = [
    "INCLUDE",
    "create_repository",
    "extend_chain",
    "include_configs",
    "open_butler",
    "register_instrument",
    "storage_errors",
]

#: What the butler.yaml of a repository includes, so that every tool finds our formatters.
INCLUDE = "resource://skymill/configs/butler.yaml"


def _config_file(repo: str | Path) -> Path:
    path = Path(repo)
    path = path / "butler.yaml" if path.is_dir() else path
    if not path.is_file():
        raise MissingInputError(
            f"there is no Butler repository at {repo} (no butler.yaml); make one with "
            "'skymill init' or 'butler create'"
        )
    return path


def include_configs(repo: str | Path) -> bool:
    """Add the line that brings our storage classes and formatters, where it is missing.

    Parameters
    ----------
    repo : path
        Folder of the repository, or its butler.yaml.

    Returns
    -------
    bool
        True if the line was added.

    Raises
    ------
    MissingInputError
        If there is no repository.
    """
    path = _config_file(repo)
    text = path.read_text()
    content = yaml.safe_load(text.replace("!include", "")) or {}
    present = content.get("includeConfigs") or []
    present = [present] if isinstance(present, str) else list(present)
    if INCLUDE in present:
        return False
    if present:
        content["includeConfigs"] = [*present, INCLUDE]
        text = yaml.safe_dump(content)
    else:
        text = f"includeConfigs:\n  - {INCLUDE}\n{text}"
    with atomic_path(path) as draft:
        draft.write_text(text)
        draft.chmod(path.stat().st_mode)
    return True


def create_repository(repo: str | Path, *, registry: str | None = None) -> bool:
    """Create an empty repository that knows the words of skymill.

    Parameters
    ----------
    repo : path
        Folder; it may exist if it is empty.
    registry : str, optional
        Database, such as ``postgresql://user@host/name``; SQLite inside the folder if omitted.

    Returns
    -------
    bool
        False if there was a repository already, which is left as it is.

    Raises
    ------
    ConfigError
        If the folder exists and holds other things.
    """
    folder = Path(repo)
    if (folder / "butler.yaml").is_file():
        include_configs(folder)
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{repo} exists and is no Butler repository; choose another place")
    config = Config()
    if registry is not None:
        config["registry", "db"] = registry
    with storage_errors(folder):
        Butler.makeRepo(str(folder), config=config)
        include_configs(folder)
    return True


@contextmanager
def open_butler(
    repo: str | Path,
    *,
    writeable: bool = True,
    run: str | None = None,
    collections: str | list[str] | None = None,
) -> Iterator[Butler]:
    """Open a repository; the line for our formatters is added where it is missing.

    Parameters
    ----------
    repo : path
        Folder of the repository.
    writeable : bool
        Open for writing.
    run : str, optional
        RUN collection to write to.
    collections : str or list of str, optional
        Collections to read from.

    Yields
    ------
    lsst.daf.butler.Butler
        The butler; closed at the end.
    """
    if "://" not in str(repo):
        include_configs(repo)
    with Butler.from_config(
        str(repo), writeable=writeable, run=run, collections=collections
    ) as butler:
        yield butler


@contextmanager
def storage_errors(place: str | Path) -> Iterator[None]:
    """Turn errors of the disk into one clear sentence.

    Parameters
    ----------
    place : path
        Where is written, for the message.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    DataError
        If the disk is full or may not be written to.
    """
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {place} is full; nothing of the last step was kept. Free some space "
                "and run the same command again"
            ) from err
        if err.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise DataError(f"{place} may not be written to: {err}") from err
        raise
    except Exception as err:
        if "database or disk is full" in str(err):
            raise DataError(
                f"the disk of {place} is full; nothing of the last step was kept. Free some space "
                "and run the same command again"
            ) from err
        raise


def extend_chain(butler: Butler, chain: str, children: list[str]) -> None:
    """Make a chain of collections, or put what it lacks before its present children.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        Writeable.
    chain : str
        Name of the CHAINED collection.
    children : list of str
        Collections that it has to hold, in their order of search.
    """
    try:
        present = list(butler.collections.get_info(chain).children)
    except MissingCollectionError:
        butler.collections.register(chain, CollectionType.CHAINED)
        present = []
    wanted = [c for c in children if c not in present]
    if wanted:
        # What was there keeps its order; what is new is searched as asked.
        merged = sorted(
            {*present, *children},
            key=lambda c: (children.index(c) if c in children else len(children), c),
        )
        butler.collections.redefine_chain(chain, merged)


def register_instrument(
    repo: str | Path, name: str = "skymill.instruments.decam.DarkEnergyCamera"
) -> None:
    """Register an instrument; what is registered already stays.

    Parameters
    ----------
    repo : path
        The repository.
    name : str
        Class of the instrument.
    """
    from lsst.pipe.base import Instrument

    with open_butler(repo) as butler:
        Instrument.from_string(name, butler.registry).register(butler.registry)
