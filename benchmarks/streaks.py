"""Trails on simulated CCDs: false alarms, completeness, what is lost, CPU seconds."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np

from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane, is_set
from skymill.detrend.streaks import find_streaks, mask_streaks
from skymill.measure.background import BackgroundOptions, estimate_background
from skymill.sims.camera import expected_image
from skymill.sims.detector import ccd_facts
from skymill.sims.scene import make_scene
from skymill.sims.survey import plan_pointings, survey_preset

#: Simulated fields; each has two CCDs in one exposure of three.
N_FIELDS = int(os.environ.get("SKYMILL_STREAK_FIELDS", "12"))
PEAKS = (0.15, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 30.0)
WIDTHS = (1.7, 4.0, 10.0)
PER_FRAME = 3


def make_frames(seed):
    """Noisy CCDs of one field in three bands, without trails; stars over 150000 e are SAT."""
    survey = survey_preset("small", seed=seed, ra=25.0 * seed % 360.0, dec=-20.0, visits=(1, 1, 1))
    survey = dataclasses.replace(
        survey, effects=dataclasses.replace(survey.effects, satellites=False, flat=False)
    )
    scene = make_scene(survey.scene_options(), np.random.default_rng([seed, 1]))
    for pointing in plan_pointings(survey):
        for number in survey.ccds:
            rng = np.random.default_rng([seed, number, pointing.head.number])
            mean, _, _ = expected_image(scene, ccd_facts(number), pointing, survey.effects)
            variance = mean + np.float32(100.0)
            image = mean + np.sqrt(variance) * rng.standard_normal(mean.shape, dtype=np.float32)
            mask = np.where(mean > 150_000, np.int32(int(MaskPlane.SAT)), np.int32(0))
            planes = PixelPlanes(image, variance, mask.astype(np.int32), unit="electron")
            level = estimate_background(image, mask, options=BackgroundOptions(box=256))
            planes.image -= level.evaluate()
            yield planes


def with_trail(planes, rng, peak, width):
    """A copy with a trail, and the distance of each pixel from it; random and not along an axis."""
    ny, nx = planes.shape
    x, y = rng.uniform(0.1 * nx, 0.9 * nx), rng.uniform(0.1 * ny, 0.9 * ny)
    angle = np.radians(rng.choice([0, 90, 180, 270]) + rng.uniform(1.0, 89.0))
    yy, xx = np.indices(planes.shape, np.float32)
    d = np.abs((xx - np.float32(x)) * np.float32(np.sin(angle))
               - (yy - np.float32(y)) * np.float32(np.cos(angle)))  # fmt: skip
    height = peak * float(np.sqrt(np.median(planes.variance)))
    light = np.float32(height) * np.exp(np.float32(-0.5) * (d / np.float32(width)) ** 2)
    out = PixelPlanes(
        planes.image + light + np.sqrt(light) * rng.standard_normal(d.shape, dtype=np.float32),
        planes.variance + light, planes.mask.copy(), planes.unit,
    )  # fmt: skip
    return out, d


def main():
    """Print the figures of docs/steps/streaks.md."""
    rng = np.random.default_rng(1)
    n_frames, false_alarms, seconds, with_one = 0, [], [], []
    found = {(p, w): [] for p in PEAKS for w in WIDTHS}
    left, stray, area = [], [], []
    cells = list(found)
    for seed in range(1, N_FIELDS + 1):
        for planes in make_frames(seed):
            start = time.process_time()
            false = find_streaks(planes)
            seconds.append(time.process_time() - start)
            n_frames += 1
            false_alarms += [(seed, one) for one in false]
            for k in range(PER_FRAME):
                peak, width = cells[(PER_FRAME * n_frames + k) % len(cells)]
                trailed, d = with_trail(planes, rng, peak, width)
                start = time.process_time()
                mask_streaks(trailed)
                with_one.append(time.process_time() - start)
                masked = is_set(trailed.mask, MaskPlane.STREAK)
                seen = bool(masked[d < 0.5 * width].mean() > 0.95)
                found[peak, width].append(seen)
                if seen and not false:
                    light = peak * np.exp(-0.5 * (d / width) ** 2)
                    left.append(float(light[~masked].max()))
                    stray.append(float(masked[d > 5.0 * width + 8.0].mean()))
                    area.append(float(masked.mean()))
    print(f"{n_frames} CCDs without trails: {len(false_alarms)} false alarms")
    for seed, one in false_alarms:
        print("  field", seed, one)
    print("trails found of those put in (peak over the noise of a pixel; sigma of the width):")
    for width in WIDTHS:
        words = [f"{p}: {sum(found[p, width])}/{len(found[p, width])}" for p in PEAKS]
        print(f"  {width} pixel: " + ", ".join(words))
    low, high = np.quantile(left, [0.5, 0.9])
    print(f"light outside of the mask, of the noise of a pixel: median {low:.3f}, 90 % below "
          f"{high:.3f}, largest {max(left):.3f}")  # fmt: skip
    print(f"masked far from a trail: largest share of a CCD {max(stray):.5f}; masked by a trail: "
          f"median {np.median(area):.4f} of a CCD")  # fmt: skip
    print(f"CPU: median {np.median(seconds[1:]):.2f} s without a trail, "
          f"{np.median(with_one):.2f} s with one, largest {max(with_one[1:]):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
