"""The exposure: each effect does what it should and nothing when it is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import ConfigError
from skymill.data.geometry import FitsWcs
from skymill.sims import camera, effects
from skymill.sims.camera import InstrumentOptions, simulate_exposure, simulate_flat, simulate_zero
from skymill.sims.detector import ccd_facts, crosstalk_terms, defect_boxes, linearity_correction
from skymill.sims.headers import ExposureHead
from skymill.sims.scene import make_scene
from skymill.sims.survey import plan_pointings, survey_preset

CCD = 35  # N4
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def sky():
    options = survey_preset("tiny", galaxy_density=0.05, star_density=0.3)
    return make_scene(options.scene_options(), RNG(1)), plan_pointings(options)[0]


def expected(the_sky, **switches):
    scene, pointing = the_sky
    return camera.expected_image(
        scene, ccd_facts(CCD), pointing, InstrumentOptions.ideal(**switches)
    )


def raw_of(electrons, number=CCD, **switches):
    options = InstrumentOptions.ideal(**switches)
    ccd = ccd_facts(number)
    signals = effects.amplifier_signals(electrons, ccd, options)
    return effects.assemble_raw(ccd, signals, options, RNG(5)).astype(float)


def data_of(raw, number=CCD):
    """Overscan-subtracted trimmed pixels in electrons, by hand."""
    out = np.empty((4096, 2048))
    for amp in ccd_facts(number).amps:
        x0, y0, nx, ny = amp.raw_box
        bx, by, bnx, bny = amp.overscan_box
        level = np.median(raw[by : by + bny, bx : bx + bnx])
        out[:, amp.box[0] : amp.box[0] + nx] = (raw[y0 : y0 + ny, x0 : x0 + nx] - level) * amp.gain
    return out


def test_flux_of_stars_on_the_image(sky):
    """Aperture sums of isolated stars on the noiseless image are the true fluxes."""
    scene, pointing = sky
    image, wcs, _ = expected(sky)
    magnitude = np.asarray(scene.stars["mag_r"])
    years = (pointing.head.mjd - scene.epoch) / 365.25
    dec = np.asarray(scene.stars["dec"]) + np.asarray(scene.stars["pm_dec"]) * years / 3.6e6
    ra = np.asarray(scene.stars["ra"]) + np.asarray(scene.stars["pm_ra"]) * years / 3.6e6 / np.cos(
        np.radians(dec)
    )
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    inside = (magnitude > 16) & (magnitude < 20) & (x > 60) & (x < 1980) & (y > 60) & (y < 4030)
    ratios = []
    for k in np.flatnonzero(inside)[:40]:
        i, j = round(x[k]), round(y[k])
        cut = image[j - 25 : j + 26, i - 25 : i + 26]
        truth = 10 ** (0.4 * (pointing.zero_point - magnitude[k]))
        ratios.append(cut.sum() / truth)
    # Outside 25 pixels a Moffat of beta 3 and FWHM 0.87 arcsec has 0.04 % of its light.
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1.0, abs=0.006)


def test_zero_point_and_sky_are_consistent(sky):
    _, pointing = sky
    assert pointing.njy_per_electron == pytest.approx(
        3631e9 * 10 ** (-0.4 * pointing.zero_point), rel=1e-12
    )
    image, _, record = expected(sky, sky=True)
    assert np.median(image) == pytest.approx(record["sky_electrons"], rel=0.01)
    tilted, _, _ = expected(sky, sky=True, sky_gradient=True)
    assert not np.allclose(tilted, image, rtol=1e-5)


def test_shot_noise_has_the_moments_of_poisson():
    for mean in (3.0, 30.0, 3000.0):
        image = np.full((1000, 1000), mean, np.float32)
        effects.kernels.add_shot_noise(image, RNG(1).standard_normal(image.shape, np.float32))
        # 1e6 pixels: sem of the mean sqrt(mean) / 1000, of the variance mean * 0.0014.
        assert image.mean(dtype=float) == pytest.approx(mean, abs=5e-3 * np.sqrt(mean))
        assert image.var(dtype=float) == pytest.approx(mean, rel=0.02 if mean > 10 else 0.06)
        skew = np.mean(((image - mean) / np.sqrt(mean)) ** 3, dtype=float)
        assert skew == pytest.approx(1 / np.sqrt(mean), abs=0.06)


def test_gain_bias_and_read_noise():
    blank = np.zeros((4096, 2048), np.float32)
    clean = raw_of(blank)
    assert set(np.unique(clean)) == {2000.0, 2150.0}
    noisy = data_of(raw_of(blank, gain=True, read_noise=True))
    for amp in ccd_facts(CCD).amps:
        part = noisy[:, amp.box[0] : amp.box[0] + 1024]
        # Rounding to integers adds gain^2 / 12.
        assert part.std() == pytest.approx(np.hypot(amp.read_noise, amp.gain / 12**0.5), rel=0.01)
    structured = raw_of(blank, bias=True)
    assert structured[:, 200:1000].mean(axis=0).std() > 0.3
    bright = data_of(raw_of(blank + 40000, gain=True))
    assert bright.mean() == pytest.approx(40000, rel=2e-4)


def test_raw_sections_hold_the_right_pixels():
    for number in (CCD, 28):
        electrons = np.zeros((4096, 2048), np.float32)
        electrons[10, 5], electrons[4000, 2040] = 40000, 80000
        found = data_of(raw_of(electrons, number, gain=True), number)
        assert found[10, 5] == pytest.approx(40000, abs=5)
        assert found[4000, 2040] == pytest.approx(80000, abs=5)
        assert (found > 1000).sum() == 2


def test_nonlinearity_is_undone_by_the_published_table():
    electrons = np.tile(np.linspace(0, 150000, 2048, dtype=np.float32), (4096, 1))
    ccd = ccd_facts(CCD)
    options = InstrumentOptions.ideal(nonlinearity=True, gain=True)
    signals = effects.amplifier_signals(electrons, ccd, options)
    for k, (amp, measured) in enumerate(zip(ccd.amps, signals, strict=True)):
        table = linearity_correction(CCD, k)
        row = measured[0].astype(float)
        linear = row + np.interp(row, np.arange(65536.0), table)
        truth = electrons[0, amp.box[0] : amp.box[0] + 1024] / amp.gain
        np.testing.assert_allclose(linear, truth, atol=0.05)  # float32 at 4e4 ADU
        assert np.abs(row - truth).max() > 20


def test_crosstalk_mirrors_the_other_amplifier():
    signals = {n: (np.zeros((4096, 1024), np.float32),) * 2 for n in (25,)}
    source = np.zeros((4096, 1024), np.float32)
    source[100, 30] = 20000
    signals[25] = (source, np.zeros_like(source))
    _, victim = effects.with_crosstalk(25, signals)
    term = next(t for t in crosstalk_terms()[(25, "B")] if t.source_amp == "A" and t.source == 25)
    assert victim[100, 1023 - 30] == pytest.approx(20000 * term.coefficient, rel=1e-5)
    assert np.count_nonzero(victim) == 1
    assert term.coefficient == pytest.approx(1.34e-4)  # first line of the CTIO table


def test_saturation_bleeds_along_the_column_and_keeps_the_charge():
    image = np.zeros((200, 20), np.float32)
    image[100, 10] = 55_000
    full = effects.kernels.bleed(image, np.full(20, 10_000.0))
    assert image.sum() == pytest.approx(55_000)
    assert image.max() == 10_000
    assert (image[:, 10] > 0).sum() == 7  # 5.5 wells, half up and half down
    assert full == 5
    assert image[:, [9, 11]].sum() == 0
    # Charge leaves at the end of the column.
    image[:] = 0
    image[0, 3] = 25_000
    effects.kernels.bleed(image, np.full(20, 10_000.0))
    assert image.sum() == pytest.approx(17_500)


def test_full_wells_read_above_the_saturation_of_the_header():
    options = InstrumentOptions.ideal(saturation=True, gain=True, nonlinearity=True)
    ccd = ccd_facts(CCD)
    image = np.full((4096, 2048), 3e5, np.float32)
    image, record = effects.detect_charge(image, ccd, options, RNG(1), exposure_time=1.0)
    assert record["n_saturated"] == image.size
    for amp, signal in zip(ccd.amps, effects.amplifier_signals(image, ccd, options), strict=True):
        assert signal.min() > amp.saturation
        assert signal.max() < 1.1 * amp.saturation


def test_brighter_fatter_widens_bright_stars_and_lowers_the_noise_of_flats():
    j, i = np.mgrid[-20:21, -20:21]
    star = np.exp(-0.5 * (i**2 + j**2) / 1.5**2)
    width = {}
    for peak in (1e2, 1e5):
        image = (peak * star).astype(np.float32)
        out = np.empty_like(image)
        effects.kernels.brighter_fatter(image, effects.brighter_fatter_kernel(), out)
        assert out.sum(dtype=float) == pytest.approx(image.sum(dtype=float), rel=1e-6)
        width[peak] = np.sqrt((out * i**2).sum() / out.sum())
    growth = width[1e5] / width[1e2] - 1
    # d<x^2> = 1/2 int Q K*Q: about 1 % of the width at 1e5 electrons, as seen on DECam.
    assert 0.003 < growth < 0.03
    flat = np.full((500, 500), 80000, np.float32)
    effects.kernels.add_shot_noise(flat, RNG(2).standard_normal(flat.shape, np.float32))
    out = np.empty_like(flat)
    effects.kernels.brighter_fatter(flat, effects.brighter_fatter_kernel(), out)
    # No edge effects, and the variance falls as it does on DECam (some per cent).
    assert np.abs(out[:, :3].mean() / 80000 - 1) < 0.002
    assert 0.7 < out.var() / flat.var() < 0.99


def test_cosmic_rays_satellites_fringes_and_flat(sky):
    scene, pointing = sky
    blank = np.zeros((4096, 2048), np.float32)
    options = InstrumentOptions.ideal(cosmic_rays=True)
    hit, record = effects.detect_charge(blank, ccd_facts(CCD), options, RNG(3), exposure_time=600.0)
    expected_hits = 1.6 * 18.87 * 10
    assert record["n_cosmic_rays"] == pytest.approx(expected_hits, abs=4 * expected_hits**0.5)
    assert 1e-4 < (hit > 100).mean() < 5e-3
    base, _, _ = expected(sky)
    many = InstrumentOptions.ideal(satellites=True, satellite_rate=60.0)
    trails, _, info = camera.expected_image(scene, ccd_facts(CCD), pointing, many)
    assert info["n_satellites"] >= 1
    assert (trails >= base).all()
    assert (trails > base + 10).sum() > 2000
    flat, _, _ = expected(sky, flat=True)
    ratio = flat / np.maximum(base, 1e-3)
    assert not np.allclose(ratio[base > 1], 1, atol=1e-3)
    z = replace(pointing, head=replace(pointing.head, band="z"))
    fringed, _, _ = camera.expected_image(
        scene, ccd_facts(CCD), z, InstrumentOptions.ideal(sky=True, fringes=True)
    )
    plain, _, info = camera.expected_image(
        scene, ccd_facts(CCD), z, InstrumentOptions.ideal(sky=True)
    )
    assert 0.001 < (fringed - plain).std() / info["sky_electrons"] < 0.02
    same, _, _ = expected(sky, fringes=True)
    np.testing.assert_array_equal(same, base)  # no fringes in r


def test_bad_columns_are_those_of_the_real_ccd():
    signals = [np.full((4096, 1024), 1000, np.float32) for _ in range(2)]
    effects._break_pixels(signals, ccd_facts(CCD))
    changed = sum(int((s != 1000).sum()) for s in signals)
    boxes = defect_boxes(CCD)
    narrow = boxes[np.minimum(boxes[:, 2], boxes[:, 3]) <= 3]
    assert 0 < changed <= (narrow[:, 2] * narrow[:, 3]).sum()


def test_varying_psf_distortion_and_pointing_have_their_switches():
    off = InstrumentOptions.ideal()
    options = survey_preset("tiny", effects=off)
    pointing = plan_pointings(options)[0]
    assert set(pointing.psf.g1) == {0.0}
    assert pointing.psf.fwhm[1:] == (0.0,) * 5
    assert pointing.optics.ra == pytest.approx(pointing.head.ra, abs=1e-9)
    assert not pointing.optics.distortion
    on = plan_pointings(survey_preset("tiny"))[0]
    assert on.optics.ra != on.head.ra
    assert on.optics.distortion
    assert any(on.psf.g1)


def test_exposure_on_disk(sky, tmp_path):
    scene, pointing = sky
    path = tmp_path / "raws" / "DECam_00830001.fits.fz"
    records = simulate_exposure(scene, pointing, (CCD, 28), InstrumentOptions(), path)
    assert [r["detector"] for r in records] == [CCD, 28]
    with fits.open(path) as hdus:
        assert [h.name for h in hdus[1:]] == ["N4", "S4"]
        assert hdus[1].shape == (4146, 2160)
        assert hdus[1].data.dtype == np.uint16
        assert hdus[0].header["NEXTEND"] == 2
        believed = FitsWcs(hdus[1].header)
        raw = hdus[1].data.astype(float)
    true = FitsWcs(fits.Header.fromstring(records[0]["wcs"]))
    got, want = believed.pixel_to_sky(x=[1000], y=[2000]), true.pixel_to_sky(x=[1000], y=[2000])
    offset = np.hypot(got[0][0] - want[0][0], got[1][0] - want[1][0]) * 3600
    assert 0.3 < offset < 30  # the telescope's pointing error
    level = data_of(raw)
    assert np.median(level) == pytest.approx(records[0]["sky_electrons"], rel=0.15)
    again = tmp_path / "again.fits"
    simulate_exposure(scene, pointing, (CCD, 28), InstrumentOptions(), again)
    with fits.open(again) as hdus:
        np.testing.assert_array_equal(hdus[1].data, raw)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "DECam_00830001.fits.fz", "again.fits",
    ]  # fmt: skip


def test_zero_and_flat_frames(tmp_path):
    head = ExposureHead(1, "zero", "r", 0.0, 58534.9, 100.0, -30.0, "ZERO")
    zero, flat = tmp_path / "zero.fits", tmp_path / "flat.fits"
    simulate_zero(head, (CCD,), InstrumentOptions(), zero, seed=3)
    with fits.open(zero) as hdus:
        data = data_of(hdus[1].data.astype(float))
    assert abs(np.median(data)) < 15
    head = replace(head, kind="dome flat", exposure_time=10.0)
    simulate_flat(head, (CCD,), InstrumentOptions(), flat, seed=4, level=50000)
    with fits.open(flat) as hdus:
        data = data_of(hdus[1].data.astype(float))
    response = effects.response(CCD, "r", InstrumentOptions().camera_seed)
    ratio = np.median(data / response) / 50000
    assert ratio == pytest.approx(1.0, abs=0.02)  # non-linearity, not corrected here
    correlation = np.corrcoef(
        (data / data.mean()).ravel()[::97], response.ravel()[::97].astype(float)
    )[0, 1]
    # Pixel response 0.4 %, photon noise 0.45 %, both as gradients and structure.
    assert correlation > 0.2


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.fits"
    path.write_bytes(b"old")

    def half(self, name, **kwargs):
        name.write_bytes(b"SIMPLE  =")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", half)
    with pytest.raises(OSError, match="No space left"):
        camera.write_whole(fits.HDUList([fits.PrimaryHDU()]), path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.fits"]
    assert path.read_bytes() == b"old"


def test_options_are_checked():
    with pytest.raises(ConfigError, match="psf must be one of moffat, kolmogorov; got 'airy'"):
        InstrumentOptions(psf="airy")
    with pytest.raises(ConfigError, match="cosmic_ray_rate must be"):
        InstrumentOptions(cosmic_ray_rate=-1)
    ideal = InstrumentOptions.ideal(noise=True)
    assert ideal.noise
    assert not ideal.bias
    assert not ideal.cosmic_rays
