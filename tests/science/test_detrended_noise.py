"""Detrended pixels of a simulated raw frame have the true mean and noise of the predicted size."""

from dataclasses import replace

import numpy as np

from skymill.data.images import PixelPlanes
from skymill.detrend.cosmic_rays import remove_cosmic_rays
from skymill.instruments.decam import facts
from skymill.instruments.decam.reader import read_raw_ccd
from skymill.sims import camera, effects
from skymill.sims.detector import ccd_facts
from skymill.sims.scene import make_scene
from skymill.sims.survey import plan_pointings, survey_preset
from skymill.tasks.isr import IsrConfig, IsrTask

CCD = 35


def planes(image):
    zeros = np.zeros(image.shape, np.float32)
    return PixelPlanes(image.astype(np.float32), zeros, zeros.astype(np.int32))


def test_mean_and_noise_with_every_effect_on(tmp_path):
    options = survey_preset("tiny", ccds=(CCD,), visits=(1,))
    pointing = plan_pointings(options)[0]
    scene = make_scene(options.scene_options(), np.random.default_rng(8))
    switches = replace(options.effects, satellites=False)
    path = tmp_path / "raw.fits"
    camera.simulate_exposure(scene, pointing, [CCD], switches, path)
    truth, _, _ = camera.expected_image(scene, ccd_facts(CCD), pointing, switches)
    band, seed = pointing.head.band, switches.camera_seed
    response = effects.response(CCD, band, seed)
    inputs = {
        "bias": planes(effects.bias_structure(CCD, seed)),
        "flat": planes(response),
        "crosstalk": facts.crosstalk_table(CCD),
        "linearizer": facts.linearity_table(CCD),
        "defects": facts.defect_table(CCD, facts.defect_epochs(CCD)[-1]),
        "newBFKernel": planes(-effects.brighter_fatter_kernel()),
    }
    out = IsrTask(config=IsrConfig()).run(read_raw_ccd(path, CCD), **inputs)
    found = out.outputExposure.planes
    remove_cosmic_rays(found, psf_sigma=1.5)
    good = found.mask == 0
    assert good.mean() > 0.8
    pulls = ((found.image - truth / response) / np.sqrt(found.variance))[good]
    # 7 million pixels: the errors of mean and width are 4e-4 and 3e-4. The overscan level of a row
    # (1.25 x 6 / sqrt 50 electron) and the photon noise taken from the pixel itself are the rest.
    assert abs(np.median(pulls)) < 0.02
    core = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    assert abs(core - 1) < 0.02
    # A Gaussian has 6e-7 beyond 5 sigma; faint ends of cosmic rays leave some more.
    assert (np.abs(pulls) > 5).mean() < 3e-4
    bright = good & (truth > 60000)
    if np.count_nonzero(bright) > 50:
        assert abs(np.median((found.image * response / truth)[bright]) - 1) < 0.005
