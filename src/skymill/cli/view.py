"""``skymill view``: one dataset of a campaign as a picture, or as a table on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["view"]

#: Image -> the catalogue of its own sources, in its own pixels.
_SOURCES = {
    "icExp": "icSrc",
    "calexp": "src",
    "deepCoadd_calexp": "deepCoadd_det",
    "deepCoadd": "deepCoadd_det",
}
_MAX_LISTED, _MAX_WIDTH = 12, 160


@click.command(name="view")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, required=True, metavar="DATASET [KEY=VALUE]...")
@click.option("--collection", "collections", multiple=True,
              help="Where to look; everywhere, and what was made last, if omitted.")  # fmt: skip
@click.option("--mask/--no-mask", default=True, show_default=True, help="Draw the mask planes.")
@click.option("--sources", default="auto", show_default=True,
              help="Dataset type of the sources to draw: auto, none, or a name.")  # fmt: skip
@click.option("--plane", default="image", show_default=True,
              type=click.Choice(["image", "variance", "mask"]), help="Pixels to draw.")  # fmt: skip
@click.option("--extension", default="", help="Extension of a FITS file; the first with pixels.")
@click.option("--slice", "index", default=0, show_default=True, help="Plane of a cube.")
@click.option("--rows", default=20, show_default=True, help="Rows of a table to print.")
@click.option("--columns", default="", help="Columns of a table to print, as id,x,y.")
@click.option("--output", type=click.Path(path_type=Path), default=None,
              help="File to write; one named by the data ID if omitted.")  # fmt: skip
def view(cluster: Path, words: tuple[str, ...], **options: Any) -> None:
    """Show a dataset of CLUSTER (a cluster.yaml), as calexp visit=830001 detector=35.

    An image becomes a PNG with its mask planes and sources, a table is printed.
    """
    from lsst.daf.butler import Butler

    from skymill.campaign import load_cluster
    from skymill.campaign.whereabouts import find_datasets
    from skymill.data.errors import ConfigError, MissingInputError

    settings = load_cluster(cluster)
    if not (Path(settings.repo_path) / "butler.yaml").exists():
        raise MissingInputError(
            f"there is no repository at {settings.repo_path}; 'skymill run {cluster}' makes it"
        )
    with Butler.from_config(str(settings.repo_path), writeable=False) as butler:
        refs = find_datasets(settings, butler, words, collections=options["collections"] or ("*",))
        if len(refs) > 1:
            shown = "".join(f"\n  {_name(ref)}" for ref in refs[:_MAX_LISTED])
            more = f"\n  and {len(refs) - _MAX_LISTED} more" if len(refs) > _MAX_LISTED else ""
            raise ConfigError(f"{len(refs)} datasets fit; add to the data ID:{shown}{more}")
        click.echo(f"{_name(refs[0])} in {refs[0].run}")
        value = _read(butler, refs[0])
        picture = _picture(butler, refs[0], value, options)
    if picture is None:
        click.echo(_text(value, options))
        return
    path = options["output"] or Path(f"{_name(refs[0]).replace(' ', '_').replace('=', '')}.png")
    from skymill.data.files import atomic_path

    with atomic_path(path) as draft:
        draft.write_bytes(picture)
    click.echo(f"written: {path}")


def _name(ref: Any) -> str:
    """Dataset type and data ID as they are typed."""
    from skymill.campaign.whereabouts import data_id_words

    return f"{ref.datasetType.name} {data_id_words(ref)}".rstrip()


def _read(butler: Any, ref: Any) -> Any:
    from skymill.data.errors import MissingInputError

    try:
        return butler.get(ref)
    except FileNotFoundError as err:
        raise MissingInputError(
            f"{_name(ref)} is known, but its file is gone (intermediate products are deleted by "
            "gotta_blast and with keep_intermediates: false)"
        ) from err


def _picture(butler: Any, ref: Any, value: Any, options: dict[str, Any]) -> bytes | None:
    """The value as a PNG; `None` if it is no image."""
    from skymill.qa.image_view import draw_image

    if isinstance(value, bytes):
        return value
    found = _pixels(value, options["plane"], options["extension"].upper())
    if found is None:
        return None
    image, mask, origin, unit = found
    if image.ndim == 3:
        image = _slice(image, options["index"])
    title = f"{_name(ref)}, {options['plane']}" if options["plane"] != "image" else _name(ref)
    return draw_image(
        image, mask if options["mask"] and options["plane"] == "image" else None, origin=origin,
        sources=_sources(butler, ref, options["sources"]), title=title, unit=unit,
    )  # fmt: skip


def _slice(cube: Any, index: int) -> Any:
    from skymill.data.errors import ConfigError

    if not 0 <= index < len(cube):
        raise ConfigError(f"--slice must be from 0 to {len(cube) - 1}; got {index}")
    return cube[index]


def _pixels(value: Any, plane: str, extension: str) -> tuple[Any, Any, tuple[int, int], str] | None:
    """Pixels, mask, first pixel and unit of whatever has pixels."""
    from astropy.io import fits

    from skymill.data.errors import ConfigError

    planes = getattr(value, "planes", value)
    if all(hasattr(planes, name) for name in ("image", "variance", "mask")):
        box = getattr(value, "box", None)
        origin = (0, 0) if box is None else (box.x0, box.y0)
        unit = {"image": planes.unit, "variance": f"({planes.unit})2"}.get(plane, "bits")
        return getattr(planes, plane), planes.mask, origin, unit
    pixels, unit = None, ""
    if isinstance(value, fits.HDUList):
        images = [h for h in value if getattr(h, "data", None) is not None and h.is_image]
        chosen = [h for h in images if extension in ("", h.name)]
        if images and not chosen:
            names = ", ".join(h.name or "PRIMARY" for h in images)
            raise ConfigError(f"there is no extension {extension}; there are {names}")
        if chosen:
            pixels, unit = chosen[0].data, str(chosen[0].header.get("BUNIT", ""))
    elif callable(getattr(value, "evaluate", None)):  # a background
        pixels = value.evaluate()
    elif hasattr(value, "amplifiers"):  # a raw CCD
        pixels, unit = value.image, "adu"
    if pixels is None:
        return None
    if plane != "image":
        raise ConfigError(f"this dataset has no plane {plane!r}: only its image can be drawn")
    return pixels, None, (0, 0), unit


def _sources(butler: Any, ref: Any, wanted: str) -> Any:
    """The sources of an image, if they exist."""
    from astropy.table import Table

    from skymill.data.errors import ConfigError, MissingInputError

    name = _SOURCES.get(ref.datasetType.name, "") if wanted == "auto" else wanted
    if name in ("", "none"):
        return None
    found = []
    if butler.registry.queryDatasetTypes(name):
        # The sources of the same run first, then those that were made last.
        found = sorted(
            butler.query_datasets(name, collections="*", find_first=False, explain=False,
                                  data_id=dict(ref.dataId.required)),
            key=lambda r: (r.run == ref.run, r.run),
        )  # fmt: skip
    if not found:
        if wanted == "auto":
            return None
        raise MissingInputError(f"there is no {name} for {_name(ref)}")
    table = butler.get(found[-1])
    if not isinstance(table, Table) or not {"x", "y"} <= set(table.colnames):
        raise ConfigError(f"{name} is no table of sources with x and y")
    return table


def _text(value: Any, options: dict[str, Any]) -> str:
    """A value without pixels for the terminal."""
    from astropy.table import Table

    from skymill.data.errors import ConfigError

    if isinstance(value, Table):
        names = [n for n in options["columns"].split(",") if n]
        if missing := [n for n in names if n not in value.colnames]:
            raise ConfigError(
                f"the table has no column {', '.join(missing)}; it has {', '.join(value.colnames)}"
            )
        chosen = value[names] if names else value
        lines = chosen[: options["rows"]].pformat(
            max_lines=-1, max_width=-1 if names else 120, show_unit=True
        )
        return "\n".join([*lines, f"{len(value)} rows, {len(value.colnames)} columns"])
    if isinstance(value, dict | list):
        return json.dumps(value, indent=1, default=str)
    lines = [line[:_MAX_WIDTH] for line in str(value).splitlines()]
    more = [f"... {len(lines) - _MAX_LISTED} more lines"] if len(lines) > _MAX_LISTED else []
    return "\n".join([type(value).__name__, *lines[:_MAX_LISTED], *more])
