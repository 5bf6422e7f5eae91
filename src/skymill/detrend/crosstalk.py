"""Electronic crosstalk: a fraction of what other amplifiers read at the same moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError
from skymill.data.masks import MaskPlane
from skymill.detrend._isr_kernels import add_crosstalk
from skymill.detrend.amplifiers import Amplifier, corner_sides

__all__ = ["CrosstalkSource", "CrosstalkTerm", "crosstalk_signal"]


@dataclass(frozen=True)
class CrosstalkTerm:
    """One coefficient: what a victim amplifier sees of a source amplifier.

    Parameters
    ----------
    victim_amp : str
        Amplifier of this CCD.
    source_detector : str or int
        Name or number of the source's CCD, as the key of the sources.
    source_amp : str
        Amplifier of that CCD.
    coefficient : float
        Signal of the victim per signal of the source.
    onset : float [adu]
        Level of the source above which the crosstalk is no longer linear; such victims are
        masked.
    """

    victim_amp: str
    source_detector: str | int
    source_amp: str
    coefficient: float
    onset: float = math.inf


@dataclass(frozen=True)
class CrosstalkSource:
    """A source CCD: its overscan-subtracted image and its amplifiers.

    Parameters
    ----------
    image : (ny, nx) float32 [adu]
        Trimmed, overscan-subtracted pixels.
    amplifiers : sequence of Amplifier
        Their ``box`` and ``readout_corner`` are used.
    """

    image: NDArray[np.float32]
    amplifiers: Sequence[Amplifier]

    def amplifier(self, name: str) -> Amplifier:
        """The amplifier of a name; `DataError` if there is none."""
        for amp in self.amplifiers:
            if amp.name == name:
                return amp
        known = ", ".join(a.name for a in self.amplifiers)
        raise DataError(f"there is no amplifier {name!r}; known: {known}")


def crosstalk_signal(
    terms: Sequence[CrosstalkTerm],
    sources: Mapping[str | int, CrosstalkSource] | Callable[[str | int], CrosstalkSource | None],
    *,
    victim: CrosstalkSource,
    mask: NDArray[np.int32],
    min_pixel_to_mask: float = 45000.0,
    allow_missing: bool = True,
) -> tuple[NDArray[np.float32], list[str | int]]:
    """The crosstalk that all sources leave in one CCD.

    Parameters
    ----------
    terms : sequence of CrosstalkTerm
        Coefficients with a victim in this CCD.
    sources : mapping or callable
        Source CCD by name or number; None or a missing key where it was not read.
    victim : CrosstalkSource
        This CCD: its amplifiers say where the signal goes. The image gives the shape.
    mask : (ny, nx) int32
        CROSSTALK is set in place where a source exceeds ``min_pixel_to_mask`` or the onset of
        its term.
    min_pixel_to_mask : float [adu]
        Source level beyond which the linear correction is not trusted.
    allow_missing : bool
        Leave absent source CCDs out (their names are returned) instead of raising.

    Returns
    -------
    signal : (ny, nx) float32 [adu]
        To be subtracted.
    missing : list of str or int
        Source CCDs that were not there.

    Raises
    ------
    MissingInputError
        If a source is absent and that is not allowed.
    """
    signal = np.zeros(victim.image.shape, np.float32)
    missing: list[str | int] = []
    bit = np.int32(int(MaskPlane.CROSSTALK))
    names = dict.fromkeys(t.source_detector for t in terms if t.coefficient != 0.0)
    for name in names:
        source = sources(name) if callable(sources) else sources.get(name)
        if source is None:
            if not allow_missing:
                raise MissingInputError(
                    f"the crosstalk source CCD {name} has no overscan-subtracted image; run the "
                    "crosstalk-source step on it, or allow missing sources"
                )
            missing.append(name)
            continue
        for term in terms:
            if term.source_detector != name or term.coefficient == 0.0:
                continue
            to, of = victim.amplifier(term.victim_amp), source.amplifier(term.source_amp)
            to_sides, of_sides = corner_sides(to.readout_corner), corner_sides(of.readout_corner)
            pixels = source.image[of.box.y0 : of.box.y1, of.box.x0 : of.box.x1]
            view = np.s_[to.box.y0 : to.box.y1, to.box.x0 : to.box.x1]
            if pixels.shape != signal[view].shape:
                raise DataError(
                    f"crosstalk between amplifiers of different shapes {pixels.shape} and "
                    f"{signal[view].shape}: {name} {term.source_amp} to {term.victim_amp}"
                )
            add_crosstalk(
                signal[view], mask[view], pixels, term.coefficient,
                to_sides[0] != of_sides[0], to_sides[1] != of_sides[1],
                min(min_pixel_to_mask, term.onset), bit,
            )  # fmt: skip
    return signal, missing
