"""Raw DECam frames of a lensed field by another hand: numpy, astropy and galsim, no skymill.

It knows the camera only by the headers of real raw files: their sections, gains, TPV solution and
cards. Everything else differs from `skymill.sims` on purpose: the order of extensions and cards, a
focus chip among the CCDs, plain beside compressed files, overscan levels and slopes, gains unlike
the nominal ones, a Kolmogorov PSF, Sersic galaxies with spectra of galsim, galsim's own NFW halo,
its own bias, flats and catalogues in the formats in which people download them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import galsim
import numpy as np
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

NX, NY, OVERSCAN, PARALLEL = 2048, 4096, 50, 50
FILTERS = {
    "g": "g DECam SDSS c0001 4720.0 1520.0",
    "r": "r DECam SDSS c0002 6415.0 1480.0",
    "i": "i DECam SDSS c0003 7835.0 1470.0",
}
#: Edges of the pass bands [nm]; electrons a second as magnitudes; sky [mag/arcsec2].
EDGES = {"g": (395.0, 405.0, 545.0, 555.0), "r": (563.0, 573.0, 711.0, 721.0),
         "i": (703.0, 713.0, 850.0, 862.0)}  # fmt: skip
ZERO_POINT = {"g": 26.55, "r": 26.75, "i": 26.60}
SKY = {"g": 22.0, "r": 21.1, "i": 20.0}
SCALE = 0.2634
FULL_WELL = 170_000.0


@dataclass(frozen=True)
class Ccd:
    """One CCD: name, number, TPV reference pixel (trimmed), gains [e/adu], noise [e], levels."""

    name: str
    number: int
    crpix: tuple[float, float]
    gains: tuple[float, float]
    noises: tuple[float, float]
    levels: tuple[float, float]

    @property
    def south(self) -> bool:
        return self.name.startswith("S")


# S1 of a real frame has CRPIX 2151.2, 14826.0; the CCDs are 4248 by 2251 pixels apart.
CCDS = (
    Ccd("N5", 36, (-99.8, -2166.0), (4.31, 3.87), (6.1, 5.7), (1512.0, 1721.0)),
    Ccd("S5", 29, (2151.2, -2166.0), (3.95, 4.48), (7.0, 6.4), (1433.0, 1299.0)),
)


@dataclass(frozen=True)
class Field:
    """What is observed."""

    ra: float = 359.97
    dec: float = -43.2
    redshift: float = 0.25
    mass: float = 1.6e15
    concentration: float = 4.0
    bands: tuple[str, ...] = ("g", "r", "r", "r", "i")
    seconds: dict[str, float] = field(default_factory=lambda: {"g": 420.0, "r": 480.0, "i": 540.0})
    galaxies_per_arcmin2: float = 34.0
    stars: int = 1100
    seed: int = 20240

    @property
    def aim(self) -> tuple[float, float]:
        """Where the axis points so that the two CCDs lie around the centre."""
        return self.ra + 0.0, self.dec


# -- the sky ---------------------------------------------------------------------------------------


def make_bandpass(band):
    a, b, c, d = EDGES[band]
    curve = galsim.LookupTable([a, b, c, d], [0.0, 1.0, 1.0, 0.0], interpolant="linear")
    return galsim.Bandpass(curve, wave_type="nm").withZeropoint("AB")


def colour_table():
    """Colours g-r, r-i of four spectra on a grid of redshift."""
    passes = {b: make_bandpass(b) for b in EDGES}
    z = np.arange(0.0, 2.41, 0.1)
    out = np.zeros((4, z.size, 2))
    for k, name in enumerate(("E", "Sbc", "Scd", "Im")):
        sed = galsim.SED(f"CWW_{name}_ext.sed", wave_type="Ang", flux_type="flambda")
        for j, value in enumerate(z):
            shifted = sed.atRedshift(value)
            g, r, i = (shifted.calculateMagnitude(passes[b]) for b in "gri")
            out[k, j] = g - r, r - i
    return z, out


def add_colours(table, kind, table_of_colours):
    z, colours = table_of_colours
    for k in range(4):
        rows = kind == k
        gr = np.interp(table["z"][rows], z, colours[k, :, 0])
        ri = np.interp(table["z"][rows], z, colours[k, :, 1])
        table["g"][rows] = table["r"][rows] + gr
        table["i"][rows] = table["r"][rows] - ri


def make_galaxies(sky, rng, half_arcmin):
    """Field galaxies and members: west, north [arcsec] of the centre, z, magnitudes, shapes."""
    n = rng.poisson(sky.galaxies_per_arcmin2 * (2 * half_arcmin) ** 2)
    # Counts rise by 0.33 dex a magnitude up to r = 24.9.
    r = 24.9 + np.log10(rng.uniform(10 ** (0.33 * (18.0 - 24.9)), 1.0, n)) / 0.33
    scale = np.clip(0.0417 * r - 0.744, 0.05, None)
    z = np.clip(rng.gamma(3.0, scale), 0.03, 2.3)
    kind = np.searchsorted([0.18, 0.45, 0.75], rng.uniform(size=n))
    west, north = rng.uniform(-60 * half_arcmin, 60 * half_arcmin, (2, n))
    members = 70
    distance, angle = 420 * rng.uniform(0, 1, members) ** 1.2, rng.uniform(0, 2 * np.pi, members)
    west = np.concatenate([west, distance * np.cos(angle)])
    north = np.concatenate([north, distance * np.sin(angle)])
    z = np.concatenate([z, sky.redshift + rng.normal(0, 0.003, members)])
    kind = np.concatenate([kind, np.zeros(members, int)])
    r = np.concatenate([r, 18.0 + 4.5 * np.sqrt(rng.uniform(0.02, 1, members))])
    total = r.size
    radius = np.clip(0.62 * 10 ** (-0.12 * (r - 22)) * rng.lognormal(0, 0.3, total), 0.15, 3.0)
    table = Table({"west": west, "north": north, "z": z, "r": r, "g": r.copy(), "i": r.copy()})
    add_colours(table, kind, colour_table())
    table["radius"] = radius
    table["n"] = np.where(kind == 0, 3.5, 1.0)
    table["e1"], table["e2"] = np.clip(rng.normal(0, 0.22, (2, total)), -0.55, 0.55)
    add_lens(table, sky)
    return table


def add_lens(table, sky):
    """Reduced shear and magnification of galsim's halo (masses in Msun/h)."""
    halo = galsim.NFWHalo(
        mass=0.7 * sky.mass, conc=sky.concentration, redshift=sky.redshift, omega_m=0.3
    )
    table["g1"], table["g2"], table["mu"] = 0.0, 0.0, 1.0
    behind = np.flatnonzero(table["z"] > sky.redshift + 0.02)
    # One at a time: the redshift of a source is a scalar there.
    for row in behind:
        place = galsim.PositionD(float(table["west"][row]), float(table["north"][row]))
        g1, g2, mu = halo.getLensing(place, float(table["z"][row]))
        size = np.hypot(g1, g2)
        if size > 0.6 or not 0 < mu < 8:
            g1, g2, mu = 0.6 * g1 / size, 0.6 * g2 / size, np.clip(abs(mu), 0.5, 8)
        table["g1"][row], table["g2"][row], table["mu"][row] = g1, g2, mu


