"""Lists of images by camera, with dates and without duplicates."""

from __future__ import annotations

import datetime
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from skymill.data.errors import ConfigError, MissingInputError, SkymillError
from skymill.instruments.community_ccd import companion
from skymill.instruments.decam.headers import open_raw
from skymill.instruments.survey_camera import SURVEY_CAMERAS, SurveyCamera, survey_camera

__all__ = ["ImageList", "list_images", "parse_date"]

_NAME = re.compile(
    r"^(?P<prefix>c4d|k4m|ksb)_(?P<date>\d{6})_(?P<time>\d{6})_ooi_(?P<band>[A-Za-z0-9]+)"
    r"(?:_(?P<version>[A-Za-z0-9]+))?(?P<part>[.\-](?:CCD\d|[NS]\d{1,2}))?\.fits(?:\.fz|\.gz)?$"
)


@dataclass
class ImageList:
    """Images of one camera.

    Parameters
    ----------
    images : list of str
        Paths relative to the folder of images, oldest first.
    duplicates : dict of str to str
        An older version of an exposure to the one that is kept.
    incomplete : dict of str to str
        Image to what is wrong with it.
    """

    images: list[str] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)


def parse_date(text: str) -> datetime.date:
    """A date that a user typed.

    Parameters
    ----------
    text : str
        ``2015-03-29`` or ``20150329``.

    Returns
    -------
    datetime.date
        The date.

    Raises
    ------
    ConfigError
        If it is none.
    """
    digits = text.replace("-", "")
    try:
        if len(digits) != 8:
            raise ValueError
        return datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError as err:
        raise ConfigError(f"a date must be YYYY-MM-DD or YYYYMMDD; got {text!r}") from err


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder, links to folders followed, each folder once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(files):
            yield Path(folder) / name


def _relative(path: Path, root: Path) -> str:
    parts = path.parts
    if "images" in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index("images")
        return str(Path(*parts[last + 1 :]))
    return str(path.relative_to(root))


def list_images(
    root: str | Path,
    *,
    cameras: Iterable[str] = SURVEY_CAMERAS,
    min_date: datetime.date | None = None,
    max_date: datetime.date | None = None,
    companions: bool = True,
) -> dict[str, ImageList]:
    """Find the images of a survey.

    Parameters
    ----------
    root : path
        The folder ``images`` of a survey directory, or any folder above or below it.
    cameras : iterable of str
        Cameras.
    min_date, max_date : datetime.date, optional
        First and last date of the exposure (UT, of the file's name), both included.
    companions : bool
        Leave out images without a weight or a data-quality file beside them.

    Returns
    -------
    dict of str to ImageList
        By camera. Of an exposure in several versions of the Community Pipeline the newest is kept:
        by PLVER, then by the date of processing.

    Raises
    ------
    MissingInputError, ConfigError
        If there is no such folder; if a camera is unknown or the dates are no range.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise MissingInputError(f"there is no folder of images {root}")
    if min_date and max_date and min_date > max_date:
        raise ConfigError(f"--min-date must not be after --max-date; got {min_date}, {max_date}")
    wanted = {survey_camera(name).prefix: survey_camera(name) for name in cameras}
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    lists = {camera.name: ImageList() for camera in wanted.values()}
    for path in _walk(folder):
        match = _NAME.match(path.name)
        if match is None or match["prefix"] not in wanted:
            continue
        try:
            date = parse_date("20" + match["date"])
        except ConfigError:
            continue
        if (min_date and date < min_date) or (max_date and date > max_date):
            continue
        problem = _problem(path) if companions else ""
        if problem:
            lists[wanted[match["prefix"]].name].incomplete[_relative(path, folder)] = problem
            continue
        words = [match[name] or "" for name in ("prefix", "date", "time", "band", "part")]
        key = tuple(words)
        groups[key].append(path)
    for key, paths in sorted(groups.items()):
        _add(lists[wanted[key[0]].name], paths, folder, wanted[key[0]])
    return lists


def _problem(path: Path) -> str:
    for kind in "wd":
        try:
            companion(path, kind)
        except MissingInputError as err:
            return str(err)
    return ""


def _add(found: ImageList, paths: list[Path], folder: Path, camera: SurveyCamera) -> None:
    """The newest of the versions of one exposure."""
    if len(paths) == 1:
        found.images.append(_relative(paths[0], folder))
        return
    ages = []
    for path in paths:
        try:
            ages.append((_age(path), str(path), path))
        except SkymillError as err:
            found.incomplete[_relative(path, folder)] = str(err)
    if not ages:
        return
    ages.sort()
    kept = _relative(ages[-1][2], folder)
    found.images.append(kept)
    found.duplicates.update({_relative(path, folder): kept for _, _, path in ages[:-1]})


def _age(path: Path) -> tuple[tuple[int, ...], str]:
    """Version of the pipeline and date of processing; greater is newer."""
    hdus = open_raw(path, walk=False)
    try:
        header = hdus[0].header
        version = re.findall(r"\d+", str(header.get("PLVER", "")))
        return tuple(int(n) for n in version), str(header.get("DATE", ""))
    finally:
        hdus.close()
