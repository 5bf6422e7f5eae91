"""Mosaic-3 on the 4 m Mayall telescope: facts of its community-processed images."""

from skymill.instruments.mosaic3.facts import CAMERA

__all__ = ["CAMERA"]
