"""ISR against step-by-step numpy, and the cosmic-ray finder against astroscrappy: ratios.

python -m benchmarks.detrend
"""

from __future__ import annotations

import time
from collections.abc import Callable

import astroscrappy
import numpy as np

from skymill.data.images import Box, PixelPlanes
from skymill.detrend.amplifiers import AmplifierSections
from skymill.detrend.cosmic_rays import find_cosmic_rays
from skymill.detrend.crosstalk import CrosstalkTerm
from skymill.detrend.isr import IsrCalibrations, detrend_ccd
from skymill.detrend.linearity import Linearity

SHAPE = (4096, 2048)


def cpu_time(function: Callable[[], object], n: int) -> float:
    """Median CPU seconds of n warm calls."""
    times = []
    for _ in range(n):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def amplifiers() -> list[AmplifierSections]:
    out = []
    for name, x, overscan, corner in (("A", 1080, 2104, "UR"), ("B", 56, 6, "UL")):
        out.append(
            AmplifierSections(
                name=name, data_box=Box(x0=x, y0=50, x1=x + 1024, y1=4146),
                overscan_box=Box(x0=overscan, y0=50, x1=overscan + 50, y1=4146),
                box=Box(x0=x - 56, y0=0, x1=x - 56 + 1024, y1=4096),
                gain=4.0, read_noise=6.0, saturation=40000.0, readout_corner=corner,
            )
        )  # fmt: skip
    return out


def planes(value: float, variance: float) -> PixelPlanes:
    return PixelPlanes(
        np.full(SHAPE, value, np.float32), np.full(SHAPE, variance, np.float32),
        np.zeros(SHAPE, np.int32),
    )  # fmt: skip


def numpy_isr(raw: np.ndarray, amps: list[AmplifierSections], c: IsrCalibrations) -> np.ndarray:
    """The same corrections, one numpy statement each."""
    adu = np.empty(SHAPE, np.float32)
    for a in amps:
        over = raw[a.overscan_box.y0 : a.overscan_box.y1, a.overscan_box.x0 : a.overscan_box.x1]
        data = raw[a.data_box.y0 : a.data_box.y1, a.data_box.x0 : a.data_box.x1]
        adu[:, a.box.x0 : a.box.x1] = data - np.median(over, axis=1)[:, None]
    leak = np.empty_like(adu)
    leak[:, 1024:] = 1e-4 * adu[:, 1023::-1]
    leak[:, :1024] = 1e-4 * adu[:, :1023:-1]
    adu -= leak
    adu -= c.bias.image
    table = c.linearity["A"]
    adu += np.interp(adu, table.adu, table.delta).astype(np.float32)
    electrons = adu * np.float32(4.0)
    variance = np.maximum(electrons, 0) + 36.0 + 16.0 * c.bias.variance
    image = electrons / c.flat.image
    variance = variance / c.flat.image**2 + (image / c.flat.image) ** 2 * c.flat.variance
    mask = np.where(adu > 40000, 2, 0).astype(np.int32)
    return image + 0 * variance + 0 * mask


def main() -> None:
    rng = np.random.default_rng(1)
    raw = np.clip(rng.normal(2500, 20, (4146, 2160)), 0, 65535).astype(np.uint16)
    knots = np.arange(0, 65536, 64.0)
    calibrations = IsrCalibrations(
        bias=planes(1.0, 0.1), flat=planes(1.0, 1e-5),
        linearity={a: Linearity(knots, 1e-7 * knots**2) for a in "AB"},
        crosstalk=[CrosstalkTerm("A", 1, "B", 1e-4), CrosstalkTerm("B", 1, "A", 1e-4)],
    )  # fmt: skip
    amps = amplifiers()

    def ours() -> object:
        return detrend_ccd(raw, amps, calibrations=calibrations, detector=1)

    ours()
    fast, slow = cpu_time(ours, 5), cpu_time(lambda: numpy_isr(raw, amps, calibrations), 3)
    print(f"isr           {1e3 * fast:8.1f} ms   numpy {1e3 * slow:8.1f} ms   {slow / fast:.1f}x")

    y, x = np.mgrid[-12:13, -12:13]
    truth = np.full(SHAPE, 500.0)
    for _ in range(4000):
        i, j = rng.integers(20, 2028), rng.integers(20, 4076)
        profile = np.exp(-0.5 * (x**2 + y**2) / 1.7**2)
        truth[j - 12 : j + 13, i - 12 : i + 13] += 10 ** rng.uniform(2, 4.5) * profile
    image = (rng.poisson(truth) + rng.normal(0, 6, SHAPE)).astype(np.float32)
    for _ in range(1500):
        i, j = rng.integers(20, 2028), rng.integers(20, 4076)
        image[j, i : i + rng.integers(1, 12)] += rng.uniform(500, 5000)
    field = PixelPlanes(
        image, (np.maximum(image, 0) + 36).astype(np.float32), np.zeros(SHAPE, np.int32)
    )
    found = find_cosmic_rays(field, psf_sigma=1.7)
    fast = cpu_time(lambda: find_cosmic_rays(field, psf_sigma=1.7), 3)
    start = time.process_time()
    theirs, _ = astroscrappy.detect_cosmics(
        image, gain=1.0, readnoise=6.0, satlevel=np.inf, sepmed=False
    )
    slow = time.process_time() - start
    common = np.count_nonzero(found & theirs) / np.count_nonzero(found | theirs)
    print(
        f"cosmic rays   {1e3 * fast:8.1f} ms   astroscrappy {1e3 * slow:8.1f} ms   "
        f"{slow / fast:.0f}x   same pixels {common:.3f}"
    )


if __name__ == "__main__":
    main()
