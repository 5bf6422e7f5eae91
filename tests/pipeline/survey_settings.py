"""The cluster.yaml of the simulated survey that tests share."""

from __future__ import annotations

from pathlib import Path

import yaml

SETTINGS = {
    "name": "T",
    "centre": [150.0, 2.2],
    "redshift": 0.2,
    "bands": ["r"],
    "photometry": {"r": "ps1"},
    "paths": {"raws": "raws", "refcats": "refcats", "zeros": "calib", "flats": "calib"},
    "cuts": {"min_detectors": 1, "lensing_fwhm_pixel": 6.4},
    "skymap": {"radius_deg": 0.05, "tract_overlap_deg": 0.0, "patch_inner": 1400},
    "sites": {"local": {"workers": 1}},
}


def write_settings(folder: Path, **changes) -> Path:
    """A cluster.yaml for the survey."""
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}, sort_keys=False))
    return path
