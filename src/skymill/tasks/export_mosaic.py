"""Mosaics of the patches of a tract, and their colour picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.coadd.mosaic import (
    MosaicPart,
    assemble_mosaic,
    bin_image,
    bin_mask,
    central_patches,
    drop_wide_gaps,
    mosaic_box,
)
from skymill.coadd.skymap import Tract
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box
from skymill.data.masks import MaskPlane
from skymill.qa.pictures import PictureOptions, color_rgb, data_rectangle, encode_png
from skymill.tasks._options import options_field, to_options

__all__ = ["ExportMosaicConfig", "ExportMosaicConnections", "ExportMosaicTask"]

#: Planes of pixels whose value is interpolated because no input is usable.
_LOST = MaskPlane.BAD | MaskPlane.CR | MaskPlane.STREAK | MaskPlane.UNMASKEDNAN | MaskPlane.FLAT_LOW


class ExportMosaicConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract"),
    defaultTemplates={"coaddName": "deep", "suffix": ""},
):
    """Datasets of `ExportMosaicTask`."""

    coadds = cT.Input(
        doc="Coadds of all bands and patches.",
        name="{coaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
        deferLoad=True,
    )
    skyMap = cT.Input(
        doc="The sky map.",
        name="skyMap",
        storageClass="SkymillSkyMap",
        dimensions=("skymap",),
    )
    mosaics = cT.Output(
        doc="One image of the tract in each band.",
        name="exportMosaic{suffix}",
        storageClass="SkymillFits",
        dimensions=("skymap", "tract", "band"),
        multiple=True,
    )
    color = cT.Output(
        doc="Colour picture.",
        name="exportColor{suffix}",
        storageClass="SkymillPicture",
        dimensions=("skymap", "tract"),
    )


class ExportMosaicConfig(PipelineTaskConfig, pipelineConnections=ExportMosaicConnections):
    """Options of `ExportMosaicTask`."""

    width = Field[int](
        dtype=int, default=6, doc="Patches along each side of the mosaic, in the middle; 0: all."
    )
    colorBands = ListField[str](
        dtype=str,
        default=["i", "r", "g"],
        doc="Bands of the red, green and blue channel; missing ones are replaced by others.",
    )
    block = Field[int](dtype=int, default=2, doc="Pixels averaged for one of the picture.")
    maxSize = Field[int](
        dtype=int, default=6000, doc="Widest picture [pixel]: wider ones are averaged further."
    )
    picture = options_field(PictureOptions, "How fluxes become colours.")


class ExportMosaicTask(PipelineTask):
    """Put the patches of a tract side by side, one band after the other."""

    ConfigClass = ExportMosaicConfig
    _DefaultName = "exportMosaic"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Write each band's mosaic before the next is read; then the picture."""
        inputs = butlerQC.get(inputRefs)
        tract = inputs["skyMap"].tract(butlerQC.quantum.dataId["tract"])
        targets = {str(ref.dataId["band"]): ref for ref in outputRefs.mosaics}
        wanted = {p.index for p in central_patches(tract, self.config.width)}
        by_band: dict[str, list[Any]] = {}
        for handle in inputs["coadds"]:
            if int(handle.dataId["patch"]) in wanted:
                by_band.setdefault(str(handle.dataId["band"]), []).append(handle)
        if not by_band:
            raise NoWorkFound("no coadd lies within the mosaic; raise width")
        present = {int(h.dataId["patch"]) for handles in by_band.values() for h in handles}
        box = mosaic_box(tract.patch(k) for k in sorted(present))
        small, saturated = {}, {}
        for band, handles in sorted(by_band.items()):
            result = self.run(tract=tract, box=box, handles=handles)
            small[band], saturated[band] = result.small, result.saturated
            butlerQC.put(result.mosaic, targets[band])
        wcs = tract.wcs.shifted(dx=box.x0, dy=box.y0).binned(self._block(box.shape))
        butlerQC.put(self.draw(small, saturated, wcs), outputRefs.color)

    def run(self, *, tract: Tract, box: Box, handles: list[Any]) -> Struct:
        """The mosaic of one band.

        Parameters
        ----------
        tract : Tract
            The tract.
        box : Box
            Pixels of the tract that the mosaic shows.
        handles : list of DeferredDatasetHandle
            Coadds, read in turn.

        Returns
        -------
        lsst.pipe.base.Struct
            ``mosaic`` (FITS: image in nJy, mask), ``small`` (binned pixels without wide
            interpolated areas) and ``saturated`` (saturated share of each).
        """
        image, mask = assemble_mosaic((_part(h, tract) for h in handles), box)
        header = tract.wcs.shifted(dx=box.x0, dy=box.y0).header
        header["BUNIT"] = "nJy"
        header["LTV1"], header["LTV2"] = -box.x0, -box.y0
        primary = fits.PrimaryHDU(image, header=header)
        planes = fits.CompImageHDU(mask, header=header, name="MASK", compression_type="RICE_1")
        block = self._block(box.shape)
        small = drop_wide_gaps(bin_image(image, block), bin_mask(mask, _LOST, block))
        return Struct(
            mosaic=fits.HDUList([primary, planes]),
            small=small,
            saturated=bin_mask(mask, MaskPlane.SAT, block),
        )

    def _block(self, shape: tuple[int, ...]) -> int:
        """Pixels averaged for one of the picture."""
        return int(max(self.config.block, -(-max(shape) // self.config.maxSize)))

    def draw(
        self,
        images: dict[str, np.ndarray],
        saturated: dict[str, np.ndarray] | None = None,
        wcs: FitsWcs | None = None,
    ) -> bytes:
        """The colour picture of the bands that exist, of the rectangle that has data.

        Parameters
        ----------
        images : dict of str to (ny, nx) float32
            Binned mosaics.
        saturated : dict of str to (ny, nx) float32, optional
            Saturated shares; white in the picture.
        wcs : FitsWcs, optional
            Mapping of the binned mosaics to the sky; written into the file.

        Returns
        -------
        bytes
            A PNG file. A missing band is replaced by the nearest one that exists, so that g, r
            and z show as blue, green and red; where an image has no pixels the others fill in, so
            that the picture is grey there.
        """
        bands = _choose_bands(tuple(self.config.colorBands), tuple(images))
        crop = data_rectangle([images[b] for b in bands])
        red, green, blue = (images[b][crop] for b in bands)
        options = to_options(self.config.picture, PictureOptions)
        white = None
        if saturated is not None:
            white = np.maximum.reduce([saturated[b][crop] for b in bands])
        if wcs is not None:
            wcs = wcs.shifted(dx=crop[1].start or 0, dy=crop[0].start or 0)
        rgb = color_rgb(red, green, blue, bands=bands, white=white, options=options)
        return encode_png(rgb, wcs)


def _part(handle: Any, tract: Tract) -> MosaicPart:
    """Image and mask of a coadd; its other pixels are not read."""
    patch = tract.patch(int(handle.dataId["patch"]))
    image, mask = handle.get(component="image"), handle.get(component="mask")
    return MosaicPart(image, mask, patch.outer_box, patch.inner_box)


def _choose_bands(wanted: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, str, str]:
    """Bands of the three channels; for a missing one the nearest, if possible an unused one."""
    rank = {b: k for k, b in enumerate("ugrizYy")}
    order = sorted(present, key=lambda b: (rank.get(b, 9), b))
    chosen = [b if b in present else "" for b in wanted]
    for k, want in enumerate(wanted):
        if not chosen[k]:
            free = [b for b in order if b not in chosen] or order
            chosen[k] = min(free, key=lambda b: abs(rank.get(b, 9) - rank.get(want, 9)))
    if chosen != list(wanted) and len(set(chosen)) == 3:
        # Three other bands: the reddest is red, the bluest blue.
        chosen = sorted(chosen, key=lambda b: -rank.get(b, 9))
    return chosen[0], chosen[1], chosen[2]
