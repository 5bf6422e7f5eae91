"""Formatters of the Butler for the words of skymill; `configs/butler.yaml` names them."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import lsst.images.serialization as archive
import pyarrow as pa
from astropy.io import fits
from astropy.table import Table
from lsst.daf.butler import FormatterV2
from lsst.daf.butler.formatters.parquet import ParquetFormatter, arrow_to_astropy
from lsst.images.formatters import GenericFormatter
from lsst.images.serialization import ButlerInfo
from lsst.resources import ResourcePath

from skymill.coadd.skymap import SkyMap
from skymill.data.errors import ConfigError, DataError
from skymill.instruments.camera import Camera
from skymill.store.image_files import open_fits, read_image, read_part, write_image
from skymill.store.records import read_record, record_hdus

__all__ = [
    "CameraFormatter",
    "DetectorRowsFormatter",
    "FitsFormatter",
    "ImageFormatter",
    "JsonFormatter",
    "PictureFormatter",
    "RecordFormatter",
    "SkyMapFormatter",
    "TableFormatter",
]


class ImageFormatter(GenericFormatter):
    """Planes, exposures, warps and coadds.

    The write parameter ``compression`` is ``none`` or ``lossless``. With a storage class of
    lsst.images the genuine object of lsst.images is read.
    """

    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits"})
    supported_write_parameters: ClassVar[frozenset[str]] = frozenset({"compression"})
    can_read_from_uri: ClassVar[bool] = False

    def get_write_extension(self) -> str:
        """The only extension."""
        return ".fits"

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write the lsst.images archive and the record behind it."""
        compression = str(self.write_parameters.get("compression", "none")).lower()
        if compression not in ("none", "lossless"):
            raise ConfigError(f"compression must be none or lossless; got {compression!r}")
        info = None
        if self.butler_provenance is not None:
            info = ButlerInfo(
                dataset=self.dataset_ref.to_simple(), provenance=self.butler_provenance
            )
        write_image(
            in_memory_dataset,
            uri.ospath,
            lossless=compression == "lossless",
            butler_info=info,
            update_header=self._update_header,
        )

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the image or one part of it."""
        wanted = self.file_descriptor.readStorageClass.pytype
        if component is None and wanted.__module__.startswith("lsst.images"):
            with archive.open_archive(path, cls=wanted) as reader:
                return reader.read()
        return read_image(path) if component is None else read_part(path, component)


class RecordFormatter(FormatterV2):
    """Any dataclass of skymill that is made of numbers and arrays."""

    default_extension: ClassVar[str | None] = ".fits"
    can_read_from_local_file: ClassVar[bool] = True

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write the record."""
        hdus = fits.HDUList([fits.PrimaryHDU(), *record_hdus(in_memory_dataset)])
        hdus.writeto(uri.ospath, overwrite=True)

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the record."""
        with open_fits(path) as hdus:
            value = read_record(hdus)
        return value if component is None else getattr(value, component)


class CameraFormatter(RecordFormatter):
    """A `skymill.instruments.camera.Camera`."""

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the camera."""
        camera = super().read_from_local_file(path, component, expected_size)
        if not isinstance(camera, Camera):
            raise DataError(f"{path} holds a {type(camera).__name__}, not a camera")
        return camera


class TableFormatter(ParquetFormatter):
    """Astropy tables as parquet that keep units, descriptions and meta.

    What the Butler writes into the meta of a file (its identity) is not given back, as it would
    clash where tables are stacked.
    """

    def _read_parquet(self, *args: Any, **kwargs: Any) -> Any:
        wanted = self.file_descriptor.readStorageClass.pytype
        astropy = wanted.__module__.startswith("astropy.")
        if astropy:
            # The parent drops the table's meta unless it is asked not to.
            given = dict(self.file_descriptor.parameters or {})
            given.setdefault("strip_astropy_meta_yaml", False)
            self.file_descriptor.parameters = given
        found = super()._read_parquet(*args, **kwargs)
        if not (astropy and isinstance(found, pa.Table)):
            return found
        table = arrow_to_astropy(found)
        for key in [k for k in table.meta if str(k).startswith("LSST.BUTLER.")]:
            del table.meta[key]
        return table


class DetectorRowsFormatter(TableFormatter):
    """The rows of one CCD in a table of many, by the data ID's detector."""

    def _read_parquet(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._read_parquet(*args, **kwargs)
        if not isinstance(found, Table):
            return found
        column = "detector" if "detector" in found.colnames else "victim"
        return found[found[column] == int(self.data_id["detector"])]


class SkyMapFormatter(FormatterV2):
    """A sky map as JSON."""

    default_extension: ClassVar[str | None] = ".json"
    can_read_from_local_file: ClassVar[bool] = True

    def to_bytes(self, in_memory_dataset: Any) -> bytes:
        """The map as JSON."""
        return json.dumps(in_memory_dataset.to_dict()).encode()

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the map."""
        with open(path, encoding="utf-8") as stream:
            return SkyMap.from_dict(json.load(stream))


class JsonFormatter(FormatterV2):
    """Dictionaries and lists of plain values as JSON."""

    default_extension: ClassVar[str | None] = ".json"
    can_read_from_local_file: ClassVar[bool] = True

    def to_bytes(self, in_memory_dataset: Any) -> bytes:
        """The values as JSON."""
        return json.dumps(in_memory_dataset, indent=1).encode()

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the values."""
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)


class FitsFormatter(FormatterV2):
    """Any `astropy.io.fits.HDUList`, such as a map with its WCS."""

    default_extension: ClassVar[str | None] = ".fits"
    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits", ".fits.fz", ".fits.gz"})
    can_read_from_local_file: ClassVar[bool] = True

    def write_local_file(self, in_memory_dataset: fits.HDUList, uri: ResourcePath) -> None:
        """Write the file."""
        in_memory_dataset.writeto(uri.ospath, overwrite=True)

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> fits.HDUList:
        """Read the whole file into memory."""
        with open_fits(path) as hdus:
            return fits.HDUList([hdu.copy() for hdu in hdus])


class PictureFormatter(FormatterV2):
    """The bytes of a PNG file."""

    default_extension: ClassVar[str | None] = ".png"
    can_read_from_local_file: ClassVar[bool] = True

    def to_bytes(self, in_memory_dataset: bytes) -> bytes:
        """The same bytes."""
        if not in_memory_dataset.startswith(b"\x89PNG"):
            raise DataError("a picture must be the bytes of a PNG file")
        return in_memory_dataset

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> bytes:
        """Read the bytes."""
        with open(path, "rb") as stream:
            return stream.read()
