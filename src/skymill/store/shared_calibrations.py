"""Import calibrations that many repositories share, as often as one likes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import yaml
from lsst.daf.butler import Butler, CollectionType

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.store.curated import CALIB_CHAIN, CERTIFIED
from skymill.store.repository import extend_chain, open_butler, storage_errors

__all__ = ["import_calibrations"]

_TRANSFERS = ("auto", "direct", "copy", "symlink", "link", "hardlink", "relsymlink")


def _get(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((v for k, v in node.value if k.value == key), None)


def _identifiers(node: yaml.Node | None) -> list[UUID]:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    return [UUID(item.value) for item in items]


def _drop_known(item: yaml.MappingNode, known: Callable[[UUID], bool]) -> int:
    """Take the known datasets out of one entry; how many new ones stay."""
    kind = _get(item, "type")
    new = 0
    if kind is not None and kind.value == "dataset":
        records = _get(item, "records")
        assert isinstance(records, yaml.SequenceNode)
        records.value = [
            r for r in records.value if not all(map(known, _identifiers(_get(r, "dataset_id"))))
        ]
        new = sum(len(_identifiers(_get(r, "dataset_id"))) for r in records.value)
    elif kind is not None and kind.value == "associations":
        ranges = _get(item, "validity_ranges")
        for entry in ranges.value if isinstance(ranges, yaml.SequenceNode) else []:
            ids = _get(entry, "dataset_ids")
            assert isinstance(ids, yaml.SequenceNode)
            ids.value = [i for i in ids.value if not known(UUID(i.value))]
        if isinstance(ranges, yaml.SequenceNode):
            ranges.value = [r for r in ranges.value if _identifiers(_get(r, "dataset_ids"))]
    return new


def _is_empty(item: yaml.MappingNode) -> bool:
    part = _get(item, "records") or _get(item, "validity_ranges")
    kind = _get(item, "type")
    named = kind is not None and kind.value in ("dataset", "associations")
    return named and isinstance(part, yaml.SequenceNode) and not part.value


def _calibration_collections(data: yaml.SequenceNode) -> list[str]:
    out = []
    for item in data.value:
        kind, name = _get(item, "collection_type"), _get(item, "name")
        if kind is not None and name is not None and kind.value == CollectionType.CALIBRATION.name:
            out.append(str(name.value))
    return out


def import_calibrations(repo: str | Path, folder: str | Path, *, transfer: str = "direct") -> int:
    """Import what ``butler export-calibs`` wrote; what is there already is left as it is.

    Parameters
    ----------
    repo : path
        The repository.
    folder : path
        The export: a folder with ``export.yaml``.
    transfer : str
        ``direct`` (use the files where they are), ``copy``, ``symlink``, ...

    Returns
    -------
    int
        New datasets.

    Raises
    ------
    ConfigError
        If the transfer is unknown.
    MissingInputError, DataError
        If there is no export, or it is not readable.
    """
    if transfer not in _TRANSFERS:
        raise ConfigError(f"transfer must be one of {', '.join(_TRANSFERS)}; got {transfer!r}")
    source = Path(folder).absolute()
    path = source / "export.yaml"
    if not path.is_file():
        raise MissingInputError(
            f"{folder} is no export of calibrations (no export.yaml); make one with "
            "'butler export-calibs --transfer copy REPO FOLDER COLLECTION'"
        )
    try:
        tree = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except yaml.YAMLError as err:
        raise DataError(f"{path} is not readable: {err}") from err
    data = _get(tree, "data") if isinstance(tree, yaml.MappingNode) else None
    if tree is None or not isinstance(data, yaml.SequenceNode):
        raise DataError(f"{path} is no export of a Butler repository (no entry 'data')")
    with open_butler(repo) as butler, storage_errors(repo):
        return _import(butler, tree, data, source, transfer)


def _import(
    butler: Butler, tree: yaml.Node, data: yaml.SequenceNode, source: Path, transfer: str
) -> int:
    present: dict[UUID, bool] = {}

    def known(identifier: UUID) -> bool:
        if identifier not in present:
            present[identifier] = butler.get_dataset(identifier) is not None
        return present[identifier]

    chain = [CERTIFIED, *_calibration_collections(data)]
    new = sum(_drop_known(item, known) for item in data.value)
    data.value = [item for item in data.value if not _is_empty(item)]
    if new:
        text = yaml.serialize(tree)
        butler.import_(directory=str(source), filename=io.StringIO(text), transfer=transfer)
    butler.collections.register(CERTIFIED, CollectionType.CALIBRATION)
    extend_chain(butler, CALIB_CHAIN, list(dict.fromkeys(chain)))
    return new
