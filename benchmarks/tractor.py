"""Fit of the blobs of real cut-outs, and drawing of one model against GalSim, in one process.

The whole brick takes the reference (legacypipe, DR9) 2.5, 1.3, 4.0 and 2.9 core-seconds for
testcase3, 6, 9 and mzlsbass2 (its own measurement, warm, one thread); most of it is the fit.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from skymill.model import blob_fitter
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.run_brick import run_brick

CUTOUTS = Path(__file__).parents[1] / ".." / "shared" / "data" / "cutouts"
CASES = {
    "testcase3": ({"brick": "2447p120", "zoom": (1020, 1070, 2775, 2815)}, 2.5),
    "testcase6": ({"brick": "1102p240", "zoom": (500, 600, 650, 750)}, 1.3),
    "testcase9": (
        {"ra_dec": (9.1228, 3.3975), "width": 100, "height": 100, "large_galaxies": False},
        4.0,
    ),
    "mzlsbass2": ({"brick": "1773p595", "zoom": (1300, 1500, 700, 900)}, 2.9),
}


def _bricks() -> None:
    for name, (options, reference) in CASES.items():
        whole, fits = [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(4):
                brick = BrickOptions(
                    survey_dir=str(CUTOUTS / name), out_dir=folder, ebv=0.05, force=True, **options
                )
                start = time.process_time()
                result = run_brick(brick)
                whole.append(time.process_time() - start)
                fits.append(result.seconds["fitblobs"])
        # The first run compiles and imports.
        ours = np.median(whole[1:])
        print(
            f"{name}: brick {ours:.2f} core-s, fit {np.median(fits[1:]):.2f} s; reference "
            f"{reference:.1f} core-s; ratio {reference / ours:.1f}"
        )


def _drawing() -> None:
    import galsim

    from skymill.model.multi_fit import evaluate_source

    rng = np.random.default_rng(1)
    m, n = 8, 64
    psf = galsim.Moffat(beta=3.5, fwhm=1.2)
    stamp = psf.drawImage(nx=47, ny=47, scale=0.262).array
    stamps = blob_fitter.Stamps(
        image=np.arange(m),
        band=np.zeros(m, np.int64),
        x0=np.zeros(m, np.int64),
        y0=np.zeros(m, np.int64),
        data=rng.normal(size=(m, n, n)),
        weight=np.ones((m, n, n)),
        window=np.tile(np.array([0, n, 0, n]), (m, 1)),
        psf=np.stack([blob_fitter.psf_spectrum(stamp, n)] * m),
        shift=np.full((m, 2), n / 2.0),
        to_pixel=np.tile(np.eye(2) / 0.262, (m, 1, 1)),
    )
    parameters = np.array([0.0, 0.0, -0.5, 0.2, 0.1, 1.0])
    evaluate_source(stamps, 2, parameters, 1)
    start = time.process_time()
    for _ in range(50):
        evaluate_source(stamps, 2, parameters, 1)
    ours = (time.process_time() - start) / 50
    model = galsim.Convolve(galsim.Exponential(half_light_radius=0.6).shear(g1=0.1), psf)
    start = time.process_time()
    for _ in range(20):
        for _ in range(m):
            model.drawImage(nx=n, ny=n, scale=0.262)
    peer = (time.process_time() - start) / 20
    print(
        f"{m} stamps {n}x{n}: model, 5 derivatives, normal equations {1e3 * ours:.2f} ms; "
        f"GalSim draws the model alone in {1e3 * peer:.2f} ms"
    )


def main() -> None:
    _drawing()
    if CUTOUTS.is_dir():
        _bricks()
    else:
        print(f"no cut-outs: {CUTOUTS} is absent")


if __name__ == "__main__":
    main()
