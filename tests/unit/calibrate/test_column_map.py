import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from skymill.calibrate.column_map import (
    BandColumns,
    find_band_columns,
    parse_band_columns,
    read_band_fluxes,
)
from skymill.data.errors import ConfigError, DataError


def flux_of(mag):
    return 3631e9 * 10 ** (-0.4 * mag)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["g_cmodel_flux", "g_cmodel_fluxerr", "g_cmodel_mag", "g_cmodel_magerr"],
         BandColumns("g_cmodel_flux", "g_cmodel_fluxerr", "njy")),
        (["FLUX_G", "FLUX_IVAR_G"], BandColumns("FLUX_G", "FLUX_IVAR_G", "nmgy")),
        (["MAG_G", "MAGERR_G"], BandColumns("MAG_G", "MAGERR_G")),
        (["gmag", "e_gmag"], BandColumns("gmag", "e_gmag")),
        (["g_flux", "g_flux_err"], BandColumns("g_flux", "g_flux_err", "njy")),
        (["g", "err_g"], BandColumns("g", "err_g")),
    ],
)  # fmt: skip
def test_names_of_the_field(names, expected):
    assert find_band_columns(names, "ugr") == {"g": expected}


def test_no_band_takes_the_columns_of_another():
    names = ["y_mag", "y_magerr"]
    assert find_band_columns(names, ["Y", "y"])["y"].value == "y_mag"
    assert len(find_band_columns(names, ["y", "Y"])) == 1
    assert find_band_columns(["G", "err_G"], "g") == {}
    redshift = ["mag_g", "err_g", "mag_r", "err_r", "z", "z_err"]
    assert list(find_band_columns(redshift, "griz")) == ["g", "r"]
    assert list(find_band_columns(["r", "r_err", "z", "z_err"], "griz")) == ["r", "z"]


def test_units_sentinels_and_masks():
    table = Table(
        {
            "m": [20.0, 99.0, 99.0, -99.0, np.nan, 21.0],
            "dm": [0.1, 25.0, 0.3, 0.0, 0.1, -1.0],
            "f": [1.0, -2.0, 3.0, 4.0, 5.0, np.inf],
            "f_ivar": [4.0, 0.25, 0.0, -1.0, 1.0, 1.0],
            "c": MaskedColumn([1.0] * 6, mask=[0, 1, 0, 0, 0, 0]),
            "dc": np.ones(6, np.float32),
        }
    )
    columns = {
        "g": BandColumns("m", "dm"),
        "r": BandColumns("f", "f_ivar", "nmgy"),
        "i": BandColumns("c", "dc", "uJy"),
    }
    flux, err = read_band_fluxes(table, columns)
    assert flux[0, 0] == pytest.approx(flux_of(20.0))
    assert err[0, 0] == pytest.approx(flux_of(20.0) * 0.1 * np.log(10) / 2.5)
    # Not detected down to 25 mag.
    assert (flux[1, 0], err[1, 0]) == (0.0, pytest.approx(flux_of(25.0)))
    assert np.isnan(flux[2:, 0]).all()
    # One nanomaggy is 22.5 mag.
    assert flux[:2, 1] == pytest.approx(np.array([1, -2]) * flux_of(22.5), rel=1e-6)
    assert err[:2, 1] == pytest.approx(np.array([0.5, 2]) * flux_of(22.5), rel=1e-6)
    assert np.isnan(err[[2, 3, 5], 1]).all()
    assert (flux[0, 2], np.isnan(flux[1, 2])) == (1000.0, True)


def test_clear_sentences():
    with pytest.raises(ConfigError, match="written band=VALUE,ERROR"):
        parse_band_columns(["g=MAG_G"])
    with pytest.raises(ConfigError, match="unit of 'a' must be mag"):
        parse_band_columns(["g=a,b,erg"])
    table = Table({"a": ["x"], "b": [1.0]})
    with pytest.raises(DataError, match="no column 'z' for band g; it has a, b"):
        read_band_fluxes(table, parse_band_columns(["g=z,b"]))
    with pytest.raises(DataError, match="column 'a' of band g must hold one number"):
        read_band_fluxes(table, parse_band_columns(["g=a,b"]))
