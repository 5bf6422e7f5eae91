"""Logs, checksums, quality check, gallery, publication, checkpoints."""

import gzip
import hashlib
import io
import os
import re
import tarfile
import time

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from skymill.data.errors import ConfigError, DataError, MissingInputError, NoDataError
from skymill.release.finish.checkpoints import find_checkpoints, remove_checkpoints
from skymill.release.finish.checksums import (
    file_hash,
    read_checksums,
    verify_checksums,
    write_checksums,
)
from skymill.release.finish.folder import read_names
from skymill.release.finish.gallery import write_gallery
from skymill.release.finish.logs import tar_logs
from skymill.release.finish.publish import publish
from skymill.release.finish.quality import check_release


def flip_byte(path, where=-1000):
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)


class TestChecksums:
    def test_lists_of_folders(self, two_bricks):
        report = write_checksums(two_bricks.folder, release="dr9")
        assert report.ok
        root = two_bricks.root
        names = {str(p.relative_to(root)) for p in root.rglob("legacysurvey_*.sha256sum")}
        assert names == {
            "tractor/180/legacysurvey_dr9_tractor_180.sha256sum",
            "tractor-i/180/legacysurvey_dr9_tractor-i_180.sha256sum",
            "metrics/180/legacysurvey_dr9_metrics_180.sha256sum",
            "coadd/180/1801p000/legacysurvey_dr9_coadd_180_1801p000.sha256sum",
            "coadd/180/1803p000/legacysurvey_dr9_coadd_180_1803p000.sha256sum",
        }
        line = (
            (root / "tractor/180/legacysurvey_dr9_tractor_180.sha256sum").read_text().split("\n")[0]
        )
        name = "tractor-1801p000.fits"
        value = hashlib.sha256((root / "tractor/180" / name).read_bytes()).hexdigest()
        assert line == f"{value}  {name}"
        report = verify_checksums(two_bricks.folder)
        assert report.ok
        assert report.n_files == sum(
            p.is_file() and not p.name.endswith("sum") for p in root.rglob("*")
        )

    @pytest.mark.parametrize("kind", ["tractor", "blobs", "image-jpeg"])
    def test_a_flipped_byte_is_found(self, two_bricks, kind):
        write_checksums(two_bricks.folder, release="dr9")
        path = two_bricks.path(kind, "1803p000")
        flip_byte(path, -10)
        report = verify_checksums(two_bricks.folder)
        assert report.changed == [str(path.relative_to(two_bricks.root))]

    def test_a_wrong_file_gets_no_right_sum(self, two_bricks):
        path = two_bricks.path("maskbits", "1803p000")
        flip_byte(path)
        report = write_checksums(two_bricks.folder, release="dr9")
        assert report.changed == [str(path.relative_to(two_bricks.root))]
        assert not list(path.parent.glob("legacysurvey_dr9*"))
        assert list(two_bricks.path("maskbits", "1801p000").parent.glob("legacysurvey_dr9*"))

    def test_missing_and_unlisted_files(self, two_bricks):
        write_checksums(two_bricks.folder, release="dr9")
        two_bricks.path("blobs", "1801p000").unlink()
        (two_bricks.root / "extra.txt").write_text("x")
        report = verify_checksums(two_bricks.folder)
        assert report.missing == ["metrics/180/blobs-1801p000.fits.gz"] * 2
        assert report.unlisted == ["extra.txt"]
        only = two_bricks.path("brick-checksums", "1803p000")
        assert verify_checksums(two_bricks.folder, paths=[only]).ok

    def test_a_brick_without_its_list(self, two_bricks):
        two_bricks.path("brick-checksums", "1801p000").unlink()
        report = write_checksums(two_bricks.folder, release="dr9")
        assert report.missing == ["tractor/180/brick-1801p000.sha256sum"]

    def test_both_formats(self, tmp_path):
        value = "ab" * 32
        path = tmp_path / "x.sha256sum"
        path.write_text(f"{value} *a/b c.fits\n\n{value.upper()}  d.fits\n")
        assert read_checksums(path) == [("a/b c.fits", value), ("d.fits", value)]
        path.write_text("nonsense\n")
        with pytest.raises(DataError, match="line 1"):
            read_checksums(path)

    def test_names(self, two_bricks, tmp_path):
        with pytest.raises(ConfigError, match="got 'dr 9'"):
            write_checksums(two_bricks.folder, release="dr 9")

    def test_sums_are_those_of_the_system(self, tmp_path):
        path = tmp_path / "f"
        path.write_bytes(os.urandom(100_000))
        assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


