"""From raw telescope exposures to coadds, catalogues, shear, mass maps and data releases."""

from skymill import _zip_seek as _zip_seek  # Repairs zipfile where the interpreter needs it.

__version__ = "0.1.0"
