"""Parts of Rice-compressed images equal those that astropy decodes, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skymill.instruments.rice_section import read_rice_section

BOX = (5, 61, 3, 30)


def write(path: Path, data: np.ndarray, **words: object) -> Path:
    words = {"compression_type": "RICE_1", "tile_shape": (1, data.shape[1]), **words}
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="N4", **words)]).writeto(path)
    return path


def read(path: Path, box: tuple[int, int, int, int] = BOX) -> np.ndarray | None:
    with fits.open(path, disable_image_compression=True) as hdus:
        return read_rice_section(path, hdus[1], box)


def expected(path: Path, box: tuple[int, int, int, int] = BOX) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[1].data[box[2] : box[3], box[0] : box[1]])


def floats() -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.normal(1000.0, 12.0, (40, 70)).astype(np.float32)
    image[10, 20:50] = 0.0
    image[12, 30] = 65000.0
    image[14] = 0.0
    return image


@pytest.mark.parametrize("method", [-1, 1, 2])
@pytest.mark.parametrize("level", [4.0, 16.0, -0.01])
def test_quantized_floats(tmp_path: Path, method: int, level: float) -> None:
    words = {"quantize_level": level, "quantize_method": method}
    if method > 0:
        words["dither_seed"] = 9990  # The random numbers begin anew within the image.
    path = write(tmp_path / "a.fits.fz", floats(), **words)
    np.testing.assert_array_equal(read(path), expected(path))


def test_unknown_pixels_and_rows_that_cannot_be_quantized(tmp_path: Path) -> None:
    image = floats()
    image[8, 10:14] = np.nan
    image[20] *= np.exp(np.linspace(0, 60, 70)).astype(np.float32)
    path = write(tmp_path / "a.fits.fz", image, quantize_level=4.0)
    found = read(path)
    np.testing.assert_array_equal(found, expected(path))
    assert found is not None
    assert np.isnan(found).sum() == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_integers(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(2)
    top = np.iinfo(dtype).max
    data = rng.integers(0, 8, (40, 70)).astype(dtype)
    data[9] = rng.integers(0, top, 70)
    data[11] = 0
    data[13, 40] = top
    path = write(tmp_path / "a.fits.fz", data)
    np.testing.assert_array_equal(read(path), expected(path))


def test_other_compressions_are_left_to_others(tmp_path: Path) -> None:
    tiles = write(tmp_path / "a.fits.fz", floats(), tile_shape=(10, 10))
    assert read(tiles) is None
    gzip = write(tmp_path / "b.fits.fz", floats(), compression_type="GZIP_1")
    assert read(gzip) is None
    shifted = write(tmp_path / "c.fits.fz", np.full((40, 70), 40000, np.uint16))
    assert read(shifted) is None


@pytest.mark.parametrize("lost", [2000, 3500])
def test_a_truncated_file_is_told(tmp_path: Path, lost: int) -> None:
    path = write(tmp_path / "a.fits.fz", floats(), quantize_level=4.0)
    with fits.open(path, disable_image_compression=True) as hdus:
        hdu = hdus[1]
        path.write_bytes(path.read_bytes()[: hdu.fileinfo()["datLoc"] + lost - 1500])
        with pytest.raises(OSError, match="end"):
            read_rice_section(path, hdu, (0, 70, 0, 40))
