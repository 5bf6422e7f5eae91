"""Grades of a release's catalogues against the truth of a simulated patch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from skymill.sims.community import read_patch_truth

#: Ranges of the signal-to-noise ratio that are reported.
_RANGES = ((8, 20), (20, 50), (50, np.inf), (8, np.inf))
_POINT = ("PSF", "DUP")


@dataclass(frozen=True)
class Grades:
    """What the catalogues of a patch are worth.

    Parameters
    ----------
    truth, found : Table
        Rows of the truth and, row by row, of the catalogues (where ``truth["matched"]``).
    """

    truth: Table
    found: Table

    def select(self, *, snr=0.0, isolated=3.0, kind=None, upper=np.inf):
        """Rows of the truth with a best signal-to-noise ratio in a range."""
        t = self.truth
        keep = (t["best_snr"] >= snr) & (t["best_snr"] < upper)
        if isolated:
            keep &= (t["nearest"] > isolated) & (t["crowding"] < 0.2)
        if kind == "star":
            keep &= t["kind"] == "PSF"
        elif kind == "galaxy":
            keep &= t["kind"] != "PSF"
        return np.asarray(keep & t["clean"])

    def completeness(self, snr, upper=np.inf, **more):
        rows = self.select(snr=snr, upper=upper, **more)
        return float(self.truth["matched"][rows].mean()), int(rows.sum())

    def pulls(self, band, kind, snr=8.0, upper=np.inf, neighbours=2.0, least=0.0, **more):
        """(flux - truth) / error of the objects that are found with the right kind.

        least, neighbours: light of the neighbours under an object, in units of its error: a part
        of what models of other objects lack is light of this one, and no error tells of it.
        """
        rows = self.select(snr=0.0, kind=kind, **more) & self.truth["matched"]
        rows &= (self.truth[f"snr_{band}"] > snr) & (self.truth[f"snr_{band}"] <= upper)
        light = self.truth["crowding"] * self.truth[f"snr_{band}"]
        rows &= (light >= least) & (light < neighbours)
        point = np.isin(self.found["type"], _POINT)
        rows &= point == (kind == "star")
        found, truth = self.found[rows], self.truth[rows]
        ivar = np.asarray(found[f"flux_ivar_{band}"], float)
        delta = np.asarray(found[f"flux_{band}"], float) - np.asarray(truth[f"flux_{band}"])
        return (delta * np.sqrt(ivar))[ivar > 0]

    def classified(self, snr=20.0, kind=None, **more):
        rows = self.select(snr=snr, kind=kind, **more) & self.truth["matched"]
        point = np.isin(self.found["type"][rows], _POINT)
        right = point == (self.truth["kind"][rows] == "PSF")
        return float(np.mean(right)), int(rows.sum())

    def position_pulls(self, snr=8.0, **more):
        rows = self.select(snr=snr, **more) & self.truth["matched"]
        found, truth = self.found[rows], self.truth[rows]
        free = (np.asarray(found["ra_ivar"]) > 0) & (np.char.strip(found["ref_cat"]) == "")
        cos = np.cos(np.radians(np.asarray(found["dec"])))
        d_ra = (np.asarray(found["ra"]) - np.asarray(truth["ra"])) * cos
        d_dec = np.asarray(found["dec"]) - np.asarray(truth["dec"])
        # ra_ivar is of ra cos(dec) [1/deg2].
        pulls = [d_ra * np.sqrt(found["ra_ivar"]), d_dec * np.sqrt(found["dec_ivar"])]
        return np.concatenate([np.asarray(p)[free] for p in pulls])


def robust_width(values):
    """Half of the range of the central 68.27 %."""
    low, high = np.percentile(values, [15.865, 84.135])
    return 0.5 * (high - low)


def crowding(points, truth, band, fwhm=1.25):
    """Light of all neighbours under each source's own, weighted with its profile, over its own.

    Profiles stand in for those of galaxies with their seeing: Moffat functions of exponent 3, wider
    by the half-light radius. Two of them overlap as one of the root of the sum of squared widths.
    """
    flux, radius = np.asarray(truth[f"flux_{band}"]), np.asarray(truth["shape_r"])
    width = np.hypot(fwhm, 2.0 * radius)
    out = np.zeros(len(flux))
    pairs = cKDTree(points).query_pairs(25.0, output_type="ndarray")
    for a, b in (pairs.T, pairs.T[::-1]):
        wide2 = width[a] ** 2 + width[b] ** 2
        distance2 = ((points[a] - points[b]) ** 2).sum(axis=1)
        # Peak of the overlap relative to that of the source with itself.
        share = 2.0 * width[a] ** 2 / wide2 * (1.0 + distance2 / (0.96 * wide2)) ** -2.5
        np.add.at(out, a, flux[b] / flux[a] * share)
    return out


def read_catalogues(output: Path, bricks) -> Table:
    """The primary objects of all bricks."""
    parts = []
    for brick in bricks:
        path = output / "tractor" / brick.name[:3] / f"tractor-{brick.name}.fits"
        data = Table(fits.getdata(path, 1))
        parts.append(data[np.asarray(data["brick_primary"], bool)])
    return vstack(parts, metadata_conflicts="silent")


def grade(folder: Path, output: Path, bricks, *, bands=("g", "r", "z"), epoch_mjd=58230.0):
    """Match the catalogues to the truth: brightest first, within 1 arcsec.

    A row of the truth is ``clean`` if it is inside a brick's part, seen in half of the exposures
    of each band and not in the mask of a bright star or beside a saturated pixel.
    """
    truth = read_patch_truth(folder, "sources")
    years = (epoch_mjd - 57388.0) / 365.25
    truth["dec"] = truth["dec"] + np.asarray(truth["pm_dec"]) * years / 3.6e6 * truth["dec"].unit
    step = np.asarray(truth["pm_ra"]) * years / 3.6e6 / np.cos(np.radians(truth["dec"].value))
    truth["ra"] = truth["ra"] + step * truth["ra"].unit
    truth["best_snr"] = np.max([truth[f"snr_{b}"] for b in bands], axis=0)
    found = read_catalogues(output, bricks)
    names = [b.name for b in bricks]
    truth = truth[np.isin(truth["brickname"], names) & (truth["best_snr"] > 3.0)]
    ra0, dec0 = np.median(truth["ra"].value), np.median(truth["dec"].value)

    def plane(table):
        cos = np.cos(np.radians(dec0))
        ra, dec = (np.asarray(table[n], float) for n in ("ra", "dec"))
        return np.stack([((ra - ra0 + 180) % 360 - 180) * cos, dec - dec0], axis=1) * 3600.0

    objects = found[found["type"] != "DUP"]
    tree, points = cKDTree(plane(objects)), plane(truth)
    index, free = np.full(len(truth), -1), np.ones(len(objects), bool)
    reference = "r" if "r" in bands else bands[0]
    flux = np.asarray(objects[f"flux_{reference}"], float)
    for k, near in enumerate(tree.query_ball_point(points, 1.0)):
        usable = [n for n in near if free[n]]
        if usable:
            distance = np.linalg.norm(tree.data[usable] - points[k], axis=1)
            expected = float(np.asarray(truth[f"flux_{reference}"])[k])
            # Of blended objects the one with the most similar flux, then the nearest.
            cost = distance + np.abs(np.log(np.maximum(flux[usable], 1e-3) / expected)) * 0.3
            index[k] = usable[int(np.argmin(cost))]
            free[index[k]] = False
    truth["matched"] = index >= 0
    truth["crowding"] = crowding(points, truth, reference)
    truth["clean"] = _clean(truth, output, bricks, bands)
    return Grades(truth, objects[np.maximum(index, 0)])


def _clean(truth: Table, output: Path, bricks, bands):
    """Not in a bright star's mask, not saturated, and with enough exposures."""
    ok = np.ones(len(truth), bool)
    for band in bands:
        most = np.max(truth[f"n_exposure_{band}"])
        ok &= np.asarray(truth[f"n_exposure_{band}"]) >= 0.5 * most
    from skymill.data.geometry import FitsWcs

    for brick in bricks:
        folder = output / "coadd" / brick.name[:3] / brick.name
        with fits.open(folder / f"legacysurvey-{brick.name}-maskbits.fits.fz") as hdus:
            mask, wcs = np.asarray(hdus[1].data), FitsWcs(hdus[1].header)
        rows = np.flatnonzero(np.asarray(truth["brickname"]) == brick.name)
        x, y = wcs.sky_to_pixel(ra=truth["ra"].value[rows], dec=truth["dec"].value[rows])
        i = np.clip(np.rint(x).astype(int), 0, mask.shape[1] - 1)
        j = np.clip(np.rint(y).astype(int), 0, mask.shape[0] - 1)
        # Bits 1 BRIGHT, 2-4 SATUR, 5-7 ALLMASK, 10 BAILOUT, 11 MEDIUM.
        ok[rows] &= (mask[j, i] & 0b1100_1111_1110) == 0
    return ok


