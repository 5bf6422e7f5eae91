"""Time the operators on pixels against a peer in the same run: python benchmarks/measure.py."""

import time

import galsim
import numpy as np
import sep

from skymill.data.images import PixelPlanes
from skymill.measure.aperture import ApertureOptions, aperture_fluxes
from skymill.measure.background import BackgroundOptions, estimate_background
from skymill.measure.deblend import deblend_sources
from skymill.measure.detection import DetectionOptions, detect_sources
from skymill.measure.moments import adaptive_moments_stamps
from skymill.measure.objects import force_objects, measure_objects
from skymill.measure.psf_flux import GaussianPsf
from skymill.measure.shear_shape import regauss_shapes


def best_of(function, repeats=3):
    """Shortest CPU time of some calls after a first one that compiles."""
    result = function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def make_field(size=2048, count=4000, sigma=1.8):
    """Gaussian sources of many sizes and fluxes on noise."""
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (size, size)).astype(np.float32)
    grid = np.arange(-25, 26)
    for _ in range(count):
        width = np.hypot(sigma, rng.exponential(1.0))
        x, y = rng.integers(26, size - 26, 2)
        u = np.exp(-0.5 * (grid / width) ** 2)
        flux = 60 * rng.pareto(1.2) + 60
        image[y - 25 : y + 26, x - 25 : x + 26] += (
            flux / (2 * np.pi * width**2) * u[:, None] * u
        ).astype(np.float32)
    return PixelPlanes(image, np.ones_like(image), np.zeros(image.shape, np.int32))


def compare_shear_shapes(stamps):
    """Re-Gaussianization of all sources against GalSim's of some of them."""
    n, size, _ = stamps.shape
    star = GaussianPsf(1.8).draw(x=np.zeros(n), y=np.zeros(n), size=37)
    shape, point = adaptive_moments_stamps(stamps, sigma=1.8), np.full((n, 3), 1.8**2)
    point[:, 2] = 0.0
    sheet = np.ascontiguousarray(stamps.reshape(-1, size))
    middle = size // 2
    ours, out = best_of(
        lambda: regauss_shapes(
            sheet,
            np.ones_like(sheet),
            np.ones(sheet.shape, bool),
            x=np.full(n, float(middle)),
            y=middle + size * np.arange(n, dtype=float),
            half=np.full(n, middle),
            moments=np.stack([shape.ixx, shape.iyy, shape.ixy], axis=1),
            psf_stamps=star,
            psf_moments=point,
        )
    )
    some = np.flatnonzero(out.flags == 0)[:300]
    views = [galsim.Image(np.ascontiguousarray(stamps[k])) for k in some]
    psf = galsim.Image(star[0])
    peer, found = best_of(
        lambda: [
            galsim.hsm.EstimateShear(
                v, psf, guess_sig_gal=shape.sigma[k], guess_sig_PSF=1.8, strict=False
            )
            for k, v in zip(some, views, strict=True)
        ],
        1,
    )
    # Only where both used the same pixels: the window reaches beyond six sigma.
    same = np.maximum(12, np.ceil(6 * shape.sigma[some])) >= middle
    same &= np.array([not f.error_message for f in found])
    apart = np.array([f.corrected_e1 for f in found])[same] - out.e1[some][same]
    ours, peer = ours / n * 1e6, peer / some.size * 1e6
    print(
        f"re-Gauss    {ours:8.1f} us   hsm {peer:8.1f} us   x{peer / ours:.1f}   per source;"
        f" e1 apart by {np.median(np.abs(apart)) if apart.size else np.nan:.1e} (median)"
    )


def main():
    """Print one line for each operator."""
    planes = make_field()
    image, variance, mask = planes.image, planes.variance, planes.mask
    ours, _ = best_of(
        lambda: estimate_background(image, mask, options=BackgroundOptions(box=128)).evaluate()
    )
    peer, _ = best_of(lambda: sep.Background(image, bw=128, bh=128).back())
    pixels = image.size / 1e6
    print(f"background  {ours * 1e3:8.1f} ms   sep {peer * 1e3:8.1f} ms   x{peer / ours:.1f}")
    options = DetectionOptions(dynamic=True)
    ours, found = best_of(
        lambda: detect_sources(image, variance, mask, psf_sigma=1.8, options=options)
    )
    sep.set_extract_pixstack(3_000_000)
    kernel = np.exp(-0.5 * (np.hypot(*np.mgrid[-6:7, -6:7]) / 1.8) ** 2)
    peer, _ = best_of(lambda: sep.extract(image, 1.5, var=variance, filter_kernel=kernel), 1)
    print(
        f"detection   {ours * 1e3:8.1f} ms   sep {peer * 1e3:8.1f} ms   x{peer / ours:.1f}"
        f"   {pixels / ours:.0f} Mpix/s, {len(found)} peaks"
    )
    stamps = np.stack(
        [
            image[y - 24 : y + 25, x - 24 : x + 25]
            for x, y in zip(
                np.clip(found.x.astype(int), 25, 2020),
                np.clip(found.y.astype(int), 25, 2020),
                strict=True,
            )
        ]
    )
    ours, _ = best_of(lambda: adaptive_moments_stamps(stamps, sigma=1.8))
    views = [galsim.Image(np.ascontiguousarray(s)) for s in stamps[:300]]
    peer, _ = best_of(lambda: [v.FindAdaptiveMom(guess_sig=1.8, strict=False) for v in views], 1)
    ours, peer = ours / len(stamps) * 1e6, peer / 300 * 1e6
    print(f"moments     {ours:8.1f} us   hsm {peer:8.1f} us   x{peer / ours:.1f}   per source")
    compare_shear_shapes(stamps)
    circles = ApertureOptions(radii=(3.0, 6.0, 9.0, 12.0, 15.0))
    ours, _ = best_of(
        lambda: aperture_fluxes(image, variance, mask, x=found.x, y=found.y, options=circles)
    )
    peer, _ = best_of(
        lambda: [
            sep.sum_circle(image, found.x, found.y, r, var=variance, subpix=0)
            for r in circles.radii
        ]
    )
    ours, peer = ours / len(found) * 1e6, peer / len(found) * 1e6
    print(f"apertures   {ours:8.1f} us   sep {peer:8.1f} us   x{peer / ours:.1f}   5 circles")
    ours, children = best_of(
        lambda: deblend_sources(
            image[None], variance[None], found.labels, x=found.x, y=found.y, bands=("r",)
        ),
        1,
    )
    print(f"deblend     {ours * 1e3:8.1f} ms   {len(children)} sources, one band")
    kwargs = {"psf": GaussianPsf(1.8), "psf_sigma": 1.8, "children": children, "band": "r"}
    ours, table = best_of(
        lambda: measure_objects(
            planes, x=found.x, y=found.y, rng=np.random.default_rng(1), **kwargs
        ),
        1,
    )
    print(f"measure     {ours / len(table) * 1e3:8.2f} ms per source and band, everything")
    ours, _ = best_of(
        lambda: force_objects(planes, reference=table, rng=np.random.default_rng(1), **kwargs), 1
    )
    print(f"forced      {ours / len(table) * 1e3:8.2f} ms per source and band")


if __name__ == "__main__":
    main()
