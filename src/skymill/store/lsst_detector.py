"""Detectors of lsst.images made from our camera geometry."""

from __future__ import annotations

import functools

import astropy.units as u
import lsst.images as li
import numpy as np
from lsst.images._transforms import _ast  # CameraFrameSet has no public way to be built.
from lsst.images.cameras import (
    Amplifier as LsstAmplifier,
)
from lsst.images.cameras import (
    CameraFrameSet,
    DetectorAttributes,
    DetectorType,
    Orientation,
    ReadoutCorner,
)
from lsst.images.cameras import Detector as LsstDetector

from skymill.data.images import Box
from skymill.instruments.camera import Amplifier, Camera, Detector
from skymill.instruments.known import find_camera

__all__ = ["make_lsst_detector"]


def _place_of(detector: int, shape: tuple[int, int]) -> Detector:
    """A CCD of unknown make: on the axis, unrotated."""
    box = Box(x0=0, y0=0, x1=shape[1], y1=shape[0])
    return Detector(
        id=detector, name=str(detector), box=box, raw_shape=box.shape, centre=(0.0, 0.0),
        pixel_size=0.015, amplifiers=(),
    )  # fmt: skip


def _frames(instrument: str, camera: Camera | None, ccd: Detector) -> CameraFrameSet:
    frames = _ast.FrameSet(_ast.Frame(2, "Ident=FOCAL_PLANE, Unit(1)=mm, Unit(2)=mm"))
    base = frames.current
    scale = camera.radial[1] if camera is not None else 8.5e-5
    frames.addFrame(base, _ast.ZoomMap(2, scale), _ast.Frame(2, "Ident=FIELD_ANGLE"))
    angle = np.radians(ccd.rotation)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = ((ccd.box.x0 + ccd.box.x1 - 1) / 2, (ccd.box.y0 + ccd.box.y1 - 1) / 2)
    # mm -> pixel: shift to the CCD's centre, rotate back, divide by the pixel, shift to its pixels.
    mapping = _ast.CmpMap(
        _ast.CmpMap(
            _ast.ShiftMap([-ccd.centre[0], -ccd.centre[1]]),
            _ast.MatrixMap(rotate / ccd.pixel_size),
            True,
        ),
        _ast.ShiftMap(list(middle)),
        True,
    )
    frames.addFrame(base, mapping, _ast.Frame(2, f"Ident=DETECTOR_{ccd.id}"))
    return CameraFrameSet(instrument, frames)


def _amplifier(amplifier: Amplifier) -> LsstAmplifier:
    box = amplifier.box
    return LsstAmplifier(
        name=amplifier.name,
        bbox=li.Box.factory[box.y0 : box.y1, box.x0 : box.x1],
        readout_corner=ReadoutCorner(amplifier.readout_corner),
    )


@functools.lru_cache(maxsize=128)
def _parts(
    instrument: str, detector: int, shape: tuple[int, int]
) -> tuple[DetectorAttributes, tuple[LsstAmplifier, ...], CameraFrameSet]:
    camera = find_camera(instrument)
    known = camera is not None and detector in camera
    ccd = camera[detector] if camera is not None and known else _place_of(detector, shape)
    attributes = DetectorAttributes(
        name=ccd.name,
        id=ccd.id,
        type=DetectorType.SCIENCE,
        serial=ccd.serial or str(ccd.id),
        bbox=li.Box.factory[ccd.box.y0 : ccd.box.y1, ccd.box.x0 : ccd.box.x1],
        orientation=Orientation(
            focal_plane_x=ccd.centre[0],
            focal_plane_y=ccd.centre[1],
            focal_plane_z=0.0,
            pixel_reference_x=0.5 * (ccd.box.x0 + ccd.box.x1 - 1),
            pixel_reference_y=0.5 * (ccd.box.y0 + ccd.box.y1 - 1),
            yaw=ccd.rotation * u.deg,
            pitch=0 * u.deg,
            roll=0 * u.deg,
        ),
        pixel_size=ccd.pixel_size,
        physical_type="CCD",
    )
    return (
        attributes,
        tuple(_amplifier(a) for a in ccd.amplifiers),
        _frames(instrument, camera, ccd),
    )


def make_lsst_detector(
    instrument: str, detector: int, visit: int, shape: tuple[int, int]
) -> LsstDetector:
    """The detector that a `lsst.images.VisitImage` carries.

    Parameters
    ----------
    instrument : str
        Name of the instrument.
    detector, visit : int
        Numbers of the CCD and of the visit.
    shape : (ny, nx)
        Pixels of the image; used for instruments that skymill does not know.

    Returns
    -------
    lsst.images.cameras.Detector
        Its geometry and amplifiers.
    """
    attributes, amplifiers, frames = _parts(instrument, detector, shape)
    return LsstDetector(attributes, amplifiers=list(amplifiers), frames=frames, visit=visit)