def make_stars(sky, rng, half_arcmin):
    n = sky.stars
    r = rng.uniform(0.0, 1.0, n) ** 0.55 * 7.5 + 15.6
    gr = np.where(rng.uniform(size=n) < 0.5, rng.normal(0.5, 0.12, n), rng.normal(1.25, 0.12, n))
    ri = np.where(gr < 1.0, 0.4 * gr, 0.4 + 1.5 * rng.uniform(0, 1, n) ** 2) - 0.02
    west, north = rng.uniform(-60 * half_arcmin, 60 * half_arcmin, (2, n))
    return Table(
        {"west": west, "north": north, "r": r, "g": r + gr, "i": r - ri,
         "pmra": rng.normal(0, 6, n), "pmdec": rng.normal(-3, 6, n)}
    )  # fmt: skip


def add_sky_positions(table, sky):
    centre = galsim.CelestialCoord(sky.ra * galsim.degrees, sky.dec * galsim.degrees)
    ra, dec = centre.deproject_rad(
        table["west"] / 206264.80625, table["north"] / 206264.80625, projection="gnomonic"
    )
    table["ra"], table["dec"] = np.degrees(ra) % 360.0, np.degrees(dec)


# -- one exposure ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposure:
    """One exposure: identity, pointing, weather."""

    number: int
    kind: str
    band: str
    seconds: float
    mjd: float
    ra: float = 0.0
    dec: float = 0.0
    seeing: float = 0.9
    shear: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)
    transparency: float = 1.0


