import numpy as np
import pytest
from astropy.table import Table

from skymill.data.catalogue_files import read_catalogue
from skymill.data.errors import DataError

ROWS = "1 150.0 20.5\n2 150.1 21.5\n"
TEXTS = {
    "a.cat": "# id ra mag_g\n" + ROWS,
    "b.txt": "id ra mag_g\n" + ROWS,
    "c.dat": "# id ra mag_g\n# another comment\n" + ROWS,
    "e.txt": "# made by somebody\nid ra mag_g\n" + ROWS,
    "f.txt": "# my catalogue of 2020\n# my faint stars\n# id ra mag_g\n# 1 deg mag\n" + ROWS,
    "d.cat": "#   1 id  Number\n#   2 ra  Position [deg]\n#   3 mag_g  Brightness [mag]\n" + ROWS,
}


@pytest.mark.parametrize("name", TEXTS)
def test_columns_of_text(tmp_path, name):
    (tmp_path / name).write_text(TEXTS[name])
    table = read_catalogue(tmp_path / name)
    assert table.colnames == ["id", "ra", "mag_g"]
    assert np.asarray(table["mag_g"]).tolist() == [20.5, 21.5]


def test_votable(tmp_path):
    Table({"ra": [1.0, 2.0]}).write(tmp_path / "a.vot", format="votable")
    assert np.asarray(read_catalogue(tmp_path / "a.vot")["ra"]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("a.doc", "suffix must be that of FITS"), ("a.fits", "cannot be read as fits"),
     ("a.vot", "cannot be read as votable"), ("a.cat", "cannot be read as text"),
     ("a.dat", "no line with the names")],
)  # fmt: skip
def test_faults(tmp_path, name, sentence):
    (tmp_path / name).write_text("1 2 3\n4 5 6\n" if name == "a.dat" else "a b c\n1 2\n")
    with pytest.raises(DataError, match=sentence):
        read_catalogue(tmp_path / name)