def _pulls_of_all_bands(grades: Grades, kind: str, bands) -> list[str]:
    """By signal-to-noise ratio, and by the light of the neighbours in units of the error."""
    lines = []
    cases = [(f"S/N {a}-{b}", {"snr": a, "upper": b, "neighbours": np.inf})
             for a, b in itertools.pairwise((8, 20, 50, 200, np.inf))]  # fmt: skip
    cases += [(f"light of neighbours {a}-{b}", {"least": a, "neighbours": b})
              for a, b in itertools.pairwise((0.0, 0.5, 2.0, 5.0, 20.0))]  # fmt: skip
    for text, words in cases:
        pulls = np.concatenate([grades.pulls(band, kind, **words) for band in bands])
        if pulls.size > 3:
            lines.append(
                f"pulls {kind} all bands, {text}: width {robust_width(pulls):.2f} ({pulls.size})"
            )
    return lines


def report(grades: Grades, bands=("g", "r", "z")) -> str:
    """A table of the numbers."""
    lines = []
    for low, high in ((5, 6), (6, 8), (8, 10), (10, 20), (20, np.inf)):
        a, n = grades.completeness(low, high)
        b, m = grades.completeness(low, high, isolated=0.0)
        lines.append(f"completeness S/N {low}-{high}: isolated {a:.3f} ({n}), all {b:.3f} ({m})")
    for kind in ("star", "galaxy"):
        for band, low, high in itertools.product(bands, (8, 20, 50), (20, 50, np.inf)):
            pulls = grades.pulls(band, kind, snr=low, upper=high)
            more = grades.pulls(band, kind, snr=low, upper=high, neighbours=np.inf)
            # Each range, and all together.
            if pulls.size > 3 and ((low, high) in _RANGES):
                lines.append(
                    f"pulls {kind} {band} S/N {low}-{high}: width {robust_width(pulls):.3f} median "
                    f"{np.median(pulls):+.3f} rms(<5) {pulls[abs(pulls) < 5].std():.3f} "
                    f"beyond 5: {np.mean(abs(pulls) > 5):.3f} ({pulls.size}); with neighbours: "
                    f"width {robust_width(more):.3f} ({more.size})"
                )
        lines += _pulls_of_all_bands(grades, kind, bands)
        right, n = grades.classified(kind=kind)
        lines.append(f"classification {kind}: {right:.3f} ({n})")
    right, n = grades.classified()
    lines.append(f"classification all: {right:.3f} ({n})")
    pulls = grades.position_pulls()
    if pulls.size:
        lines.append(f"positions: width {robust_width(pulls):.3f} ({pulls.size})")
    return "\n".join(lines)