def tpv_cards(ccd, ra, dec, turn=0.0):
    """The TPV solution: x to the South, y to the East, a cubic radial distortion."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    scale = SCALE / 3600
    cards = {
        "PV1_7": -0.0016, "PV2_9": -0.0016, "CUNIT1": "deg", "CD1_1": -s * scale, "PV2_7": -0.0016,
        "PV1_1": 1.0, "PV2_1": 1.0, "CD1_2": c * scale, "CUNIT2": "deg", "CD2_1": -c * scale,
        "CD2_2": -s * scale, "PV1_9": -0.0016, "CTYPE2": "DEC--TPV", "CTYPE1": "RA---TPV",
        "CRVAL1": ra % 360.0, "CRVAL2": dec, "CRPIX1": ccd.crpix[0], "CRPIX2": ccd.crpix[1],
    }  # fmt: skip
    for axis in (1, 2):
        for k in (0, 2, 3, 4, 5, 6, 8, 10):
            cards[f"PV{axis}_{k}"] = 0.0
    # A cubic along the radius: x r^2 has the terms 7 and 9 of both axes.
    return cards


def true_wcs(ccd, exposure):
    """The mapping that the light takes; the header has it without offset and turn."""
    ra = exposure.ra + exposure.offset[0] / 3600 / np.cos(np.radians(exposure.dec))
    header = fits.Header()
    for key, value in tpv_cards(ccd, ra, exposure.dec + exposure.offset[1] / 3600,
                                exposure.turn).items():  # fmt: skip
        header[key] = value
    return galsim.GSFitsWCS(header=header)


def draw_ccd(ccd, exposure, galaxies, stars, rng):
    """Electrons on the trimmed CCD, without sky."""
    wcs = true_wcs(ccd, exposure)
    image = galsim.ImageF(NX, NY, wcs=wcs)
    level = exposure.seconds * exposure.transparency * 10 ** (0.4 * ZERO_POINT[exposure.band])
    years = (exposure.mjd - 57388.5) / 365.25
    for table, is_star in ((stars, True), (galaxies, False)):
        ra, dec = np.array(table["ra"], float), np.array(table["dec"], float)
        if is_star:
            ra = ra + table["pmra"] * years / 3.6e6 / np.cos(np.radians(dec))
            dec = dec + table["pmdec"] * years / 3.6e6
        x, y = wcs.radecToxy(ra, dec, galsim.degrees)
        near = np.flatnonzero((x > -60) & (x < NX + 60) & (y > -60) & (y < NY + 60))
        for row in near:
            flux = level * 10 ** (-0.4 * float(table[exposure.band][row]))
            place = galsim.PositionD(float(x[row]), float(y[row]))
            psf = make_psf(exposure, place)
            thing = psf.withFlux(flux) if is_star else galsim.Convolve(
                make_galaxy(table[row], flux), psf)  # fmt: skip
            size = _stamp_size(flux, is_star)
            stamp = thing.drawImage(
                nx=size, ny=size, center=place, wcs=wcs.local(place), dtype=np.float32
            )
            both = stamp.bounds & image.bounds
            if both.isDefined():
                image[both] += stamp[both]
    return image.array


def _stamp_size(flux, is_star):
    if is_star:
        return int(np.clip(24 * (flux / 1e4) ** 0.28, 32, 480))
    return int(np.clip(40 * (flux / 1e4) ** 0.22, 40, 256))


def make_psf(exposure, place):
    """Kolmogorov; its shape changes along the CCD."""
    e1 = exposure.shear[0] + 0.012 * (place.y / NY - 0.5)
    e2 = exposure.shear[1] - 0.010 * (place.x / NX - 0.5)
    return galsim.Kolmogorov(fwhm=exposure.seeing * (1 + 0.02 * (place.y / NY - 0.5))).shear(
        g1=e1, g2=e2
    )


def make_galaxy(row, flux):
    profile = galsim.Sersic(
        n=float(row["n"]), half_light_radius=float(row["radius"]), trunc=6.0 * float(row["radius"])
    )
    profile = profile.shear(g1=float(row["e1"]), g2=float(row["e2"])).withFlux(flux)
    return profile.lens(float(row["g1"]), float(row["g2"]), float(row["mu"]))


def bleed(electrons):
    """Charge above the full well goes up and down the column in equal parts."""
    for column in np.flatnonzero((electrons > FULL_WELL).any(axis=0)):
        line = electrons[:, column]
        for step in (1, -1):
            carried = 0.0
            for y in range(NY)[::step]:
                value = line[y] + carried
                extra = max(0.0, value - FULL_WELL)
                carried = extra if step < 0 else 0.5 * extra
                line[y] = value - carried
        np.minimum(line, FULL_WELL, out=line)


def add_cosmic_rays(electrons, rng, seconds):
    for _ in range(rng.poisson(0.12 * seconds)):
        x, y, angle = rng.uniform(0, NX), rng.uniform(0, NY), rng.uniform(0, np.pi)
        for step in range(int(rng.integers(3, 25))):
            column, row = int(x + step * np.cos(angle)), int(y + step * np.sin(angle))
            if 0 <= column < NX and 0 <= row < NY:
                electrons[row, column] += rng.gamma(3.0, 700.0)


def flat_field(ccd, band):
    """Response: pixels, a slope, a dark corner; the same in every frame."""
    rng = np.random.default_rng([ccd.number, ord(band)])
    y, x = np.mgrid[0:NY, 0:NX].astype(np.float32)
    smooth = 1.0 + 0.02 * (x / NX - 0.5) - 0.03 * (y / NY - 0.4) ** 2
    return smooth * (1.0 + 0.005 * rng.standard_normal((NY, NX), np.float32))


def read_out(ccd, electrons, rng):
    """The extension as the camera writes it: integer adu with pre-, over- and postscan."""
    frame = np.zeros((NY + PARALLEL, NX + 112), np.float32)
    y0 = PARALLEL if ccd.south else 0
    pattern = np.random.default_rng([7, ccd.number])
    rows = np.arange(NY + PARALLEL, dtype=np.float32)[:, None]
    # A is read on the right of a southern CCD and on the left of a northern one.
    for k, right in ((0, ccd.south), (1, not ccd.south)):
        half = slice(NX // 2, NX) if right else slice(0, NX // 2)
        part = slice(1080, 2160) if right else slice(0, 1080)
        first = 1080 if right else 56
        level = ccd.levels[k] + 3.0 * np.sin(rows / 900.0) - 0.002 * rows
        frame[:, part] += level
        frame[y0 : y0 + NY, first : first + 1024] += electrons[:, half] / ccd.gains[k]
        fixed = 2.5 * pattern.standard_normal(1024) + 4.0 * np.exp(-np.arange(1024) / 30.0)
        frame[:, first : first + 1024] += fixed
        frame[:, part] += rng.normal(0, ccd.noises[k] / ccd.gains[k], frame[:, part].shape)
    return np.clip(np.rint(frame), 0, 65535).astype(np.uint16)


# -- headers ---------------------------------------------------------------------------------------


def _box(x0, nx, y0, ny):
    return f"[{x0 + 1}:{x0 + nx},{y0 + 1}:{y0 + ny}]"


def extension_cards(ccd, exposure):
    """Cards of a CCD, its sections last and the WCS first; CRPIX counts trimmed pixels."""
    cards = tpv_cards(ccd, exposure.ra, exposure.dec) if exposure.kind == "object" else {}
    cards |= {"EXTNAME": ccd.name, "DETPOS": ccd.name, "CCDNUM": ccd.number,
              "DETECTOR": f"S3-{ccd.number + 90}_125434-20-3", "BUNIT": "adu", "INHERIT": True,
              "RADESYS": "FK5", "EQUINOX": 2000.0}  # fmt: skip
    y0 = PARALLEL if ccd.south else 0
    post = 0 if ccd.south else NY
    for k, name in enumerate("AB"):
        right = ccd.south == (name == "A")
        first = 1080 if right else 56
        cards |= {
            f"SATURAT{name}": 40000.0 + 900 * k, f"RDNOISE{name}": ccd.noises[k],
            f"GAIN{name}": ccd.gains[k], f"POSTSEC{name}": _box(first, 1024, post, 50),
            f"BIASSEC{name}": _box(2104 if right else 6, OVERSCAN, y0, NY),
            f"PRESEC{name}": _box(2154 if right else 0, 6, y0, NY),
            f"DATASEC{name}": _box(first, 1024, y0, NY),
            f"TRIMSEC{name}": _box(first, 1024, y0, NY),
            f"CCDSEC{name}": _box(1024 if right else 0, 1024, 0, NY),
        }  # fmt: skip
    cards |= {"DATASEC": _box(56, NX, y0, NY), "TRIMSEC": _box(56, NX, y0, NY),
              "CCDSEC": "[1:2048,1:4096]", "DETSIZE": "[1:29400,1:29050]",
              "FPA": "DECAM_BKP3", "CCDBIN1": 1, "CCDBIN2": 1}  # fmt: skip
    return cards


def primary_cards(exposure, n_extensions):
    """Cards of the file; fewer than the camera's, in an order of their own."""
    time = Time(exposure.mjd, format="mjd", scale="utc", precision=6)
    ra = Angle((exposure.ra % 360) / 15, "deg").to_string(sep=":", precision=3, pad=True)
    dec = Angle(exposure.dec, "deg").to_string(sep=":", precision=3, pad=True, alwayssign=False)
    cards = {
        "FILTER": FILTERS[exposure.band], "OBSTYPE": exposure.kind, "EXPTIME": exposure.seconds,
        "EXPREQ": exposure.seconds, "DARKTIME": exposure.seconds + 0.9, "EXPNUM": exposure.number,
        "DATE-OBS": time.isot, "MJD-OBS": exposure.mjd, "TIMESYS": "UTC",
        "TIME-OBS": time.isot[11:],
        "OBSID": "ct4m" + time.isot[:19].replace("-", "").replace(":", "").lower(),
        "INSTRUME": "DECam", "TELESCOP": "CTIO 4.0-m telescope", "OBSERVAT": "CTIO",
        "OBJECT": "cluster dither" if exposure.kind == "object" else exposure.kind,
        "PROGRAM": "another programme", "PROPID": "2018B-0271", "PROCTYPE": "RAW",
        "PRODTYPE": "image", "NEXTEND": n_extensions, "RA": ra, "DEC": dec, "TELRA": ra,
        "TELDEC": dec, "TELEQUIN": 2000.0, "OBS-LONG": 70.81489, "OBS-LAT": -30.16606,
        "OBS-ELEV": 2215.0, "PIXSCAL1": 0.27, "PIXSCAL2": 0.27, "DTCALDAT": Time(
            exposure.mjd - 0.7, format="mjd").isot[:10],
        "DTSITE": "ct", "DTTELESC": "ct4m", "DTINSTRU": "decam", "HUMIDITY": 41.0,
        "PRESSURE": 781.0, "OUTTEMP": 9.1, "DIMMSEE": 0.7,
    }  # fmt: skip
    if exposure.kind == "object":
        cards |= {"TELSTAT": "Track", "AIRMASS": 1.04, "ZD": 16.0, "AZ": 171.0, "HA": "00:14:02.5"}
    return cards