class TestLogs:
    @pytest.fixture
    def logs(self, tmp_path):
        for brick in ("1801p000", "1803p000", "1900p000"):
            path = tmp_path / "logs" / brick[:3] / f"{brick}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"log of {brick}\n")
        (tmp_path / "logs" / "200").mkdir()
        return tmp_path / "logs"

    def read(self, path):
        with tarfile.open(path) as archive:
            return {m.name: archive.extractfile(m).read().decode() for m in archive}

    def test_one_for_each_folder(self, logs, tmp_path):
        report = tar_logs([logs], tmp_path / "out")
        assert report.archives == {"180.tar.gz": 2, "190.tar.gz": 1}
        found = self.read(tmp_path / "out" / "180.tar.gz")
        assert found["180/1803p000.log"] == "log of 1803p000\n"
        assert (logs / "180" / "1803p000.log").exists()
        first = (tmp_path / "out" / "180.tar.gz").read_bytes()
        tar_logs([logs], tmp_path / "out")
        assert (tmp_path / "out" / "180.tar.gz").read_bytes() == first

    def test_logs_of_two_machines_are_joined_in_time(self, logs, tmp_path):
        other = tmp_path / "other" / "180"
        other.mkdir(parents=True)
        (other / "1801p000.log").write_text("first part\n")
        os.utime(other / "1801p000.log", (1, time.time() - 1000))
        report = tar_logs([logs, tmp_path / "other"], tmp_path / "out")
        assert report.joined == ["180/1801p000.log"]
        found = self.read(tmp_path / "out" / "180.tar.gz")
        assert found["180/1801p000.log"] == "first part\nlog of 1801p000\n"

    def test_removal_and_later_logs(self, logs):
        tar_logs([logs], logs, remove=True)
        assert not (logs / "180" / "1801p000.log").exists()
        (logs / "180" / "1801p000.log").write_text("second run\n")
        report = tar_logs([logs], logs, remove=True)
        assert report.archives == {"180.tar.gz": 2}
        found = self.read(logs / "180.tar.gz")
        assert found["180/1801p000.log"] == "log of 1801p000\nsecond run\n"
        assert found["180/1803p000.log"] == "log of 1803p000\n"

    def test_a_corrupt_tar_ball_is_no_reason_to_lose_logs(self, logs):
        (logs / "180.tar.gz").write_bytes(gzip.compress(b"x" * 5000)[:40])
        report = tar_logs([logs], logs, remove=True)
        assert "cannot be packed" in report.problems[0].text
        assert (logs / "180" / "1801p000.log").exists()
        with pytest.raises(MissingInputError):
            tar_logs([logs / "none"], logs)


