"""Make the small tables of facts in ``src/skymill/sims/tables`` from their public sources.

    python tools/make_simulation_tables.py DESC_BPZ_SED_FOLDER PS1.fits GAIA.fits

``galaxy_colours.npz``: AB colours of the CWW + Kinney templates of BPZ (Coleman, Wu & Weedman
1980; Kinney et al. 1996; Benitez et al. 2004; files of desc-bpz, MIT) through the DECam curves of
speclite, by template and redshift.  ``stellar_locus.ecsv`` and ``star_counts.npz``: medians and
counts of the stars that Gaia DR2 and Pan-STARRS1 have in common in the COSMOS field.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from scipy.spatial import cKDTree
from speclite import filters

OUT = Path(__file__).parents[1] / "src/skymill/sims/tables"
TEMPLATES = ("El", "Sbc", "Scd", "Im", "SB3", "SB2")
BANDS = {"u": "u", "g": "g", "r": "r", "i": "i", "z": "z", "Y": "Y"}


def galaxy_colours(folder: Path) -> None:
    """Tabulate the colours of the templates."""
    redshifts = np.arange(0.0, 3.001, 0.01)
    names = [f"decam2014-{b}" for b in BANDS]
    curves = filters.load_filters(*names)
    out = np.empty((len(TEMPLATES), redshifts.size, len(names)), np.float32)
    for t, name in enumerate(TEMPLATES):
        wave, flux = np.loadtxt(folder / f"{name}_B2004a.sed", unpack=True)
        grid = np.arange(700.0, 25000.0, 2.0)
        rest = np.interp(grid, wave, flux, left=0.0, right=0.0)
        fine = np.arange(2800.0, 11500.0, 2.0)
        for k, z in enumerate(redshifts):
            spectrum = np.interp(fine / (1 + z), grid, rest)
            mags = curves.get_ab_magnitudes(
                np.maximum(spectrum, 1e-30) * u.erg / (u.s * u.cm**2 * u.AA), fine * u.AA
            )
            out[t, k] = [float(mags[n][0]) for n in names]
    out -= out[:, :, 3:4]
    np.savez_compressed(
        OUT / "galaxy_colours.npz",
        redshift=redshifts.astype(np.float32),
        template=np.array(TEMPLATES),
        band=np.array(list(BANDS)),
        minus_i=out,
    )


def stars(ps1_file: str, gaia_file: str) -> None:
    """Tabulate the stellar locus and the counts of stars."""
    ps1, gaia = Table.read(ps1_file), Table.read(gaia_file)
    cos = np.cos(np.radians(2.2))
    tree = cKDTree(np.c_[np.asarray(ps1["ra"]) * cos, np.asarray(ps1["dec"])])
    sep, index = tree.query(np.c_[np.asarray(gaia["ra"]) * cos, np.asarray(gaia["dec"])])
    hit = sep < 0.7 / 3600
    gaia, ps1 = gaia[hit], ps1[index[hit]]
    m = {}
    for b in "grizy":
        flux = np.asarray(ps1[f"flux_{b}"], float)
        m[b] = 31.4 - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
    big_g = np.asarray(gaia["g"], float)
    gi = m["g"] - m["i"]
    ok = np.isfinite(sum(m.values())) & np.isfinite(big_g) & (m["i"] > 14.5)
    edges = np.arange(0.15, 3.46, 0.1)
    rows = []
    for lo, hi in itertools.pairwise(edges):
        s = ok & (gi >= lo) & (gi < hi) & (m["i"] < 19.5)
        if s.sum() < 20:
            continue
        med = [np.median((m[a] - m[b])[s]) for a, b in ("gr", "ri", "iz", "zy")]
        scatter = 1.4826 * np.median(np.abs((m["g"] - m["r"])[s] - med[0]))
        rows.append([0.5 * (lo + hi), *med, np.median((big_g - m["r"])[s]), scatter, s.sum()])
    table = Table(
        rows=rows, names=["g_i", "g_r", "r_i", "i_z", "z_y", "gaia_g_r", "g_r_scatter", "count"]
    )
    for name in table.colnames[:-1]:
        table[name] = np.round(table[name], 4)
    table.meta["comment"] = "Medians of Gaia DR2 x Pan-STARRS1 stars in COSMOS; PS1 AB, Gaia Vega."
    table.write(OUT / "stellar_locus.ecsv", overwrite=True)
    area = np.ptp(np.asarray(gaia["ra"])) * cos * np.ptp(np.asarray(gaia["dec"]))
    i_edges = np.arange(13.0, 20.01, 0.5)
    counts, _, _ = np.histogram2d(
        np.clip(m["i"][np.isfinite(gi)], 13.01, None), gi[np.isfinite(gi)], bins=(i_edges, edges)
    )
    pm = np.hypot(np.asarray(gaia["pmra_masyr"], float), np.asarray(gaia["pmdec_masyr"], float))
    s = ok & (big_g > 17) & (big_g < 19) & (pm > 0)
    np.savez_compressed(
        OUT / "star_counts.npz",
        i_edges=i_edges,
        g_i_edges=edges,
        per_deg2=(counts / area).astype(np.float32),
        proper_motion_quantiles=np.quantile(pm[s], np.linspace(0.0, 0.995, 41)).astype(np.float32),
    )
    print(table, area, counts.sum() / area, len(gaia) / area)


if __name__ == "__main__":
    galaxy_colours(Path(sys.argv[1]))
    stars(sys.argv[2], sys.argv[3])