def write_frame(path, exposure, extensions):
    """A multi-extension file, with a focus chip among the CCDs; compressed if its name says so."""
    hdus = [fits.PrimaryHDU()]
    focus = np.full((2098, 2160), 1200, np.uint16)
    parts = [*extensions[:1], (None, focus), *extensions[1:]]
    for key, value in primary_cards(exposure, len(parts)).items():
        hdus[0].header[key] = value
    for ccd, data in parts:
        header = fits.Header()
        cards = {"EXTNAME": "FS1", "CCDNUM": 65, "DETPOS": "FS1"}
        for key, value in (cards if ccd is None else extension_cards(ccd, exposure)).items():
            header[key] = value
        if path.suffix == ".fz":
            hdu = fits.CompImageHDU(data, header=header, compression_type="RICE_1")
        else:
            hdu = fits.ImageHDU(data, header=header)
        hdus.append(hdu)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(hdus).writeto(path, overwrite=True, checksum=True)


# -- catalogues ------------------------------------------------------------------------------------


def write_catalogues(folder, stars, rng):
    """Gaia as its archive gives it (CSV), and a photometric catalogue of the author's own."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(stars)
    years = 16.0 - (57388.5 - 51544.5) / 365.25
    bright = stars["r"] < 20.2
    gaia = Table({
        "source_id": 4600000000000000000 + np.arange(n),
        "ra": stars["ra"] + rng.normal(0, 2e-7, n)
        + stars["pmra"] * years / 3.6e6 / np.cos(np.radians(stars["dec"])),
        "dec": stars["dec"] + rng.normal(0, 2e-7, n) + stars["pmdec"] * years / 3.6e6,
        "ra_error": np.full(n, 0.3), "dec_error": np.full(n, 0.3), "parallax": np.full(n, 0.2),
        "pmra": stars["pmra"], "pmdec": stars["pmdec"], "pmra_error": np.full(n, 0.3),
        "pmdec_error": np.full(n, 0.3), "phot_g_mean_mag": stars["r"] + 0.1,
        "ref_epoch": np.full(n, 2016.0),
    })[bright]  # fmt: skip
    gaia.write(folder / "gaia.csv", format="ascii.csv", overwrite=True)
    own = Table({"id": np.arange(n), "ra": stars["ra"], "dec": stars["dec"],
                 "ra_err": np.full(n, 15.0), "dec_err": np.full(n, 15.0),
                 "epoch": np.full(n, 57388.5), "pm_ra": stars["pmra"],
                 "pm_dec": stars["pmdec"]})  # fmt: skip
    for band in "gri":
        magnitude = stars[band] + rng.normal(0, 0.008, n)
        own[f"{band}_flux"] = 3.631e12 * 10 ** (-0.4 * magnitude)
        own[f"{band}_flux_err"] = 0.008 * own[f"{band}_flux"]
    own[(stars["r"] > 15.9) & (stars["r"] < 20.8)].write(folder / "southstars.fits", overwrite=True)


SETTINGS = """\
name: FOREIGN
centre: [{ra}, {dec}]
redshift: {redshift}
bands: [g, r, i]
photometry: ["southstars,g", "southstars,r", "southstars,i"]
paths: {{raws: night1, refcats: catalogues, zeros: cals/bias, flats: cals/flats}}
cuts: {{min_detectors: 1, lensing_fwhm_pixel: 5.0}}
skymap: {{radius_deg: 0.17, tract_overlap_deg: 0.0, patch_inner: 2800}}
keep_intermediates: false
sites: {{local: {{workers: {workers}}}}}
"""


def plan(sky):
    """Exposures of the field with their dithers and weather."""
    rng = np.random.default_rng([sky.seed, 2])
    mjd, number, out = 58390.21, 790100, []
    # The middle of the two CCDs lies on the centre: x = 1024.5 + 2251/2 from S5, y = 2048.5.
    south = (2151.2 - (1024.5 + 1125.5)) * SCALE / 3600
    east = (2048.5 + 2166.0) * SCALE / 3600
    for k, band in enumerate(sky.bands):
        dither = rng.uniform(-40, 40, 2) / 3600
        dec = sky.dec - south + dither[1]
        ra = sky.ra - (east + dither[0]) / np.cos(np.radians(dec))
        out.append(
            Exposure(
                number=number + 3 * k, kind="object", band=band, seconds=sky.seconds[band], mjd=mjd,
                ra=ra % 360, dec=dec, seeing=float(rng.uniform(0.8, 1.05)),
                shear=tuple(rng.normal(0, 0.015, 2)), turn=float(rng.normal(0, 0.02)),
                offset=tuple(rng.normal(0, 5, 2)), transparency=float(rng.uniform(0.85, 1.0)),
            )
        )  # fmt: skip
        mjd += (sky.seconds[band] + 40) / 86400
    return out


def science_frame(ccd, exposure, galaxies, stars, sky):
    rng = np.random.default_rng([sky.seed, 5, exposure.number, ccd.number])
    light = draw_ccd(ccd, exposure, galaxies, stars, rng)
    background = (
        exposure.seconds * SCALE**2 * 10 ** (0.4 * (ZERO_POINT[exposure.band] - SKY[exposure.band]))
    )
    y = np.linspace(-0.5, 0.5, NY)[:, None]
    mean = (np.maximum(light, 0) + background * (1 + 0.01 * y)) * flat_field(ccd, exposure.band)
    electrons = rng.poisson(mean).astype(np.float32)
    add_cosmic_rays(electrons, rng, exposure.seconds)
    bleed(electrons)
    return read_out(ccd, electrons, rng)


def make_calibration_frames(folder, sky, zeros=3, flats=3):
    number = 790001
    for k in range(zeros):
        exposure = Exposure(number, "zero", "r", 0.0, 58389.9 + k * 4e-4)
        rng = np.random.default_rng([sky.seed, number])
        dark = np.zeros((NY, NX), np.float32)
        parts = [(c, read_out(c, dark, rng)) for c in CCDS]
        write_frame(folder / "bias" / f"DECam_{number:08d}.fits", exposure, parts)
        number += 1
    for band in dict.fromkeys(sky.bands):
        for _ in range(flats):
            exposure = Exposure(
                number, "dome flat", band, 12.0, 58389.93 + (number - 790001) * 5e-4
            )
            rng = np.random.default_rng([sky.seed, number])
            parts = [
                (c, read_out(c, rng.poisson(7.6e4 * flat_field(c, band)).astype(np.float32), rng))
                for c in CCDS
            ]
            write_frame(folder / "flats" / f"DECam_{number:08d}.fits.fz", exposure, parts)
            number += 1


def _science_job(job):
    path, exposure, galaxies, stars, sky = job
    parts = [(c, science_frame(c, exposure, galaxies, stars, sky)) for c in CCDS]
    write_frame(path, exposure, parts)


def make_night(folder, sky=None, *, workers=2):
    """Everything a foreign observer brings: frames, calibrations, catalogues, cluster.yaml."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    sky = sky or Field()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sky.seed)
    galaxies, stars = make_galaxies(sky, rng, 10.6), make_stars(sky, rng, 10.6)
    for table in (galaxies, stars):
        add_sky_positions(table, sky)
    write_catalogues(folder / "catalogues", stars, rng)
    make_calibration_frames(folder / "cals", sky)
    jobs = []
    for k, exposure in enumerate(plan(sky)):
        suffix = ".fits" if k % 2 else ".fits.fz"
        path = folder / "night1" / f"c4d_{exposure.number}_ori{suffix}"
        jobs.append((path, exposure, galaxies, stars, sky))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_science_job, jobs))
    text = SETTINGS.format(ra=sky.ra, dec=sky.dec, redshift=sky.redshift, workers=workers)
    (folder / "cluster.yaml").write_text(text)
    galaxies.write(folder / "galaxies.ecsv", overwrite=True)
    stars.write(folder / "stars.ecsv", overwrite=True)
    return galaxies, stars


if __name__ == "__main__":
    import sys

    make_night(sys.argv[1])
