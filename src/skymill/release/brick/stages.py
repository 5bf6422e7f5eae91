"""Results of stages on disk: arrays and words in one npz file that says what it depends on."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.data.files import atomic_path

__all__ = ["read_stage", "write_stage"]

_LOG = logging.getLogger(__name__)


def write_stage(
    path: Path, key: bytes, arrays: Mapping[str, NDArray[Any]], words: Mapping[str, Any]
) -> None:
    """Write the result of a stage.

    Parameters
    ----------
    path : Path
        The file.
    key : bytes
        What the result depends on: version, exposures, options.
    arrays : mapping of str to array
        Arrays without objects.
    words : mapping
        What JSON can hold.
    """
    head = json.dumps({"key": key.hex(), **words}, sort_keys=True)
    with atomic_path(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, words=np.array(head), **arrays)


def read_stage(path: Path, key: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Read the result of a stage if it belongs to the present inputs.

    Parameters
    ----------
    path : Path
        The file.
    key : bytes
        As it must be.

    Returns
    -------
    (arrays, words), or None
        None if there is no such file, it cannot be read, or it belongs to other inputs.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        words = json.loads(str(arrays.pop("words")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
        _LOG.warning("the stage %s cannot be read (%s); it is made again", path, err)
        return None
    if words.pop("key", "") != key.hex():
        _LOG.info("the stage %s belongs to other inputs or options; it is made again", path)
        return None
    return arrays, words
