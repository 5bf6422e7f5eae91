"""What goes wrong at a telescope's archive, on a disk, at a keyboard: one sentence, no half files.

Each fault ends with a code that is not zero and a sentence that names the value, what is allowed
and what to do; after it is mended the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.io import fits
from click.testing import CliRunner
from lsst.daf.butler import Butler

sys.path.insert(0, str(Path(__file__).parent))

from survey_settings import write_settings

from skymill.cli import main

pytestmark = pytest.mark.xdist_group("tiny")

CALEXPS = "repo/repo/DECam/processing/calexp_r"


def link(source, target):
    """Files that are replaced, never changed, can be shared; the registry is changed."""
    if Path(source).suffix == ".sqlite3":
        return shutil.copy2(source, target)
    os.link(source, target)
    return target


@pytest.fixture
def place(tiny_repository, tmp_path) -> Path:
    """A campaign of its own that stands before process_ccd."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("raws", "calib", "refcats", "repo"):
        shutil.copytree(tiny_repository / name, folder / name, copy_function=link)
    shutil.copytree(tiny_repository / "submit", folder / "submit")
    write_settings(folder)
    return folder


@pytest.fixture
def fresh(tiny_survey, tmp_path) -> Path:
    """Raw frames and catalogues without a repository."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("raws", "calib", "refcats"):
        shutil.copytree(tiny_survey / name, folder / name)
    write_settings(folder)
    return folder


def run(folder, *words):
    """Exit code, and what was said; every word of an error is one line of text, no traceback."""
    done = CliRunner().invoke(main, ["run", str(folder / "cluster.yaml"), "--quiet", *words])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def no_half_files(folder):
    """Nothing stands under a temporary name."""
    found = [
        p
        for p in folder.rglob("*")
        if p.name.startswith(".tmp-") or p.name.endswith((".part", ".partial"))
    ]
    assert found == []


def another_frame(folder, number, change=lambda hdus: None, kind="raws"):
    """A copy of a raw frame under another exposure number, changed."""
    source = sorted((folder / kind).glob("*.fits.fz"))[0]
    target = folder / kind / f"DECam_{number:08d}.fits.fz"
    with fits.open(source) as hdus:
        hdus[0].header["EXPNUM"] = number
        hdus[0].header["OBSID"] = f"ct4m{number}"
        change(hdus)
        hdus.writeto(target, overwrite=True)
    return target


def remove_stars(hdus):
    """Nothing but sky."""
    rng = np.random.default_rng(1)
    for hdu in hdus[1:]:
        data = hdu.data.astype(float)
        level = np.median(data[1000:3000, 200:900])
        blank = rng.normal(level, np.sqrt(level / 4), data.shape)
        data[:, 56:2104] = blank[:, 56:2104]
        hdu.data = np.rint(data).astype(np.uint16)


def test_frames_that_are_truncated_or_of_another_camera_are_refused(place):
    def disguise(hdus):
        hdus[0].header["INSTRUME"] = "90prime"

    broken = another_frame(place, 830011)
    with broken.open("r+b") as stream:
        stream.truncate(3_000_000)
    foreign = another_frame(place, 830012, disguise)
    code, text = run(place, "--step", "ingest_data")
    assert code == 1
    assert f"{broken} is truncated or no FITS file" in text
    assert "fetch it again or move it away" in text
    assert f"{foreign} is a frame of 90prime, not of DECam (card INSTRUME)" in text
    # The whole campaign moves the broken one aside by itself.
    foreign.unlink()
    code, text = run(place, "--to", "ingest_data")
    assert code == 0, text
    assert "File may have been truncated" in text
    assert (place / "raws/corrupt_raws" / broken.name).exists()
    no_half_files(place)


def certified_bias(folder):
    """The one bias that is valid, from the repository."""
    with Butler.from_config(str(folder / "repo/repo")) as butler:
        [ref] = butler.query_datasets("bias", collections="DECam/calib/certified", find_first=False)
        return ref.run, np.median(butler.get(ref).variance)


def test_zero_frames_that_come_later_are_combined_with_those_before(place):
    write_settings(place, paths={"raws": "raws", "refcats": "refcats", "zeros": "calib"})
    run_before, variance = certified_bias(place)
    another_frame(place, 830021, kind="calib")
    code, text = run(place, "--step", "make_calibrations")
    assert code == 0, text
    run_after, value = certified_bias(place)
    assert run_after != run_before
    # Three frames instead of two; each has its own read noise, measured to some per cent.
    assert value == pytest.approx(variance * 2 / 3, rel=0.08)
    code, text = run(place, "--step", "make_calibrations")
    assert code == 0, text
    assert certified_bias(place)[0] == run_after


@pytest.mark.slow
def test_a_bad_frame_and_one_without_stars_stop_only_themselves(place):
    blank = another_frame(place, 830013, remove_stars)
    spoilt = another_frame(place, 830014)
    whole = spoilt.read_bytes()
    assert run(place, "--to", "make_calibrations")[0] == 0
    spoilt.write_bytes(whole[:3_000_000])
    # The frame went bad after it was ingested.
    code, text = run(place, "--step", "process_ccd")
    assert code == 1
    assert f"{spoilt} (3000000) does not match size" in text
    assert "exposure 830014" in text
    assert "put the original back" in text
    assert "the same command goes on" in text
    settings = yaml.safe_load((place / "cluster.yaml").read_text())
    write_settings(place, **{**settings, "tolerate_failures": 0.4})
    code, text = run(place, "--step", "process_ccd")
    assert code == 0, text
    told = next(line for line in text.splitlines() if "visit 830013" in line)
    assert "star" in told
    assert len(list((place / CALEXPS).rglob("calexp_*.fits"))) == 2
    spoilt.write_bytes(whole)
    code, text = run(place, "--to", "process_ccd")
    assert code == 0, text
    assert len(list((place / CALEXPS).rglob("calexp_*.fits"))) == 3
    assert blank.exists()
    no_half_files(place)


@pytest.mark.slow
def test_a_missing_bias_is_named_with_the_remedy(place):
    settings = yaml.safe_load((place / "cluster.yaml").read_text())
    settings["paths"] = {"raws": "raws", "refcats": "refcats"}
    shutil.rmtree(place / "repo")
    shutil.rmtree(place / "submit")
    (place / "cluster.yaml").write_text(yaml.safe_dump(settings))
    code, text = run(place, "--to", "process_ccd")
    assert code == 1
    assert "there is no bias for" in text
    assert "detector: 35" in text
    assert "isr:doBias=False" in text
    write_settings(place)
    code, text = run(place, "--to", "process_ccd")
    assert code == 0, text


def test_an_unknown_band_and_a_band_that_the_catalogue_lacks(place):
    write_settings(place, bands=["r", "q"], photometry={"r": "ps1", "q": "ps1"})
    code, text = run(place)
    assert code == 2
    assert "DECam has no band q; it has u, g, r, i, z, y" in text
    write_settings(place, bands=["r", "u"], photometry={"r": "ps1", "u": "ps1"})
    code, text = run(place)
    assert code == 2
    assert "reference catalogue ps1 has no band u" in text


def test_a_catalogue_without_a_column_is_not_half_ingested(place):
    path = place / "refcats" / "ps1.parquet"
    whole = pq.read_table(path)
    for columns, sentence in (
        (["r_flux", "r_flux_err"], "reference catalogue ps1 has no flux r (it has g, i, z, y)"),
        (["ra"], "the catalogue has no column for 'ra'; looked for ra, RA"),
    ):
        # A catalogue that the repository does not have yet.
        name = f"mine{len(columns)}"
        write_settings(place, photometry={"r": name})
        target = place / "refcats" / f"{name}.parquet"
        pq.write_table(whole.drop_columns(columns), target)
        code, text = run(place, "--step", "ingest_data")
        assert code == 1
        assert sentence.replace("ps1", name) in text
        pq.write_table(whole, target)
        code, text = run(place, "--step", "ingest_data")
        assert code == 0, text
        assert f"{name}: {len(whole)} rows: 6 new shards" in text


def test_a_centre_outside_of_the_data(place):
    write_settings(place, centre=[153.0, 2.2])
    code, text = run(place, "--to", "select_visit")
    assert code == 1
    assert "no detector of band r is good (dropped 2 by distance)" in text
    assert "is the centre 153, +2.2 on the data" in text
    write_settings(place)
    code, text = run(place, "--to", "select_visit")
    assert code == 0, text


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A mount for a while; needs the rights of the administrator."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a mount needs the rights of the administrator")
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this system mounts nothing here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_told_and_loses_nothing(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=1500m", "tmpfs"):
        shutil.copytree(place, disk, dirs_exist_ok=True)
        free = shutil.disk_usage(disk).free
        ballast = disk / "ballast"
        # Room for the crosstalk sources of both frames, not for all that comes after.
        with ballast.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free - 260_000_000)
        code, text = run(disk, "--to", "process_ccd")
        assert code == 1
        assert "the disk is full; free some space and run the same command again" in text
        done = {p: p.stat().st_mtime_ns for p in disk.rglob("overscanRaw_*.fits")}
        assert len(done) == 2
        ballast.unlink()
        code, text = run(disk, "--to", "process_ccd")
        assert code == 0, text
        assert len(list((disk / CALEXPS).rglob("calexp_*.fits"))) == 2
        no_half_files(disk)


def test_a_disk_without_any_room(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=1500m", "tmpfs"):
        shutil.copytree(place, disk, dirs_exist_ok=True)
        with (disk / "ballast").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free)
        code, text = run(disk, "--step", "process_ccd")
        assert code == 1
        assert "disk is full" in text
        assert "run the same command again" in text


def test_a_folder_that_may_not_be_written_to(place):
    with mounted(place, "--bind", str(place)):
        words = ["mount", "-o", "remount,ro,bind", str(place)]
        assert subprocess.run(words, check=False).returncode == 0
        code, text = run(place, "--step", "process_ccd")
        assert code == 1
        assert str(place) in text
        assert "may not be" in text


def test_an_interrupt_keeps_what_is_done(place):
    words = [str(Path(sys.prefix) / "bin/skymill"), "run", "cluster.yaml", "--to", "process_ccd"]
    log = place / "run.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, cwd=place, stdout=stream, stderr=stream, start_new_session=True
        )
    deadline = time.monotonic() + 300
    while not list(place.rglob("icExp_*.fits")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # The terminal sends it to all processes of its foreground.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()
    assert "interrupted; the same command goes on where it stopped" in log.read_text()
    assert "Traceback" not in log.read_text()
    code, text = run(place, "--to", "process_ccd")
    assert code == 0, text
    assert len(list((place / CALEXPS).rglob("calexp_*.fits"))) == 2
    no_half_files(place)