class TestCheck:
    def faults(self, release, **words):
        report = check_release(release.folder, **words)
        return {b.brick: b.faults for b in report.bricks if b.faults}, report

    def test_a_good_release(self, two_bricks):
        faults, report = self.faults(two_bricks, bricks=["1801p000", "1803p000"])
        assert faults == {}
        assert report.ok
        table = report.table()
        assert table["n_objects"].tolist() == [150, 150]
        # 8 tables and masks, 9 coadds in 3 bands, 3 pictures.
        assert table["n_files"].tolist() == [38, 38]

    @pytest.mark.parametrize(
        "kind", ["tractor", "tractor-i", "maskbits", "blobs", "ccds", "depth-table",
                 "outlier-mask", "image-jpeg", "brick-checksums"]
    )  # fmt: skip
    def test_a_missing_file(self, two_bricks, kind):
        two_bricks.path(kind, "1801p000").unlink()
        faults, _ = self.faults(two_bricks)
        assert list(faults) == ["1801p000"]
        assert any(re.search("missing|no list of checksums", f) for f in faults["1801p000"])

    @pytest.mark.parametrize("kind", ["chi2", "nexp", "psfsize"])
    def test_a_missing_or_truncated_coadd(self, two_bricks, kind):
        path = two_bricks.path(kind, "1801p000", "r")
        path.write_bytes(path.read_bytes()[:-4000])
        faults, _ = self.faults(two_bricks)
        assert any("truncated" in f or "no FITS" in f for f in faults["1801p000"])
        assert any("checksum" in f for f in faults["1801p000"])
        path.unlink()
        faults, _ = self.faults(two_bricks)
        assert f"the file {kind} (r) is missing" in faults["1801p000"]

    def test_contents(self, two_bricks):
        release = two_bricks
        columns = release.objects["1801p000"]
        columns["ra"][:2] = 0.0
        columns["dec"][:2] = 0.0
        columns["brick_primary"][0] = True
        columns["objid"][5] = 4
        columns["flux_r"][7] = np.nan
        columns["type"][3] = b"XXX"
        columns["flux_ivar_g"][9] = -1
        columns["maskbits"][:] = 2
        release._write_table("tractor", "1801p000", columns, fits.Header())
        release._write_table(
            "tractor-i", "1801p000", {"objid": columns["objid"][:5]}, fits.Header()
        )
        release.write_image("invvar", "1801p000", np.ones((60, 60), "f4"), "z")
        release.write_image("image", "1801p000", np.full((60, 60), np.nan, "f4"), "z")
        release.write_image("depth", "1801p000", np.ones((50, 60), "f4"), "z")
        faults, _ = self.faults(release)
        text = "\n".join(faults["1801p000"])
        for words in (
            "2 rows are at RA = Dec = 0", "objid is not unique", "flux_r has values that are not",
            "type 'XXX'", "flux_ivar_g has negative", "lie outside of the brick",
            "tractor has 150 rows and tractor-i 5", "positive where no exposure",
            "image (z) has pixels that are not finite", r"depth (z) is (50, 60)",
            "maskbits of 150 rows are not those",
        ):  # fmt: skip
            assert words in text
        assert "1803p000" not in faults

    def test_missing_columns(self, release):
        columns = release.add_brick("1801p000")
        del columns["fracin_z"], columns["sersic"]
        release._write_table("tractor", "1801p000", columns, fits.Header())
        faults, _ = self.faults(release)
        assert any("lacks the columns sersic, fracin_z" in f for f in faults["1801p000"])

    def test_the_list_of_bricks(self, two_bricks, tmp_path):
        _, report = self.faults(two_bricks, bricks=["1801p000", "1806p000"])
        texts = {p.where: p.text for p in report.problems}
        assert texts["1806p000"] == "there is nothing of it"
        assert "not in the list" in texts["1803p000"]
        path = tmp_path / "list"
        path.write_text("1801p000\n# text\n\nloading 5\n")
        with pytest.raises(DataError, match="'loading 5'"):
            read_names(path)

    def test_leftovers_and_nothing(self, release):
        _, report = self.faults(release)
        assert "no bricks" in report.problems[0].text
        path = release.path("tractor", "1801p000")
        path.with_name(".tmp-1-tractor.fits").write_text("x")
        _, report = self.faults(release)
        assert any("unfinished" in p.text for p in report.problems)


