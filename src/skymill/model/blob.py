"""Fit of one blob: all its sources, on all exposures that see it.

First each source is fitted as it came, the brightest first, with the others subtracted. Then each
pixel is given to a source, and the model of each source is chosen on the significant pixels of its
own. Sources that appear in the residuals go through the same. Last come the errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.options import check_range, option
from skymill.model.blob_fitter import BlobFitter
from skymill.model.blob_result import write_source
from skymill.model.fit_image import FitImage
from skymill.model.sources import FitBit, Sources

__all__ = ["Blob", "BlobFit", "FindMore", "FitOptions", "fit_blob"]

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: Finds new sources: given residual images and images of the models (one FitImage each for every
#: exposure of the blob, their cut-outs) and the blob, returns point sources with first fluxes.
FindMore = Callable[[Sequence[FitImage], Sequence[FitImage], "Blob"], Sources]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How blobs are fitted."""

    bands: tuple[str, ...] = option(("g", "r", "z"), "names of the columns of fluxes")
    symmetric_snr: float = option(5.0, "pixels above it, and their mirrors, belong to a source")
    grow: int = option(4, "growth of a source's own pixels", unit="pixel")
    max_radius: float = option(30.0, "largest half-light radius", unit="arcsec")
    max_radius_round: float = option(10.0, "largest half-light radius of REX", unit="arcsec")
    psf_error: float = option(
        0.01, "a galaxy must win this part of the chi-squared of the point source over it"
    )
    reoptimize: bool = option(False, "fit all sources once more after the choice of models")
    iterate: bool = option(True, "search the residuals for more sources")
    avoid: float = option(2.0, "new sources so near to known ones are ignored", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "symmetric_snr", low=1.0)
        check_range(self, "grow", low=0)
        check_range(self, "max_radius", low=0.1)
        check_range(self, "max_radius_round", low=0.1)
        check_range(self, "psf_error", low=0.0, high=1.0)
        check_range(self, "avoid", low=0.0)


@dataclass
class Blob:
    """Pixels of a brick that are fitted together, and the sources in them.

    Parameters
    ----------
    id : int
        Number of the blob.
    brick_wcs : FitsWcs
        Of the whole brick.
    x0, y0 : int [pixel]
        First pixel of the blob's box on the brick.
    mask : (h, w) bool
        The blob.
    sources : Sources
        Points with first fluxes, and large galaxies with first shapes.
    fixed_position : (n,) bool
        Position is known better than these images tell.
    fixed_type : (n,) bool
        Keep the type: reference stars.
    is_reference : (n,) bool
        Never drop.
    force_point : (n,) bool
        No galaxies: within the mask of a bright star or large galaxy.
    frozen : (n,) bool
        Keep all parameters as they are.
    is_large_galaxy : (n,) bool
        May leave the blob; its radius may grow to twice the first one.
    fit_background : (n,) bool
        Fit a constant in each exposure with the source.
    avoid : (h, w) bool, optional
        Where no new sources are looked for.
    """

    id: int
    brick_wcs: FitsWcs
    x0: int
    y0: int
    mask: BoolArray
    sources: Sources
    fixed_position: BoolArray | None = None
    fixed_type: BoolArray | None = None
    is_reference: BoolArray | None = None
    force_point: BoolArray | None = None
    frozen: BoolArray | None = None
    is_large_galaxy: BoolArray | None = None
    fit_background: BoolArray | bool | None = None
    avoid: BoolArray | None = None

    def __post_init__(self) -> None:
        n = len(self.sources)
        if self.mask.ndim != 2:
            raise DataError(f"the mask of a blob must have two dimensions; got {self.mask.ndim}")
        for name in ("fixed_position", "fixed_type", "is_reference", "force_point", "frozen",
                     "is_large_galaxy", "fit_background"):  # fmt: skip
            given = getattr(self, name)
            value = np.zeros(n, bool) if given is None else np.asarray(given, bool)
            if value.ndim == 0:
                value = np.full(n, bool(value))
            if value.shape != (n,):
                raise DataError(
                    f"{name} needs one entry for each of {n} sources; got {value.shape}"
                )
            setattr(self, name, value.copy())


