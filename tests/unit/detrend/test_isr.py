"""Each correction of the ISR against a few lines of numpy, and the noise end to end."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.images import Box, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.detrend.amplifiers import AmplifierSections
from skymill.detrend.crosstalk import CrosstalkSource, CrosstalkTerm, crosstalk_signal
from skymill.detrend.isr import IsrCalibrations, IsrOptions, detrend_ccd
from skymill.detrend.linearity import Linearity
from skymill.detrend.overscan import OverscanOptions, subtract_overscan

NY, NX, N_OVER = 96, 64, 50


def make_amplifiers(gain_a=4.0, gain_b=3.5, noise=6.0, saturation=45000.0, ny=NY, nx=NX):
    """Two amplifiers as in a southern DECam CCD: [overscan B | data B | data A | overscan A]."""
    half = nx // 2
    return (
        AmplifierSections(
            name="A", data_box=Box(x0=N_OVER + half, y0=5, x1=N_OVER + nx, y1=5 + ny),
            overscan_box=Box(x0=N_OVER + nx, y0=5, x1=2 * N_OVER + nx, y1=5 + ny),
            box=Box(x0=half, y0=0, x1=nx, y1=ny), gain=gain_a, read_noise=noise,
            saturation=saturation, readout_corner="UR",
        ),
        AmplifierSections(
            name="B", data_box=Box(x0=N_OVER, y0=5, x1=N_OVER + half, y1=5 + ny),
            overscan_box=Box(x0=0, y0=5, x1=N_OVER, y1=5 + ny),
            box=Box(x0=0, y0=0, x1=half, y1=ny), gain=gain_b, read_noise=noise,
            saturation=saturation, readout_corner="UL",
        ),
    )  # fmt: skip


def make_raw(adu, rng, level=1500.0, noise_adu=1.5):
    """A raw frame of uint16 around a trimmed image in ADU."""
    ny, nx = adu.shape
    raw = rng.normal(level, noise_adu, (ny + 5, nx + 2 * N_OVER))
    raw[5:, N_OVER : N_OVER + nx] += adu
    return np.clip(np.rint(raw), 0, 65535).astype(np.uint16)


def planes(value, variance=0.0, unit="adu", shape=(NY, NX)):
    return PixelPlanes(
        np.broadcast_to(np.float32(value), shape).copy(),
        np.full(shape, variance, np.float32),
        np.zeros(shape, np.int32),
        unit=unit,
    )


QUIET = IsrOptions(num_edge_suspect=0, empirical_read_noise=False)


def test_overscan_is_the_grouped_median_of_each_row():
    rng = np.random.default_rng(1)
    amps = make_amplifiers()
    raw = make_raw(np.zeros((NY, NX)), rng)
    frame = subtract_overscan(raw, amps)
    rows = np.sort(raw[5:, :N_OVER].astype(float), axis=1)  # amplifier B
    expected = []
    for row in rows:
        m = row[(N_OVER - 1) // 2]
        expected.append(m - 0.5 + (N_OVER / 2 - np.sum(row < m)) / np.sum(row == m))
    np.testing.assert_allclose(frame.levels[1], expected, rtol=0, atol=1e-12)
    data = raw[5:, N_OVER : N_OVER + NX // 2] - np.asarray(expected)[:, None]
    # float32 of numbers around 1500
    np.testing.assert_allclose(frame.image[:, : NX // 2], data, rtol=0, atol=2e-4)


def test_overscan_mean_ignores_outliers():
    rng = np.random.default_rng(2)
    amps = make_amplifiers()
    raw = make_raw(np.zeros((NY, NX)), rng)
    clean = subtract_overscan(raw, amps, options=OverscanOptions(fit_type="MEAN_PER_ROW"))
    raw[:, 3] = 60000
    dirty = subtract_overscan(raw, amps, options=OverscanOptions(fit_type="MEAN_PER_ROW"))
    # The outlier leaves, and with the changed sigma at most two more pixels of 3 sigma (of 50).
    assert np.abs(clean.levels - dirty.levels).max() < 3 * 3 * 1.5 / 50


def test_read_noise_is_measured_with_its_digitisation():
    rng = np.random.default_rng(3)
    amps = make_amplifiers(ny=1000)
    raw = make_raw(np.zeros((1000, NX)), rng, noise_adu=1.5)
    frame = subtract_overscan(raw, amps)
    # 1000 x 49 degrees of freedom: 0.3 % standard deviation of the standard deviation
    np.testing.assert_allclose(frame.read_noise, np.sqrt(1.5**2 + 1 / 12), rtol=0.013)


def test_all_corrections_against_numpy():
    rng = np.random.default_rng(4)
    amps = make_amplifiers()
    raw = make_raw(rng.uniform(0, 20000, (NY, NX)), rng)
    bias = planes(rng.normal(0, 3, (NY, NX)), 0.2)
    flat = planes(rng.uniform(0.7, 1.3, (NY, NX)), 1e-5, unit="")
    knots = np.arange(0, 65536, 64.0)
    linearity = {
        "A": Linearity(knots, 1e-7 * knots**2, 15000.0),
        "B": Linearity(knots, -2e-7 * knots**2, 15000.0),
    }
    terms = [CrosstalkTerm("A", 7, "B", 1e-3), CrosstalkTerm("B", 7, "A", -5e-4)]
    result = detrend_ccd(
        raw, amps,
        calibrations=IsrCalibrations(bias=bias, flat=flat, linearity=linearity, crosstalk=terms),
        options=QUIET, detector=7, interpolate=False,
    )  # fmt: skip
    frame = subtract_overscan(raw, amps)
    adu = frame.image.astype(float)
    half = NX // 2
    signal = np.zeros_like(adu)
    signal[:, half:] = 1e-3 * adu[:, :half][:, ::-1]  # UL into UR: mirrored
    signal[:, :half] = -5e-4 * adu[:, half:][:, ::-1]
    adu -= signal
    adu -= bias.image
    suspect = adu > 15000.0
    expected = np.empty_like(adu)
    noise = np.empty_like(adu)
    for name, view, gain in (("A", np.s_[:, half:], 4.0), ("B", np.s_[:, :half], 3.5)):
        v = adu[view]
        e = (v + np.interp(v, knots, linearity[name].delta)) * gain
        f = flat.image[view].astype(float)
        expected[view] = e / f
        noise[view] = (np.maximum(e, 0) + 36.0 + gain**2 * 0.2) / f**2 + (e / f / f) ** 2 * 1e-5
    # float32 arithmetic on numbers up to 1e5
    np.testing.assert_allclose(result.planes.image, expected, rtol=3e-6, atol=3e-3)
    np.testing.assert_allclose(result.planes.variance, noise, rtol=1e-5)
    np.testing.assert_array_equal((result.planes.mask & int(MaskPlane.SUSPECT)) != 0, suspect)
    assert result.planes.unit == "electron"


def test_crosstalk_of_another_board_is_flipped_and_masked():
    rng = np.random.default_rng(5)
    ny, nx = 8, 6
    image = rng.uniform(0, 100, (ny, nx)).astype(np.float32)
    image[1, 2] = 50000.0
    box = Box(x0=0, y0=0, x1=nx, y1=ny)

    def amp(corner):
        return AmplifierSections(
            name="A", data_box=box, overscan_box=box, box=box, gain=1, read_noise=1,
            readout_corner=corner,
        )  # fmt: skip

    source = CrosstalkSource(image, [amp("LL")])
    term = [CrosstalkTerm("A", "N1", "A", 2e-3)]
    for corner, flip in (
        ("LL", image), ("LR", image[:, ::-1]), ("UR", image[::-1, ::-1]), ("UL", image[::-1]),
    ):  # fmt: skip
        victim = CrosstalkSource(np.zeros((ny, nx), np.float32), [amp(corner)])
        mask = np.zeros((ny, nx), np.int32)
        signal, missing = crosstalk_signal(term, {"N1": source}, victim=victim, mask=mask)
        np.testing.assert_array_equal(signal, np.float32(2e-3) * flip)
        np.testing.assert_array_equal(mask != 0, flip > 45000)
        assert missing == []
    signal, missing = crosstalk_signal(term, {}, victim=victim, mask=mask)
    assert missing == ["N1"]
    assert not signal.any()
    with pytest.raises(MissingInputError, match="N1"):
        crosstalk_signal(term, {}, victim=victim, mask=mask, allow_missing=False)


def test_crosstalk_from_a_callable_is_asked_once_per_ccd():
    asked = []
    rng = np.random.default_rng(6)
    amps = make_amplifiers()
    raw = make_raw(np.full((NY, NX), 500.0), rng)
    other = CrosstalkSource(np.full((NY, NX), 1000, np.float32), amps)

    def find(name):
        asked.append(name)
        return other

    terms = [CrosstalkTerm("A", 9, "A", 1e-2), CrosstalkTerm("B", 9, "A", 1e-2)]
    calibrations = IsrCalibrations(crosstalk=terms, crosstalk_sources=find)
    result = detrend_ccd(raw, amps, calibrations=calibrations, options=QUIET, detector=7)
    plain = detrend_ccd(raw, amps, options=QUIET)
    assert asked == [9]
    difference = plain.planes.image - result.planes.image
    np.testing.assert_allclose(difference[:, NX // 2 :], 10.0 * 4.0, atol=1e-3)


def test_saturation_grows_and_trails_widen():
    rng = np.random.default_rng(7)
    adu = np.full((NY, NX), 100.0)
    adu[20, 30] = 60000
    adu[50, 10:20] = 60000
    result = detrend_ccd(make_raw(adu, rng), make_amplifiers(), options=QUIET, interpolate=False)
    expected = np.zeros((NY, NX), bool)
    expected[19:22, 29:32] = True
    expected[49:52, 5:25] = True
    np.testing.assert_array_equal((result.planes.mask & int(MaskPlane.SAT)) != 0, expected)
    assert result.n_saturated == expected.sum()


def test_defects_edges_and_low_flat():
    rng = np.random.default_rng(8)
    flat = planes(1.0, unit="")
    flat.image[5, 5] = 0.0
    flat.image[6, 6] = np.nan
    defects = Table({"x0": [10, 60], "y0": [0, 90], "width": [1, 10], "height": [96, 10]})
    result = detrend_ccd(
        make_raw(np.full((NY, NX), 100.0), rng), make_amplifiers(),
        calibrations=IsrCalibrations(flat=flat, defects=defects),
        options=IsrOptions(num_edge_suspect=3),
    )  # fmt: skip
    mask = result.planes.mask
    bad = np.zeros((NY, NX), bool)
    bad[:, 10] = True
    bad[90:, 60:] = True
    bad[5, 5] = bad[6, 6] = True
    np.testing.assert_array_equal((mask & int(MaskPlane.BAD)) != 0, bad)
    assert mask[5, 5] & int(MaskPlane.FLAT_LOW)
    edge = np.ones((NY, NX), bool)
    edge[3:-3, 3:-3] = False
    np.testing.assert_array_equal((mask & int(MaskPlane.SUSPECT)) != 0, edge)
    assert np.isfinite(result.planes.image).all()
    assert (result.planes.variance > 0).all()
    assert result.n_interpolated == bad.sum()
    with pytest.raises(DataError, match="no column height"):
        detrend_ccd(
            make_raw(np.zeros((NY, NX)), rng), make_amplifiers(),
            calibrations=IsrCalibrations(defects=defects["x0", "y0", "width"]),
        )  # fmt: skip


def test_photon_transfer_and_pulls():
    """Variance against mean is the prediction, and pulls have width 1, at every level."""
    rng = np.random.default_rng(9)
    ny, nx = 512, 256
    amps = make_amplifiers(ny=ny, nx=nx)
    gain = np.where(np.arange(nx) < nx // 2, 3.5, 4.0)
    field = np.broadcast_to(1 + 0.2 * np.cos(np.arange(nx) / 40.0), (ny, nx))
    flat = planes(field, unit="", shape=(ny, nx))
    for level in (0.0, 200.0, 2000.0, 60000.0):
        electrons = rng.poisson(level * field, (ny, nx))
        raw = make_raw(electrons / gain, rng, noise_adu=6.0 / gain.mean())
        result = detrend_ccd(
            raw, amps, calibrations=IsrCalibrations(flat=flat),
            options=IsrOptions(num_edge_suspect=0), interpolate=False,
        )  # fmt: skip
        pixels, variance = result.planes.image.astype(float), result.planes.variance
        n = pixels.size
        # The row level is common to a row: its error (1.25 sigma / sqrt 50) adds to the mean only.
        assert abs(pixels.mean() - level) < 5 * np.sqrt(pixels.var() / n) + 0.2
        # The truth: Poisson and Gaussian noise, digitisation; 1.8 % is the row level's own noise.
        truth = (level * field + 36.0 * (gain / gain.mean()) ** 2 + gain**2 / 12) / field**2
        residual = (pixels - level) ** 2 / truth
        assert abs(residual.mean() - 1) < 5 * np.sqrt(2 / n) + 0.03
        pulls = (pixels - level) / np.sqrt(variance)
        # At zero the photon term max(e, 0) of the noise itself adds up to 7 % to the variance.
        assert abs(pulls.std() - 1) < (0.06 if level == 0 else 0.02)


def test_missing_noise_falls_back_to_the_amplifier():
    amps = make_amplifiers(noise=7.0)
    raw = np.full((NY + 5, NX + 2 * N_OVER), 1000, np.uint16)
    result = detrend_ccd(raw, amps)
    assert result.read_noise == {"A": 7.0, "B": 7.0}
    assert not result.planes.image.any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">u2"])
def test_raw_types_agree(dtype):
    rng = np.random.default_rng(10)
    raw = make_raw(np.full((NY, NX), 300.0), rng)
    a = detrend_ccd(raw, make_amplifiers(), options=QUIET).planes.image
    b = detrend_ccd(raw.astype(dtype), make_amplifiers(), options=QUIET).planes.image
    # The median of floats is not spread over the unit interval.
    np.testing.assert_allclose(a, b, atol=2.5 if dtype is np.float32 else 0)


def test_bad_input_has_a_sentence():
    amps = make_amplifiers()
    raw = np.zeros((NY + 5, NX + 2 * N_OVER), np.uint16)
    with pytest.raises(DataError, match="truncated"):
        detrend_ccd(raw[:-10], amps)
    with pytest.raises(DataError, match="2 axes"):
        detrend_ccd(raw[None], amps)
    with pytest.raises(DataError, match="the flat has shape"):
        detrend_ccd(raw, amps, calibrations=IsrCalibrations(flat=planes(1, shape=(3, 3))))
    with pytest.raises(DataError, match="gain of amplifier A"):
        detrend_ccd(raw, make_amplifiers(gain_a=0.0))
    with pytest.raises(ConfigError, match="flat_low"):
        IsrOptions(flat_low=2.0)
    with pytest.raises(ConfigError, match="fit_type"):
        IsrOptions(overscan_fit_type="SPLINE")
    with pytest.raises(DataError, match="ascend"):
        Linearity(np.array([0.0, 0.0]), np.array([0.0, 1.0]))
