"""90prime on the 2.3 m Bok telescope: facts of its community-processed images."""

from skymill.instruments.bok.facts import CAMERA

__all__ = ["CAMERA"]
