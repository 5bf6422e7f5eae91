"""The Butler's reader of raw DECam files."""

from __future__ import annotations

from typing import Any, ClassVar

from lsst.daf.butler import FormatterV2

from skymill.instruments.decam.reader import read_raw_ccd

__all__ = ["DecamRawFormatter"]


class DecamRawFormatter(FormatterV2):
    """One CCD of a multi-extension file ``.fits`` or ``.fits.fz``; the data ID names the CCD."""

    default_extension: ClassVar[str | None] = ".fits.fz"
    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits", ".fits.fz", ".fits.gz"})
    can_read_from_local_file: ClassVar[bool] = True

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Read the CCD, or one part of it."""
        detector = int(self.data_id["detector"])
        raw = read_raw_ccd(path, detector, pixels=component in (None, "image"))
        return raw if component is None else getattr(raw, component)
