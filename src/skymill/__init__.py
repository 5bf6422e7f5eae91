"""From raw telescope exposures to coadds, catalogues, shear, mass maps and data releases."""

__version__ = "0.1.0"
