"""Warps, PSF matching and stacks; ratios against SWarp and reproject on the same pixels.

CPU seconds of one thread, best of three after a warm-up. SWarp's figures include its files.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from skymill.coadd.artifacts import find_artifacts
from skymill.coadd.coadd_correction import CcdSurface, correct_coadd
from skymill.coadd.psf_match import match_psf
from skymill.coadd.stack import InputPixels, stack_warps
from skymill.coadd.warp import Warp, WarpOptions, warp_exposures
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, Exposure, ExposureInfo, PixelPlanes
from skymill.data.photometry import FluxScale
from skymill.psf.models import ConstantPsf

CCD = (4096, 2048)
PATCH = 2200
EPOCHS = 10


def cpu_time(call: Callable[[], object], repeat: int = 3) -> float:
    """Least CPU seconds of a call after one warm-up."""
    call()
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return float(best)


def make_ccd(visit: int, rng: np.random.Generator, rotation: float = 90.3) -> Exposure:
    """Pure noise, turned like a CCD of DECam, dithered."""
    ny, nx = CCD
    dx, dy = rng.uniform(-50, 50, 2)
    planes = PixelPlanes(
        rng.normal(0, 10, CCD).astype(np.float32),
        np.full(CCD, 100, np.float32),
        np.zeros(CCD, np.int32),
    )
    info = ExposureInfo(
        instrument="DECam",
        visit=visit,
        detector=1,
        physical_filter="r",
        band="r",
        exposure_time=90.0,
        mjd_mid=57000.0,
    )
    return Exposure(
        planes=planes,
        info=info,
        wcs=make_tan_wcs(
            ra=150, dec=2, scale=0.263, x=nx / 2 + dx, y=ny / 2 + dy, rotation=rotation
        ),
        psf=ConstantPsf.gaussian(1.9, 31),
        photo_calib=FluxScale(2.0, shape=CCD),
    )


def time_reproject(exposure: Exposure, wcs: object, shape: tuple[int, int]) -> float:
    """Bicubic interpolation of the image alone, on a fifth of the rows."""
    from reproject import reproject_interp

    rows = shape[0] // 5
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reproject_interp(
            (exposure.planes.image, exposure.wcs.astropy),
            wcs.astropy,  # type: ignore[attr-defined]
            shape_out=(rows, shape[1]),
            order="bicubic",
            return_footprint=False,
        )
    return (time.process_time() - start) * shape[0] / rows


def time_swarp(exposure: Exposure, wcs: object, shape: tuple[int, int]) -> float:
    """LANCZOS3 with a weight map, files included."""
    program = shutil.which("SWarp") or shutil.which("swarp")
    if program is None:
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        header = exposure.wcs.header
        fits.writeto(root / "in.fits", exposure.planes.image, header)
        fits.writeto(root / "in.weight.fits", 1 / exposure.planes.variance, header)
        target = wcs.header  # type: ignore[attr-defined]
        target["NAXIS"], target["NAXIS1"], target["NAXIS2"] = 2, shape[1], shape[0]
        (root / "out.head").write_text(target.tostring(sep="\n") + "\n")
        command = [
            program, "in.fits", "-IMAGEOUT_NAME", "out.fits", "-COMBINE", "N", "-SUBTRACT_BACK",
            "N", "-RESAMPLING_TYPE", "LANCZOS3", "-WEIGHT_TYPE", "MAP_WEIGHT", "-NTHREADS", "1",
            "-DELETE_TMPFILES", "N", "-VERBOSE_TYPE", "QUIET", "-WRITE_XML", "N",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_warp() -> None:
    """One whole CCD."""
    rng = np.random.default_rng(1)
    exposure = make_ccd(0, rng)
    shape = (2300, 4300)
    wcs = make_tan_wcs(ra=150, dec=2, scale=0.263, x=shape[1] / 2, y=shape[0] / 2)
    box = Box(x0=0, y0=0, x1=shape[1], y1=shape[0])
    for kernel in ("lanczos3", "lanczos5"):
        for noise in (False, True):
            options = WarpOptions(warpingKernelName=kernel, noise=noise)
            seconds = cpu_time(
                lambda o=options: warp_exposures(  # type: ignore[misc]
                    [exposure], wcs=wcs, box=box, options=o, rng=rng
                )
            )
            extra = " with noise plane" if noise else ""
            print(f"warp of a CCD, {kernel}, image variance mask{extra}: {seconds:.3f} s")
            if kernel == "lanczos3" and not noise:
                ours = seconds
    for name, call in (("SWarp", time_swarp), ("reproject bicubic", time_reproject)):
        peer = call(exposure, wcs, shape)
        print(f"  {name}: {peer:.2f} s, {peer / ours:.1f} times ours")


def bench_stack() -> None:
    """Ten visits of one patch."""
    rng = np.random.default_rng(2)
    wcs = make_tan_wcs(ra=150, dec=2, scale=0.263, x=PATCH / 2, y=PATCH / 2)
    box = Box(x0=0, y0=0, x1=PATCH, y1=PATCH)
    direct: list[Warp] = []
    for visit in range(EPOCHS):
        direct.append(warp_exposures([make_ccd(visit, rng)], wcs=wcs, box=box, rng=rng))
    matched = [match_psf(w) for w in direct]
    print(f"PSF match of {PATCH}^2: {cpu_time(lambda: match_psf(direct[0])):.3f} s")
    artifacts = find_artifacts(matched, box=box)
    seconds = cpu_time(lambda: find_artifacts(matched, box=box))
    print(f"artifacts of {EPOCHS} x {PATCH}^2: {seconds:.3f} s")

    def stack() -> object:
        stacker = stack_warps(direct, box=box, wcs=wcs, artifacts=artifacts)
        return stacker.finish(skymap="m", tract=0, patch=0)

    ours = cpu_time(stack)
    print(f"stack of {EPOCHS} x {PATCH}^2: {ours:.3f} s")
    cube = np.full((EPOCHS, PATCH, PATCH), np.nan, np.float32)
    for plane, warp in zip(cube, direct, strict=True):
        plane[warp.box.slices(within=box)] = warp.planes.image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        np.nanmedian(cube, axis=0)
        peer = time.process_time() - start
    print(f"  numpy.nanmedian of the image alone: {peer:.2f} s, {peer / ours:.1f} times ours")


def bench_correction() -> None:
    """Another sky for all visits of one patch: on the coadd, against warping and stacking again."""
    rng = np.random.default_rng(3)
    wcs = make_tan_wcs(ra=150, dec=2, scale=0.263, x=PATCH / 2, y=PATCH / 2)
    box = Box(x0=0, y0=0, x1=PATCH, y1=PATCH)
    ccds = [make_ccd(visit, rng) for visit in range(EPOCHS)]
    options = WarpOptions(warpingKernelName="lanczos5", noise=False)
    y, x = np.mgrid[: CCD[0], : CCD[1]].astype(np.float32) / np.float32(1000)
    level = 3 * np.sin(x) + y

    def stack(sky: np.ndarray | None) -> tuple[Coadd, InputPixels]:
        warps = []
        for ccd in ccds:
            planes = (
                ccd.planes if sky is None else replace(ccd.planes, image=ccd.planes.image - sky)
            )
            part = [ccd.replace(planes=planes)]
            warps.append(warp_exposures(part, wcs=wcs, box=box, options=options, rng=rng))
        stacker = stack_warps(warps, box=box, wcs=wcs)
        return stacker.finish(skymap="m", tract=0, patch=0), stacker.input_pixels()

    coadd, inputs = stack(None)

    def correct() -> Coadd:
        return correct_coadd(
            coadd,
            inputs,
            [
                CcdSurface(visit=c.info.visit, wcs=c.wcs, photo_calib=c.photo_calib, level=level)
                for c in ccds
            ],
        )

    wanted = stack(level)[0].planes.image
    error = np.abs(correct().planes.image - wanted)[wanted != 0]
    ours = cpu_time(correct)
    peer = cpu_time(lambda: stack(level), repeat=1)
    print(f"sky of {EPOCHS} visits corrected on the coadd of {PATCH}^2: {ours:.3f} s")
    print(f"  warping and stacking again: {peer:.2f} s, {peer / ours:.1f} times")
    print(f"  difference: median {np.median(error):.1e}, largest {error.max():.1e} nJy")


def main() -> None:
    """All of it."""
    bench_warp()
    bench_stack()
    bench_correction()


if __name__ == "__main__":
    main()