@dataclass
class BlobFit:
    """Result of a blob: numbers and arrays only.

    Parameters
    ----------
    id : int
        Number of the blob.
    sources : Sources
        The sources that were kept, with errors, ``dchisq`` and bits.
    origin : (n,) int64
        Their places in ``blob.sources``; -1 for those found in the residuals.
    forced_keep : (n,) bool
        Reference stars that are kept although no model is significant.
    chi2_first, chi2_last : float
        Chi-squared of all usable pixels of the blob without any source, and with the result.
    n_pixel : int
        Usable pixels, over all exposures.
    n_image : int
        Exposures.
    image_index : (m,) int64
        Which of the given exposures were used.
    background : (m,) float64 [nanomaggy]
        Mean residual of each of them.
    cpu_seconds : float
        Processor time; the only number that is not determined by the input.
    """

    id: int
    sources: Sources
    origin: NDArray[np.int64]
    forced_keep: BoolArray
    chi2_first: float
    chi2_last: float
    n_pixel: int
    n_image: int
    image_index: NDArray[np.int64]
    background: Float64Array
    cpu_seconds: float = 0.0

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for ``numpy.savez``."""
        out = {f"sources_{name}": value for name, value in self.sources.to_arrays().items()}
        for name in ("id", "chi2_first", "chi2_last", "n_pixel", "n_image", "cpu_seconds"):
            out[name] = np.array(getattr(self, name))
        for name in ("origin", "forced_keep", "image_index", "background"):
            out[name] = getattr(self, name)
        return out

    @classmethod
    def from_arrays(cls, arrays: Any) -> BlobFit:
        """The inverse of `to_arrays`.

        Parameters
        ----------
        arrays : mapping
            As ``numpy.load`` gives it.

        Returns
        -------
        BlobFit
            The result.

        Raises
        ------
        DataError
            If something is missing.
        """
        names = set(arrays.keys())
        needed = {"id", "chi2_first", "chi2_last", "n_pixel", "n_image", "cpu_seconds", "origin",
                  "forced_keep", "image_index", "background"}  # fmt: skip
        if not needed <= names:
            raise DataError(f"the result of a blob lacks {', '.join(sorted(needed - names))}")
        columns = {n[8:]: np.asarray(arrays[n]) for n in names if n.startswith("sources_")}
        return cls(
            id=int(arrays["id"]),
            sources=Sources.from_arrays(columns),
            origin=np.asarray(arrays["origin"]),
            forced_keep=np.asarray(arrays["forced_keep"]),
            chi2_first=float(arrays["chi2_first"]),
            chi2_last=float(arrays["chi2_last"]),
            n_pixel=int(arrays["n_pixel"]),
            n_image=int(arrays["n_image"]),
            image_index=np.asarray(arrays["image_index"]),
            background=np.asarray(arrays["background"]),
            cpu_seconds=float(arrays["cpu_seconds"]),
        )


def fit_blob(
    images: Sequence[FitImage],
    blob: Blob,
    options: FitOptions | None = None,
    *,
    find_more: FindMore | None = None,
) -> BlobFit:
    """Fit all sources of a blob.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures of the brick; those that do not touch the blob are ignored.
    blob : Blob
        Pixels and sources.
    options : FitOptions, optional
        How.
    find_more : callable, optional
        Detects sources in the residuals; without it there is no second search.

    Returns
    -------
    BlobFit
        It depends on the arguments only.

    Raises
    ------
    DataError
        If the fluxes do not fit the bands.
    """
    options = options or FitOptions()
    started = time.thread_time()
    n_band = len(options.bands)
    if blob.sources.flux.shape[1] != n_band:
        raise DataError(
            f"the sources have fluxes in {blob.sources.flux.shape[1]} bands; "
            f"the options name {n_band}"
        )
    fitter = BlobFitter(images, blob, options)
    chi2_first = fitter.chi2()
    fitter.fit_first()
    fitter.choose_models()
    if options.iterate and find_more is not None:
        fitter.iterate(find_more)
    if options.reoptimize:
        fitter.fit_again()
    result = _collect(fitter, blob)
    result.chi2_first = chi2_first
    result.cpu_seconds = time.thread_time() - started
    return result


def _collect(fitter: BlobFitter, blob: Blob) -> BlobFit:
    kept = [s for s in fitter.sources if s.kept]
    sources = Sources.create(
        ra=np.array([s.sky()[0] for s in kept]),
        dec=np.array([s.sky()[1] for s in kept]),
        flux=np.array([s.flux for s in kept]).reshape(len(kept), fitter.n_band),
    )
    for i, source in enumerate(kept):
        write_source(fitter, source, sources, i)
    sources.fitbits[[s.origin < 0 for s in kept]] |= int(FitBit.ITERATIVE)
    return BlobFit(
        id=blob.id,
        sources=sources,
        origin=np.array([s.origin for s in kept], np.int64),
        forced_keep=np.array([s.forced_keep for s in kept], bool),
        chi2_first=0.0,
        chi2_last=fitter.chi2(),
        n_pixel=sum(int((p.weight > 0).sum()) for p in fitter.parts),
        n_image=len(fitter.parts),
        image_index=np.array([p.index for p in fitter.parts], np.int64),
        background=fitter.background(),
    )