class TestGallery:
    def test_pages(self, two_bricks, tmp_path):
        two_bricks.path("model-jpeg", "1803p000").unlink()  # It is made from the coadds.
        report = write_gallery(two_bricks.folder, tmp_path / "gallery", title="A <release>")
        assert (report.n_bricks, report.problems) == (2, [])
        pages = {p.name: p.read_text() for p in (tmp_path / "gallery").glob("*.html")}
        assert set(pages) == {"index.html", "bricks-180.html"}
        assert "A &lt;release&gt;" in pages["index.html"]
        for text in pages.values():
            for link in re.findall(r'(?:src|href)="([^"#]+)', text):
                assert (tmp_path / "gallery" / link).exists(), link
        with Image.open(tmp_path / "gallery/thumbnails/180/1803p000-model.jpg") as picture:
            assert max(picture.size) == 60

    def test_what_cannot_be_shown(self, two_bricks, tmp_path):
        two_bricks.path("image-jpeg", "1801p000").write_bytes(b"no picture")
        report = write_gallery(two_bricks.folder, tmp_path / "g", title="x")
        assert report.n_bricks == 1
        assert "no picture" in report.problems[0].text
        assert "1801p000" in (tmp_path / "g" / "index.html").read_text()
        for path in list(two_bricks.root.rglob("*")):
            if path.is_file():
                path.unlink()
        with pytest.raises(NoDataError, match="no brick that can be shown"):
            write_gallery(two_bricks.folder, tmp_path / "g", title="x")


class TestPublish:
    def test_every_byte(self, two_bricks, tmp_path):
        (two_bricks.root / "backup").mkdir()
        (two_bricks.root / "backup" / "x").write_text("not for others")
        target = tmp_path / "final"
        report = publish(two_bricks.folder, target)
        wanted = {
            p.relative_to(two_bricks.root): p.read_bytes()
            for p in two_bricks.root.rglob("*") if p.is_file() and "backup" not in p.parts
        }  # fmt: skip
        found = {
            p.relative_to(target): p.read_bytes()
            for p in target.rglob("*") if p.is_file() and p.name[0] != "."
        }  # fmt: skip
        assert found == wanted
        assert (report.n_copied, report.n_present) == (len(wanted), 0)
        assert report.n_bytes == sum(map(len, wanted.values()))

    def test_resume_repairs(self, two_bricks, tmp_path):
        target = tmp_path / "final"
        publish(two_bricks.folder, target)
        names = sorted(p for p in target.rglob("*.fits") if p.is_file())
        flip_byte(names[0])
        names[1].unlink()
        (target / "old.txt").write_text("of another release")
        report = publish(two_bricks.folder, target)
        assert report.n_copied == 2
        assert report.extra == ["old.txt"]
        assert not report.problems
        assert publish(two_bricks.folder, target).n_copied == 0

    def test_a_copy_that_fails(self, two_bricks, tmp_path, monkeypatch):
        from skymill.release.finish import publish as module

        original = module._write

        def bad(path, draft):
            original(path, draft)
            if path.name == "tractor-1801p000.fits":
                flip_byte(draft)

        monkeypatch.setattr(module, "_write", bad)
        report = publish(two_bricks.folder, tmp_path / "final")
        assert [p.where for p in report.problems] == ["tractor/180/tractor-1801p000.fits"]
        assert "differs" in report.problems[0].text

    def test_places(self, two_bricks, tmp_path):
        for target in (two_bricks.root, two_bricks.root / "final", tmp_path):
            with pytest.raises(ConfigError, match="outside"):
                publish(two_bricks.folder, target)


class TestCheckpoints:
    def test_only_those_of_finished_bricks(self, tmp_path):
        for name in (
            "checkpoints/180/checkpoint-1801p000",
            "checkpoints/180/checkpoint-1803p000",
            "checkpoints/180/checkpoint-1801p000.npz",
            "stages/180/runbrick-1801p000-srcs.npz",
            "tractor/180/tractor-1801p000.fits",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        found = find_checkpoints(tmp_path, ["1801p000", "*", ""])
        assert len(found) == 3
        remove_checkpoints(found)
        left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
        assert left == ["checkpoint-1803p000", "tractor-1801p000.fits"]

    def test_own_pattern(self, tmp_path):
        with pytest.raises(ConfigError, match="brick"):
            find_checkpoints(tmp_path, ["1801p000"], patterns=["**/*"])
        folder = tmp_path / "c" / "1801p000"
        folder.mkdir(parents=True)
        (folder / "blob-1.npz").write_bytes(io.BytesIO(b"x").getvalue())
        found = find_checkpoints(tmp_path, ["1801p000"], patterns=["c/{brick}"])
        assert [p.name for p in found] == ["blob-1.npz"]
