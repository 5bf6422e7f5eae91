"""``skymill release brick``: catalogue, coadds and metrics of one brick."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

__all__ = ["brick"]

#: Exit code of a brick that a signal stopped: the same command goes on.
STOPPED = 75


@click.command("brick")
@click.argument("name", required=False, default="")
@click.option(
    "--survey-dir", envvar="LEGACY_SURVEY_DIR", required=True, metavar="DIR",
    help="Folder with images/, calib/ and survey-ccds-*; or LEGACY_SURVEY_DIR.",
)  # fmt: skip
@click.option("--outdir", "out_dir", required=True, metavar="DIR", help="Folder of the release.")
@click.option("--radec", "ra_dec", type=float, nargs=2, default=None, metavar="RA DEC",
              help="Centre of a custom region [degree] instead of NAME.")  # fmt: skip
@click.option("--width", type=int, default=3600, show_default=True, help="Pixels.")
@click.option("--height", type=int, default=3600, show_default=True, help="Pixels.")
@click.option("--zoom", type=int, nargs=4, default=None, metavar="X0 X1 Y0 Y1",
              help="Only these pixels.")  # fmt: skip
@click.option("--covered", is_flag=True, help="Only the part that images cover.")
@click.option("--pixscale", "pixel_scale", type=float, default=0.262, show_default=True,
              help="Width of a pixel [arcsec].")  # fmt: skip
@click.option("--bands", default="g,r,z", show_default=True, help="Bands, with commas.")
@click.option("--threads", type=int, default=1, show_default=True,
              help="Blobs fitted at the same time.")  # fmt: skip
@click.option("--skip", is_flag=True, help="Stop if the brick's catalogue exists.")
@click.option("--skip-calibs", is_flag=True, help="Do not make missing calibrations.")
@click.option("--checkpoint", default="", metavar="FILE",
              help="Finished blobs. [default: OUTDIR/checkpoints/...]")  # fmt: skip
@click.option("--stage", default="writecat", show_default=True, metavar="STAGE",
              help="Last stage: tims refs outliers srcs fitblobs coadds writecat.")  # fmt: skip
@click.option("--write-stage", "write_stages", multiple=True, metavar="STAGE",
              help="Keep the result of this stage; may be repeated.")  # fmt: skip
@click.option("--stage-dir", default="", metavar="DIR",
              help="Where they are kept. [default: OUTDIR/stages/...]")  # fmt: skip
@click.option("--force", is_flag=True, help="Ignore checkpoint and kept stages.")
@click.option("--bail-out", is_flag=True, help="Fit no more blobs: write what the checkpoint has.")
@click.option("--max-blob-pixels", type=int, default=0, show_default=True,
              help="Leave out larger blobs, as --bail-out does; 0: none.")  # fmt: skip
@click.option("--no-outliers", "outliers", flag_value=False, default=True,
              help="Do not compare exposures.")  # fmt: skip
@click.option("--no-gaia", "gaia", flag_value=False, default=True, help="No Gaia stars.")
@click.option("--no-tycho", "tycho", flag_value=False, default=True, help="No Tycho-2 stars.")
@click.option("--no-large-galaxies", "large_galaxies", flag_value=False, default=True,
              help="No large galaxies.")  # fmt: skip
@click.option("--large-galaxies", "large_galaxies_path", default="", metavar="FILE",
              help="Table of large galaxies. [default: that of the survey]")  # fmt: skip
@click.option("--gaia-dir", default="", metavar="DIR", help="Gaia. [default: SURVEY_DIR/gaia]")
@click.option("--tycho-file", "tycho_path", default="", metavar="FILE",
              help="Tycho-2. [default: SURVEY_DIR/tycho2*.fits]")  # fmt: skip
@click.option("--clusters", "clusters_path", default="", metavar="FILE",
              help="Star clusters. [default: SURVEY_DIR/*star-clusters*.fits]")  # fmt: skip
@click.option("--sub-blobs", "sub_blobs", type=int, default=0, show_default=True,
              metavar="PIXELS", help="Fit larger blobs in parts; 0: none.")  # fmt: skip
@click.option("--iterative/--no-iterative", default=True, show_default=True,
              help="Search the residuals for more sources.")  # fmt: skip
@click.option("--nsigma", "n_sigma", type=float, default=6.0, show_default=True,
              help="Threshold of the detection.")  # fmt: skip
@click.option("--release-number", type=int, default=9999, show_default=True,
              help="9008 south, 9009 north.")  # fmt: skip
@click.option("--ebv", type=float, default=None, help="E(B-V) of all objects instead of a map.")
@click.option("--dust-map", default="", metavar="PATH",
              help="FITS map of E(B-V), or the folder of the SFD maps.")  # fmt: skip
@click.option("--wise-columns", is_flag=True, help="Add the columns of WISE, not filled.")
@click.option("--catalogue-only", "write_images", flag_value=False, default=True,
              help="No coadds, no metrics.")  # fmt: skip
def brick(
    name: str, bands: str, ra_dec: tuple[float, float] | None,
    zoom: tuple[int, int, int, int] | None, write_stages: tuple[str, ...], **words: Any,
) -> int:  # fmt: skip
    """Catalogue, coadds and metrics of the brick NAME, such as 1867p255.

    Every exposure that touches the brick is read; pixels that differ between exposures are masked;
    sources are detected, and fitted on all exposures at once. A killed run goes on where it
    stopped, with any number of threads. The exit code is 0 if the brick is done or has no images,
    75 if a signal stopped it, 1 if it failed.
    """
    from skymill.release.brick.blobs import StoppedError
    from skymill.release.brick.options import BrickOptions
    from skymill.release.brick.run_brick import grid_of, run_brick
    from skymill.release.survey.layout import release_path

    options = BrickOptions(
        brick=name,
        bands=tuple(b.strip() for b in bands.split(",") if b.strip()),
        ra_dec=tuple(ra_dec) if ra_dec else None,  # type: ignore[arg-type]
        zoom=tuple(zoom) if zoom else None,  # type: ignore[arg-type]
        write_stages=tuple(write_stages),
        **words,
    )
    log = release_path(options.out_dir, "log", brick=grid_of(options).name)
    with _logged(log):
        try:
            report = run_brick(options)
        except StoppedError as err:
            click.echo(str(err), err=True)
            return STOPPED
        for note in report.notes:
            logging.getLogger("skymill.release").info("%s", note)
            if report.state != "nothing":
                click.echo(f"note: {note}", err=True)
        logging.getLogger("skymill.release").info("%s", report)
    click.echo(str(report))
    return 0


class _logged:
    """Everything that the brick says goes to its log too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._logger = logging.getLogger("skymill")

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(self._path)
        self._handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )
        self._old = self._logger.level
        for other in logging.getLogger().handlers:
            # The terminal keeps its own level.
            other.setLevel(max(other.level, logging.getLogger().level))
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.INFO)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            # The terminal gets this sentence once, from the command itself.
            words = ("the brick failed: %s", (error,), None)
            self._handler.handle(
                self._logger.makeRecord("skymill.release", logging.ERROR, __file__, 0, *words)
            )
        self._logger.removeHandler(self._handler)
        self._handler.close()
        self._logger.setLevel(self._old)
