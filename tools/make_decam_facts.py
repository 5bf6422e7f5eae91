"""Pack the public facts of DECam into the small tables of skymill.instruments.decam.

Usage: python tools/make_decam_facts.py FOLDER, where FOLDER holds amplifiers.ecsv,
DECam_xtalk_20130606.txt, decam_linearity_knots.npz and defects/<detector>/<epoch>.ecsv, as they
are published in lsst/obs_decam and lsst/obs_decam_data.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.table import Table

OUT = Path(__file__).parents[1] / "src/skymill/instruments/decam/tables"


def pack_crosstalk(source: Path) -> None:
    """Coefficients as a table of victim and source CCD numbers and amplifiers."""
    rows = []
    for line in source.read_text().splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        victim, origin = words[0].removeprefix("ccd"), words[1].removeprefix("ccd")
        rows.append((int(victim[:-1]), victim[-1], int(origin[:-1]), origin[-1],
                     *(float(w) for w in words[2:8])))  # fmt: skip
    names = ("victim", "victim_amp", "source", "source_amp", "coefficient", "coefficient_err",
             "onset", "p0", "p1", "p2")  # fmt: skip
    table = Table(rows=rows, names=names)
    table.meta["source"] = "CTIO xtalk_20130606.txt, as in lsst/obs_decam"
    table.write(OUT / "crosstalk.ecsv", overwrite=True)


def pack_defects(folder: Path, numbers: dict[str, int]) -> None:
    """Every defect box of every epoch in one compressed file."""
    columns: dict[str, list] = {k: [] for k in ("detector", "epoch", "x0", "y0", "nx", "ny")}
    for path in sorted(folder.glob("*/*.ecsv")):
        table = Table.read(path, format="ascii.ecsv")
        epoch = int(path.stem.upper().replace("T", ""))
        n = len(table)
        columns["detector"] += [numbers[path.parent.name.upper()]] * n
        columns["epoch"] += [epoch] * n
        for key, name in (("x0", "x0"), ("y0", "y0"), ("nx", "width"), ("ny", "height")):
            columns[key] += [int(v) for v in table[name]]
        if n == 0:  # An epoch without defects still ends the epoch before.
            columns["detector"].append(numbers[path.parent.name.upper()])
            columns["epoch"].append(epoch)
            for key in ("x0", "y0", "nx", "ny"):
                columns[key].append(0)
    kinds = {"detector": np.int16, "epoch": np.int64}
    np.savez_compressed(
        OUT / "defects.npz", **{k: np.array(v, kinds.get(k, np.int16)) for k, v in columns.items()}
    )


def main(folder: Path) -> None:
    """Write every table."""
    amplifiers = Table.read(folder / "amplifiers.ecsv", format="ascii.ecsv")
    amplifiers.meta["source"] = "lsst/obs_decam: segmentfile.txt, chipcenters.txt"
    amplifiers.write(OUT / "amplifiers.ecsv", overwrite=True)
    numbers = {str(r["detector_name"]): int(r["ccdnum"]) for r in amplifiers}
    pack_crosstalk(folder / "DECam_xtalk_20130606.txt")
    knots = np.load(folder / "decam_linearity_knots.npz")
    np.savez_compressed(
        OUT / "linearity.npz",
        adu=knots["adu"],
        detector=np.array([numbers[str(d)] for d in knots["detector"]], np.int16),
        amp=knots["amp"],
        delta=knots["delta"],
        max_valid_adu=knots["max_valid_adu"],
    )
    pack_defects(folder / "defects", numbers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
