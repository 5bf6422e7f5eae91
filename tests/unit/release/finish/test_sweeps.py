"""Sweeps hold exactly the primary objects; external matches go row by row."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError, MissingInputError, NoDataError
from skymill.release.finish.external import match_external, read_external
from skymill.release.finish.sweeps import SweepBox, write_sweeps


def read(path):
    return fits.getdata(path, 1)


@pytest.fixture
def release(catalogues):
    return catalogues


@pytest.fixture
def corner(release):
    """Four bricks around RA 10, Dec 5: each of the four boxes there gets objects."""
    for name in ("0099p050", "0101p050", "0099p047", "0101p052"):
        release.add_brick(name, n=300)
    return release


class TestSweeps:
    def test_every_primary_object_is_in_one_sweep(self, corner, tmp_path):
        report = write_sweeps(corner.folder, tmp_path / "sweep")
        assert not report.problems
        assert sorted(report.rows) == [
            f"sweep-{a}p{c:03d}-{b}p{c + 5:03d}" for a, b in (("000", "010"), ("010", "020"))
            for c in (0, 5)
        ]  # fmt: skip
        found = {}
        for name in report.rows:
            data = read(tmp_path / "sweep" / f"{name}.fits")
            ra_low, dec_low = int(name[6:9]), int(name[10:13])
            assert np.all((data["RA"] >= ra_low) & (data["RA"] < ra_low + 10))
            assert np.all((data["DEC"] >= dec_low) & (data["DEC"] < dec_low + 5))
            for row in data:
                key = (row["BRICKNAME"], int(row["OBJID"]))
                assert key not in found
                found[key] = row
        wanted = {
            (name, int(i)) for name, c in corner.objects.items()
            for i in c["objid"][c["brick_primary"]]
        }  # fmt: skip
        assert set(found) == wanted
        for (name, i), row in found.items():
            mine = corner.objects[name]
            assert row["RA"] == mine["ra"][i]  # No bit of a position is lost.
            assert row["FLUX_R"] == mine["flux_r"][i]
            assert row["REF_ID"] == mine["ref_id"][i]
            assert row["TYPE"].encode() == mine["type"][i]
            np.testing.assert_array_equal(row["DCHISQ"], mine["dchisq"][i])

    def test_more_processes_write_the_same_bytes(self, corner, tmp_path):
        one = write_sweeps(corner.folder, tmp_path / "one")
        two = write_sweeps(corner.folder, tmp_path / "two", workers=2)
        assert one.rows == two.rows
        for name in one.rows:
            path = f"{name}.fits"
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()

    def test_absent_columns_are_zero_and_told(self, release, tmp_path):
        release.add_brick("1801p000")
        release.bands = "griz"
        release.add_brick("1803p000")
        report = write_sweeps(release.folder, tmp_path)
        assert report.absent["FLUX_W1"] == 2
        assert report.absent["FLUX_I"] == 1
        data = fits.open(tmp_path / "sweep-180m005-190p000.fits")
        both = [fits.getdata(tmp_path / f"{n}.fits") for n in report.rows]
        assert all("FLUX_I" in d.names for d in both)
        rows = np.concatenate([np.asarray(d["FLUX_I"]) for d in both])
        bricks = np.concatenate([np.asarray(d["BRICKNAME"]) for d in both])
        assert np.all(rows[bricks == "1801p000"] == 0)
        assert np.any(rows[bricks == "1803p000"] > 0)
        assert "FLUX_I is zero" in str(data[0].header["HISTORY"])
        assert data[0].header["MB_BRIGH"] == 2
        data.close()

    def test_columns_are_those_of_a_real_sweep(self, corner, tmp_path, shared_data):
        write_sweeps(corner.folder, tmp_path)
        with fits.open(shared_data / "release_examples" / "sweep-310m005-320p000.fits") as hdus:
            real = [(c.name, c.format, c.unit) for c in hdus[1].columns]
        with fits.open(tmp_path / "sweep-000p005-010p010.fits") as hdus:
            mine = [(c.name, c.format, c.unit) for c in hdus[1].columns]
        # What came later (Sersic models, one shape for all models) follows.
        assert mine[: len(real)] == real
        assert {"SERSIC", "SHAPE_R", "PSFSIZE_Z", "FITBITS"} < {n for n, _, _ in mine[len(real) :]}

    def test_columns_of_older_releases_have_the_values_of_the_model(self, release, tmp_path):
        columns = release.add_brick("1801p000", n=100)
        columns["release"][::2] = 9009
        release._write_table("tractor", "1801p000", columns, fits.Header())
        write_sweeps(release.folder, tmp_path)
        for path in tmp_path.glob("sweep-*.fits"):
            data = read(path)
            index = data["OBJID"]
            kinds = columns["type"][index]
            shape = columns["shape_r"][index]
            np.testing.assert_array_equal(data["FRACDEV"], kinds == b"DEV")
            np.testing.assert_array_equal(data["SHAPEDEV_R"], np.where(kinds == b"DEV", shape, 0))
            is_exp = np.isin(kinds, (b"EXP", b"REX"))
            np.testing.assert_array_equal(data["SHAPEEXP_R"], np.where(is_exp, shape, 0))
            system = np.where(columns["release"][index] == 9009, "N", "S")
            np.testing.assert_array_equal(data["PHOTSYS"], system)

    def test_bits_of_later_bands_need_a_wider_column(self, release, tmp_path):
        columns = release.add_brick("1801p000")
        columns["maskbits"][:] = 1 << 15
        release._write_table("tractor", "1801p000", columns, fits.Header())
        write_sweeps(release.folder, tmp_path)
        data = read(next(tmp_path.glob("sweep-180p*.fits")))
        assert set(data["MASKBITS"]) == {1 << 15}

    @pytest.mark.parametrize("size", [0, 100, 6000, 20000])
    def test_problems_are_told_and_the_others_go_on(self, two_bricks, tmp_path, size):
        path = two_bricks.path("tractor", "1801p000")
        path.write_bytes(path.read_bytes()[:size])
        report = write_sweeps(two_bricks.folder, tmp_path, bricks=["1801p000", "1806p000"])
        assert len(report.problems) == 2
        assert "truncated" in str(report.problems[1])
        assert "1806p000: it has no catalogue" in str(report.problems[0])
        assert sum(report.rows.values()) > 0

    def test_the_file_is_correct_fits(self, corner, tmp_path):
        write_sweeps(corner.folder, tmp_path)
        for path in tmp_path.glob("*.fits"):
            assert path.stat().st_size % 2880 == 0
            with fits.open(path) as hdus:
                hdus.verify("exception")
                assert hdus[1].header["TCOMM1"].startswith("Number of the release")
                assert len(hdus[1].data) == hdus[1].header["NAXIS2"]

    def test_a_brick_whose_values_do_not_fit(self, two_bricks, tmp_path):
        columns = dict(two_bricks.objects["1801p000"])
        columns["ref_cat"] = np.full(columns["ra"].size, b"GAIA", "S4")
        two_bricks._write_table("tractor", "1801p000", columns, fits.Header())
        report = write_sweeps(two_bricks.folder, tmp_path)
        assert "ref_cat has words of more than 2 letters" in str(report.problems[0])
        other = two_bricks.objects["1803p000"]["brick_primary"].sum()
        assert sum(report.rows.values()) == other
        rows = [r for p in tmp_path.glob("*.fits") for r in read(p)]
        assert {r["BRICKNAME"] for r in rows} == {"1803p000"}
        assert len(rows) == other

    def test_no_catalogue_at_all(self, release, tmp_path):
        with pytest.raises(NoDataError, match="no catalogue"):
            write_sweeps(release.folder, tmp_path)
        (release.root / "tractor" / "180").mkdir(parents=True)
        with pytest.raises(NoDataError):
            write_sweeps(release.folder, tmp_path)

    @pytest.mark.parametrize(("value", "text"), [(np.nan, "no position"), (400.0, "outside")])
    def test_a_primary_object_without_a_position(self, release, tmp_path, value, text):
        columns = release.add_brick("1801p000")
        columns["ra"][np.flatnonzero(columns["brick_primary"])[0]] = value
        release._write_table("tractor", "1801p000", columns, fits.Header())
        release.add_brick("1803p000")
        report = write_sweeps(release.folder, tmp_path)
        assert text in str(report.problems[0])

    def test_rows_of_another_brick(self, two_bricks, tmp_path):
        first = two_bricks.path("tractor", "1801p000")
        first.write_bytes(two_bricks.path("tractor", "1803p000").read_bytes())
        report = write_sweeps(two_bricks.folder, tmp_path)
        assert "rows of the brick 1803p000" in str(report.problems[0])

    def test_names_of_boxes(self):
        assert SweepBox(310, -5).name == "sweep-310m005-320p000"
        assert SweepBox(0, 85).name == "sweep-000p085-010p090"
        assert SweepBox(350, -90).name == "sweep-350m090-360m085"
        inside = SweepBox(0, 85).contains(np.array([0.0, 10.0, 5.0]), np.array([90.0, 89.0, 85.0]))
        assert inside.tolist() == [True, False, True]


def external_table(path, release, rng, n=60):
    """Positions near to, beside and far from objects; some NaN; two at one object."""
    ra = np.concatenate([c["ra"] for c in release.objects.values()])
    dec = np.concatenate([c["dec"] for c in release.objects.values()])
    pick = rng.integers(0, ra.size, n)
    offset = rng.uniform(0, 3.0, n) / 3600
    angle = rng.uniform(0, 2 * np.pi, n)
    table = Table()
    table["RA"] = (ra[pick] + offset * np.cos(angle) / np.cos(np.radians(dec[pick]))) % 360
    table["DEC"] = np.clip(dec[pick] + offset * np.sin(angle), -90, 90)
    table["MJD"] = np.arange(n, dtype=np.int32)
    table["PLATE"] = rng.integers(0, 9, n).astype(np.int16)
    table["NAME"] = np.array([f"Q{i}" for i in range(n)])
    table["RA"][3] = np.nan
    table.write(path, overwrite=True)
    return table


class TestExternal:
    @pytest.mark.parametrize(
        "names", [("1801p000", "1803p000"), ("0001p000", "3598p000"), ("0009p895", "0015p900")]
    )
    def test_against_astropy(self, release, tmp_path, names):
        from skymill.coadd.bricks import brick_at, brick_from_name

        try:
            bricks = [brick_from_name(n) for n in names]
        except DataError:
            bricks = [brick_at(ra=1.0, dec=89.5), brick_at(ra=1.0, dec=90.0)]
        rng = np.random.default_rng(1)
        for brick in bricks:
            release.add_brick(brick.name, n=400)
        table = external_table(tmp_path / "ext.fits", release, rng, n=300)
        report = match_external(
            release.folder,
            tmp_path / "ext.fits",
            tmp_path / "out.fits",
            copy_columns=["mjd", "NAME"],
        )
        out = read(tmp_path / "out.fits")
        assert len(out) == 300
        np.testing.assert_array_equal(out["MJD"], table["MJD"])
        np.testing.assert_array_equal(out["NAME"], table["NAME"])
        parts = [
            (n, i) for n, c in release.objects.items() for i in np.flatnonzero(c["brick_primary"])
        ]
        own = SkyCoord(
            [release.objects[n]["ra"][i] for n, i in parts] * u.deg,
            [release.objects[n]["dec"][i] for n, i in parts] * u.deg,
        )
        good = np.isfinite(table["RA"])
        index, separation, _ = SkyCoord(
            table["RA"][good] * u.deg, table["DEC"][good] * u.deg
        ).match_to_catalog_sky(own)
        hit = separation.arcsec <= 1.5
        assert report.n_matched == hit.sum() > 50
        assert np.all(out["OBJID"][~good] == -1)
        for row, i, is_hit in zip(out[np.asarray(good)], index, hit, strict=True):
            if is_hit:
                assert (row["BRICKNAME"], row["OBJID"]) == parts[i]
            else:
                assert (row["BRICKNAME"], row["OBJID"], row["RA"]) == ("", -1, 0.0)

    def test_an_object_may_be_shared(self, release, tmp_path):
        columns = release.add_brick("1801p000")
        i = int(np.flatnonzero(columns["brick_primary"])[0])
        Table({"ra": [columns["ra"][i]] * 2, "dec": [columns["dec"][i]] * 2}).write(
            tmp_path / "e.csv", format="ascii.csv"
        )
        report = match_external(release.folder, tmp_path / "e.csv", tmp_path / "o.fits")
        assert (report.n_matched, report.n_shared) == (2, 1)
        assert fits.getheader(tmp_path / "o.fits")["NMATCHED"] == 2

    def test_positions_are_not_rounded(self, release, tmp_path):
        # Two objects that are 1.50000 and 1.49998 arcsec away: 20 microarcsec decide.
        step = np.array([1.50000, -1.49998]) / 3600
        release.add_brick("1801p000", ra=np.full(2, 180.1), dec=0.05 + step)
        Table({"RA": [180.1], "DEC": [0.05]}).write(tmp_path / "e.fits")
        match_external(release.folder, tmp_path / "e.fits", tmp_path / "o.fits", radius_arcsec=1.6)
        assert read(tmp_path / "o.fits")["OBJID"][0] == 1

    def test_bad_input(self, two_bricks, tmp_path):
        with pytest.raises(MissingInputError, match="no catalogue"):
            read_external(tmp_path / "none.fits")
        Table({"x": [1.0]}).write(tmp_path / "x.fits")
        with pytest.raises(DataError, match="no coordinates"):
            read_external(tmp_path / "x.fits")
        (tmp_path / "bad.fits").write_text("no table")
        with pytest.raises(DataError, match="cannot be read"):
            read_external(tmp_path / "bad.fits")
        Table({"RA": ["1h"], "DEC": ["2d"]}).write(tmp_path / "h.fits")
        with pytest.raises(DataError, match="in degrees"):
            read_external(tmp_path / "h.fits")
        Table({"RA": [1.0], "DEC": [2.0]}).write(tmp_path / "e.fits")
        with pytest.raises(ConfigError, match="no column PLATE"):
            match_external(
                two_bricks.folder, tmp_path / "e.fits", tmp_path / "o.fits", copy_columns=["PLATE"]
            )
        with pytest.raises(ConfigError, match="radius"):
            match_external(
                two_bricks.folder, tmp_path / "e.fits", tmp_path / "o.fits", radius_arcsec=0
            )

    def test_types_of_copied_columns(self, two_bricks, tmp_path):
        table = Table({"RA": [180.1, 0.0], "DEC": [0.0, 0.0]})
        table["U2"] = np.array([1, 65535], np.uint16)
        table["FLAG"] = [True, False]
        table["MAGS"] = np.arange(6.0).reshape(2, 3)
        table.write(tmp_path / "e.fits")
        names = ["U2", "FLAG", "MAGS", "RA"]
        match_external(
            two_bricks.folder, tmp_path / "e.fits", tmp_path / "o.fits", copy_columns=names
        )
        out = read(tmp_path / "o.fits")
        assert out["U2"].tolist() == [1, 65535]
        assert out["FLAG"].tolist() == [True, False]
        np.testing.assert_array_equal(out["MAGS"], table["MAGS"])
        assert out["EXTERNAL_RA"].tolist() == [180.1, 0.0]

    def test_no_warning_of_units(self, two_bricks, tmp_path):
        Table({"RA": [180.1], "DEC": [0.0]}).write(tmp_path / "e.fits")
        match_external(two_bricks.folder, tmp_path / "e.fits", tmp_path / "o.fits")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            assert len(Table.read(tmp_path / "o.fits")) == 1
