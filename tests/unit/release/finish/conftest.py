"""A small release made up of bricks of 60 pixels of 16.3 arcsec, in the layout of the surveys."""

import copy
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from skymill.coadd.bricks import brick_at, brick_from_name
from skymill.release.finish.folder import ReleaseFolder
from skymill.release.survey.bricks import brick_wcs, is_primary
from skymill.release.survey.layout import release_path

SIZE, SCALE = 60, 16.3
BRIGHT = 2


class MadeRelease:
    """Writes bricks with known content; ``objects`` keeps what stands in the catalogues."""

    def __init__(self, root, *, bands="grz"):
        self.root, self.bands = Path(root), bands
        self.root.mkdir(parents=True, exist_ok=True)
        self.objects, self.mask, self.blobs, self.nexp = {}, {}, {}, {}
        self.images = True
        self._next_ref = 1

    @property
    def folder(self):
        return ReleaseFolder(self.root)

    def path(self, kind, brick, band=None):
        path = release_path(self.root, kind, brick=brick, band=band)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add_brick(self, name, n=40, seed=0, *, ra=None, dec=None):
        brick = brick_from_name(name)
        rng = np.random.default_rng([seed, brick.index])
        wcs = brick_wcs(brick, size=SIZE, scale=SCALE)
        if ra is None:
            x, y = rng.uniform(0.5, SIZE - 1.5, (2, n))
            ra, dec = wcs.pixel_to_sky(x=x, y=y)
        else:
            x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
        ra, dec = np.asarray(ra), np.asarray(dec)
        columns = self._columns(brick, rng, ra, dec, x, y)
        self.objects[name] = columns
        header = fits.Header({"BRICK": name, "LSDR": "DR9", "MB_BRIGH": 2})
        for band in self.bands:
            header[f"COSKY_{band.upper()}"] = 0.25
        self._write_table("tractor", name, columns, header)
        if not self.images:
            return columns
        self._write_table(
            "tractor-i", name, {k: columns[k] for k in ("objid", "ra", "dec")}, header
        )
        self._write_images(name, wcs, rng)
        self.write_sums(name)
        return columns

    def _columns(self, brick, rng, ra, dec, x, y):
        n = ra.size
        primary = np.asarray(is_primary(brick, ra=ra, dec=dec))
        c = {
            "release": np.full(n, 9008, np.int16), "brickid": np.full(n, brick.index, np.int32),
            "brickname": np.full(n, brick.name, "S8"), "objid": np.arange(n, dtype=np.int32),
            "brick_primary": primary, "maskbits": np.zeros(n, np.int32),
            "fitbits": rng.integers(0, 100, n).astype(np.int16),
            "type": rng.choice([b"PSF", b"REX", b"EXP", b"DEV", b"SER", b"DUP"], n),
            "ra": ra, "dec": dec, "ra_ivar": rng.uniform(1, 2, n).astype("f4"),
            "dec_ivar": rng.uniform(1, 2, n).astype("f4"), "bx": x.astype("f4"),
            "by": y.astype("f4"), "dchisq": rng.uniform(0, 9, (n, 5)).astype("f4"),
            "ebv": rng.uniform(0, 0.1, n).astype("f4"), "ref_cat": np.full(n, "G2", "S2"),
            "ref_id": np.arange(n) + self._next_ref * 10**10,
            "shape_r": rng.uniform(0, 3, n).astype("f4"),
            "shape_e1": rng.uniform(-1, 1, n).astype("f4"),
            "shape_e2": rng.uniform(-1, 1, n).astype("f4"),
            "sersic": rng.uniform(0, 6, n).astype("f4"),
        }  # fmt: skip
        self._next_ref += 1
        for band in self.bands:
            for name in ("flux", "flux_ivar", "fiberflux", "rchisq", "fracflux", "fracmasked",
                         "fracin"):  # fmt: skip
                c[f"{name}_{band}"] = rng.uniform(0, 5, n).astype("f4")
            c[f"mw_transmission_{band}"] = np.full(n, 0.8, "f4")
            c[f"psfsize_{band}"] = rng.uniform(1, 1.5, n).astype("f4")
            c[f"psfdepth_{band}"] = np.full(n, 400.0, "f4")
            c[f"galdepth_{band}"] = np.full(n, 100.0, "f4")
            for name in ("nobs", "allmask", "anymask"):
                c[f"{name}_{band}"] = rng.integers(1, 4, n).astype(np.int16)
        return c

    def _write_table(self, kind, name, columns, header):
        codes = {"i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "b1": "L"}
        out = []
        for key, values in columns.items():
            if values.dtype.kind == "S":
                code = f"{values.dtype.itemsize}A"
            else:
                length = values.shape[1] if values.ndim > 1 else ""
                code = f"{length}{codes[values.dtype.str[1:]]}"
            unit = "deg" if key in ("ra", "dec") else None
            out.append(fits.Column(key, code, unit=unit, array=values))
        table = fits.BinTableHDU.from_columns(out, name="CATALOG")
        hdus = fits.HDUList([fits.PrimaryHDU(header=header), table])
        hdus.writeto(self.path(kind, name), overwrite=True)

    def write_image(self, kind, name, data, band=None, header=None):
        path = self.path(kind, name, band)
        header = header if header is not None else brick_wcs(
            brick_from_name(name), size=SIZE, scale=SCALE).header  # fmt: skip
        if path.suffix == ".fz":
            lossless = data.dtype.kind in "iu"
            kwargs = (
                {"compression_type": "HCOMPRESS_1", "hcomp_scale": 0}
                if lossless
                else {"compression_type": "GZIP_2", "quantize_level": 0}
            )
            hdu = fits.CompImageHDU(data, header, tile_shape=data.shape, **kwargs)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
        else:
            fits.PrimaryHDU(data, header).writeto(path, overwrite=True)

    def _write_images(self, name, wcs, rng):
        brick = brick_from_name(name)
        y, x = np.mgrid[:SIZE, :SIZE]
        ra, dec = wcs.pixel_to_sky(x=x.ravel(), y=y.ravel())
        primary = is_primary(brick, ra=ra, dec=dec).reshape(SIZE, SIZE)
        self.mask[name] = np.where(primary, 0, 1).astype(np.int32)
        self.blobs[name] = np.zeros((SIZE, SIZE), np.int32)
        for number, band in enumerate(self.bands):
            nexp = rng.integers(0, 4 + 8 * (number == 0), (SIZE, SIZE)).astype(np.int16)
            self.nexp[name, band] = nexp
            self.write_image("nexp", name, nexp, band)
            self.write_image("invvar", name, (nexp > 0).astype("f4"), band)
            for kind in ("image", "model", "blobmodel", "chi2", "depth", "galdepth", "psfsize"):
                self.write_image(kind, name, rng.normal(1, 0.1, (SIZE, SIZE)).astype("f4"), band)
        self.write_image("outlier-mask", name, np.zeros((5, 5), np.int32))
        self.write_masks(name)
        for kind in ("image-jpeg", "model-jpeg", "resid-jpeg"):
            Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(
                self.path(kind, name)
            )
        for kind in ("ccds", "all-models"):
            fits.BinTableHDU.from_columns([fits.Column("x", "E", array=[1.0])]).writeto(
                self.path(kind, name), overwrite=True)  # fmt: skip
        self.write_depth(name, rng)

    def write_masks(self, name):
        self.write_image("maskbits", name, self.mask[name])
        self.write_image("blobs", name, self.blobs[name])

    def write_depth(self, name, rng):
        edges = np.arange(201, 250) / 10
        columns = [fits.Column("depthlo", "E", array=[0, *edges]),
                   fits.Column("depthhi", "E", array=[*edges, 100])]  # fmt: skip
        for band in self.bands:
            for kind in ("ptsrc", "gal"):
                counts = rng.integers(0, 2_000_000_000, 50)
                columns.append(fits.Column(f"counts_{kind}_{band}", "J", array=counts))
        fits.BinTableHDU.from_columns(columns).writeto(
            self.path("depth-table", name), overwrite=True)  # fmt: skip

    def brick_files(self, name):
        for path in sorted(self.root.rglob(f"*{name}*")):
            if path.is_file() and not path.name.startswith("brick-"):
                yield path

    def write_sums(self, name):
        lines = [
            f"{hashlib.sha256(p.read_bytes()).hexdigest()} *{p.relative_to(self.root)}\n"
            for p in self.brick_files(name)
        ]
        self.path("brick-checksums", name).write_text("".join(lines))


@pytest.fixture
def release(tmp_path):
    """An empty release to be filled."""
    return MadeRelease(tmp_path / "dr")


@pytest.fixture
def catalogues(release):
    """A release to be filled with catalogues alone."""
    release.images = False
    return release


@pytest.fixture(scope="session")
def _two_bricks(tmp_path_factory):
    made = MadeRelease(tmp_path_factory.mktemp("two") / "dr")
    for name in ("1801p000", "1803p000"):
        assert brick_at(ra=brick_from_name(name).ra, dec=0.0).name == name
        made.add_brick(name, n=150)
    return made


@pytest.fixture
def two_bricks(release, _two_bricks):
    """Two neighbours on the equator at right ascension 180."""
    shutil.copytree(_two_bricks.root, release.root, dirs_exist_ok=True)
    for name in ("objects", "mask", "blobs", "nexp"):
        setattr(release, name, copy.deepcopy(getattr(_two_bricks, name)))
    return release
