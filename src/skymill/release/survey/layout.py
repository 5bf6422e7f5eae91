"""Names of the files of a release."""

from __future__ import annotations

from pathlib import Path

from skymill.data.errors import ConfigError

__all__ = ["FILE_KINDS", "release_path"]

_COADD = "coadd/{pre}/{brick}/legacysurvey-{brick}"

_OF_BAND = ("image", "invvar", "model", "blobmodel", "chi2", "depth", "galdepth", "nexp", "psfsize")

_JPEGS = ("image", "model", "resid", "blobmodel")

#: Kind of file -> its path below the folder of the release. ``{pre}`` is the first three digits
#: of the brick's name.
FILE_KINDS: dict[str, str] = {
    "tractor": "tractor/{pre}/tractor-{brick}.fits",
    "tractor-i": "tractor-i/{pre}/tractor-i-{brick}.fits",
    "brick-checksums": "tractor/{pre}/brick-{brick}.sha256sum",
    **{kind: f"{_COADD}-{kind}-{{band}}.fits.fz" for kind in _OF_BAND},
    **{f"{kind}-jpeg": f"{_COADD}-{kind}.jpg" for kind in _JPEGS},
    "maskbits": f"{_COADD}-maskbits.fits.fz",
    "ccds": f"{_COADD}-ccds.fits",
    "depth-table": f"{_COADD}-depth.fits",
    "coadd-folder": "coadd/{pre}/{brick}",
    "all-models": "metrics/{pre}/all-models-{brick}.fits",
    "blobs": "metrics/{pre}/blobs-{brick}.fits.gz",
    "outlier-mask": "metrics/{pre}/outlier-mask-{brick}.fits.fz",
    "outliers-pre": "metrics/{pre}/outliers-pre-{brick}.jpg",
    "outliers-post": "metrics/{pre}/outliers-post-{brick}.jpg",
    "reference": "metrics/{pre}/reference-{brick}.fits",
    "log": "logs/{pre}/{brick}.log",
    "log-archive": "logs/{pre}.tar.gz",
    "checkpoint": "checkpoints/{pre}/checkpoint-{brick}",
    "stage": "stages/{pre}/runbrick-{brick}-{name}",
    "backup-maskbits": "backup/{pre}/{brick}/legacysurvey-{brick}-maskbits.fits.fz",
    "backup-tractor": "backup/{pre}/{brick}/tractor-{brick}.fits",
    "sweep": "sweep/{name}.fits",
    "external": "external/{name}.fits",
    "checksums": "{name}.sha256sum",
    "depth-summary": "depth/{name}",
    "gallery": "gallery/{name}",
}


def release_path(
    root: str | Path,
    kind: str,
    *,
    brick: str | None = None,
    band: str | None = None,
    name: str | None = None,
) -> Path:
    """The path of one file of a release.

    Parameters
    ----------
    root : path
        Folder of the release.
    kind : str
        A word of `FILE_KINDS`.
    brick : str, optional
        Name of the brick, or of a custom region.
    band : str, optional
        Band of a file that holds one.
    name : str, optional
        Name of a file that belongs to no brick, such as a sweep's.

    Returns
    -------
    Path
        Where the file is or will be.

    Raises
    ------
    ConfigError
        If the kind is unknown or a word that its path needs is missing.
    """
    if kind not in FILE_KINDS:
        raise ConfigError(
            f"there is no kind of release file {kind!r}; there are {', '.join(sorted(FILE_KINDS))}"
        )
    words = {
        "brick": brick,
        "band": band,
        "name": name,
        "pre": None if brick is None else brick[:3],
    }
    if brick is not None and brick.startswith("custom-"):
        words["pre"] = "cus"
    given = {key: value for key, value in words.items() if value is not None}
    try:
        return Path(root) / FILE_KINDS[kind].format(**given)
    except KeyError as err:
        missing = "brick" if err.args[0] == "pre" else err.args[0]
        raise ConfigError(f"the path of a {kind} file needs the {missing}") from err
