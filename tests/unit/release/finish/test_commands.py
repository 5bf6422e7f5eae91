"""The verbs after the bricks as a user types them: exit codes and one sentence for each fault."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from skymill.cli import main
from skymill.cli.release import release as release_group


@pytest.fixture
def call(release, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        result = CliRunner().invoke(release_group, [str(w) for w in words], standalone_mode=False)
        value = result.return_value if isinstance(result.return_value, int) else 0
        if result.exception is not None:
            value = 1
        assert value == code, (result.output, result.exception)
        return result.output + (str(result.exception) if result.exception else "")

    return run


def test_a_release_from_the_bricks_to_the_public(call, two_bricks, tmp_path):
    release = two_bricks
    (tmp_path / "bricks.txt").write_text("1801p000\n1803p000\n")
    log = release.path("log", "1801p000")
    log.write_text("log\n")
    dr = release.root
    primary = sum(c["brick_primary"].sum() for c in release.objects.values())
    assert "2 bricks examined" in call("neighbours", dr, "--bricks", "bricks.txt")
    assert "2 bricks in" in call("depth-histogram", dr, "--name", "dr9", "--plot")
    assert "2 bricks in" in call(
        "brick-summary", dr, "-o", dr / "survey-bricks-dr9.fits.gz", "--plot"
    )
    assert f"{primary} objects in 2 sweeps" in call("sweeps", dr, "--number", "9")
    first = release.objects["1801p000"]
    i = np.flatnonzero(first["brick_primary"])[:3]
    Table({"RA": first["ra"][i], "DEC": first["dec"][i], "MJD": [1, 2, 3]}).write("e.fits")
    text = call("match-external", "e.fits", dr, dr / "external" / "e.fits", "--copycols", "MJD")
    assert "3 of 3 rows of e.fits matched" in text
    assert fits.getdata(dr / "external" / "e.fits")["MJD"].tolist() == [1, 2, 3]
    assert "180.tar.gz: 1 logs" in call("tar-logs", dr, "--remove")
    assert not log.exists()
    assert "2 bricks in" in call("gallery", dr)
    assert "2 of 2 bricks without fault" in call(
        "check", dr, "--bricks", "bricks.txt", "-o", "c.ecsv"
    )
    assert len(Table.read("c.ecsv")) == 2
    call("checksums", dr, "--name", "dr9")
    call("checksums", dr, "--verify")
    text = call("publish", dr, tmp_path / "final")
    assert "0 there already" in text
    assert not (tmp_path / "final" / "backup").exists()
    assert (tmp_path / "final" / "sweep" / "9.0").is_dir()
    call("checksums", tmp_path / "final", "--verify")
    victim = next((tmp_path / "final" / "sweep").rglob("*.fits"))
    content = bytearray(victim.read_bytes())
    content[5000] ^= 1
    victim.write_bytes(content)
    text = call("checksums", tmp_path / "final", "--verify", code=1)
    assert f"{victim.name} differs from its checksum" in text
    assert "1 files copied" in call("publish", dr, tmp_path / "final")


def test_a_missing_brick_is_never_silent(call, two_bricks, tmp_path):
    (tmp_path / "bricks.txt").write_text("1801p000\n1803p000\n1806p000\n")
    dr = two_bricks.root
    Table({"RA": [1.0], "DEC": [1.0]}).write("e.fits")
    for words in (
        ("neighbours", dr),
        ("depth-histogram", dr),
        ("brick-summary", dr, "-o", "b.fits"),
        ("sweeps", dr, "-o", "sweeps"),
        ("match-external", "e.fits", dr, "o.fits"),
        ("check", dr),
    ):
        text = call(*words, "--bricks", "bricks.txt", code=1)
        assert "skymill: 1806p000: " in text


def test_parts_of_a_summary(call, two_bricks, tmp_path):
    for prefix in ("180", "181"):
        call("brick-summary", two_bricks.root, "--prefix", prefix, "-o", f"{prefix}.fits")
    assert "2 bricks in all.fits" in call(
        "brick-summary", "--merge", "180.fits", "181.fits", "-o", "all.fits"
    )
    assert "all-psfdepth.png" in call("brick-summary", "--plot", "all.fits")


def test_wrong_use(call, two_bricks, tmp_path):
    dr = two_bricks.root
    assert "there is no release folder none" in call("sweeps", "none", code=1)
    assert "--name WORD" in call("checksums", dr, code=1)
    assert "no list of bricks x" in call("check", dr, "--bricks", "x", code=1)
    assert "-o, or --plot" in call("brick-summary", dr, code=1)
    assert "outside" in call("publish", dr, dr / "final", code=1)


def test_the_verbs_are_listed():
    text = CliRunner().invoke(main, ["release", "--help"]).output
    for verb in ("neighbours", "sweeps", "match-external", "checksums", "publish"):
        assert verb in text
