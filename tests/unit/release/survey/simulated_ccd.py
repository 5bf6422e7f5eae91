"""A small community-processed image with known stars, PSF, zero point, offsets and sky."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from skymill.data.geometry import FitsWcs
from skymill.instruments.survey_camera import survey_camera

NAMES = {"decam": ("c4d", "N10"), "mosaic": ("k4m", "CCD1"), "90prime": ("ksb", "CCD1")}


@dataclass
class SimulatedImage:
    """What to simulate; the truth after `write`."""

    root: Path
    camera: str = "decam"
    band: str = "r"
    exposure: int = 500001
    ccds: tuple[str, ...] = ("N10",)
    shape: tuple[int, int] = (1100, 1000)
    zero_point: float = 25.2
    offset: tuple[float, float] = (0.08, -0.05)  # reference minus header [arcsec]
    sky: float = 400.0
    sky_slope: float = 4.0
    exptime: float = 90.0
    fwhm: float = 4.0
    n_stars: int = 130
    n_galaxies: int = 50
    gain: float = 4.0
    seed: int = 7
    stamp: str = "150329_083320"
    version: str = "ls9"
    folder: str = "CP/V4.8.2a/CP20150328"
    plver: str = "V4.8.2a"
    plprocid: str = "abc1234"
    centre: tuple[float, float] = (150.1, 2.2)
    stars: Table = field(default_factory=Table)

    @property
    def name(self) -> str:
        prefix = NAMES[self.camera][0]
        return (
            f"{self.camera}/{self.folder}/{prefix}_{self.stamp}_ooi_{self.band}_{self.version}.fits"
        )

    @property
    def path(self) -> Path:
        return self.root / "images" / self.name

    @property
    def scale(self) -> float:
        return survey_camera(self.camera).pixel_scale

    def header(self, k: int) -> fits.Header:
        ny, nx = self.shape
        out = fits.Header()
        out["CTYPE1"], out["CTYPE2"] = "RA---TPV", "DEC--TPV"
        out["CRVAL1"], out["CRVAL2"] = self.centre
        out["CRPIX1"], out["CRPIX2"] = nx / 2 + 300.0 - (nx + 50) * k, ny / 2 - 200.0
        step = self.scale / 3600
        out["CD1_1"], out["CD1_2"], out["CD2_1"], out["CD2_2"] = 1e-8, step, -step, -2e-8
        for axis in (1, 2):
            out[f"PV{axis}_0"], out[f"PV{axis}_1"], out[f"PV{axis}_2"] = 0.0, 1.0, 0.0
            out[f"PV{axis}_7"] = 0.05
        return out

    def truth_wcs(self, k: int) -> FitsWcs:
        """The header's mapping moved by the offset: what the stars follow."""
        header = self.header(k)
        header["RADESYS"] = "ICRS"
        header["CRVAL1"] += self.offset[0] / 3600 / np.cos(np.radians(self.centre[1]))
        header["CRVAL2"] += self.offset[1] / 3600
        return FitsWcs(header)

    def profile(self, x: float, y: float, size: int) -> np.ndarray:
        """A Moffat star of unit flux, elliptical by the place, integrated over 3 x 3 parts."""
        ny, nx = self.shape
        half = size // 2
        ix, iy = round(x), round(y)
        sub = (np.arange(3) - 1) / 3
        axis = (np.arange(size) - half)[:, None] + sub[None, :]
        xx, yy = (axis - (x - ix)).ravel(), (axis - (y - iy)).ravel()
        e1, e2 = 0.04 * (x / nx - 0.5), 0.03 + 0.04 * (y / ny - 0.5)
        width = self.fwhm * (1 + 0.05 * (x / nx - 0.5))
        r2 = (1 - e1) * xx[None, :] ** 2 + (1 + e1) * yy[:, None] ** 2
        r2 = r2 - 2 * e2 * xx[None, :] * yy[:, None]
        beta = 3.0
        alpha = width / 2 / np.sqrt(2 ** (1 / beta) - 1)
        root = np.sqrt((1 - e1) * (1 + e1) - e2**2)
        value = (beta - 1) / np.pi / alpha**2 * root * (1 + r2 / alpha**2) ** -beta
        return value.reshape(size, 3, size, 3).mean(axis=(1, 3))

    def colour_term(self, colour: np.ndarray) -> np.ndarray:
        c = survey_camera(self.camera).ps1_colour_terms[self.band]
        return c[0] + c[1] * colour + c[2] * colour**2 + c[3] * colour**3

    def _one(self, k: int, rng: np.random.Generator):
        ny, nx = self.shape
        yy, xx = np.mgrid[0:ny, 0:nx]
        sky = self.sky + self.sky_slope * np.sin(3 * xx / nx) * np.cos(2 * yy / ny)
        image = np.zeros((ny, nx))
        x = rng.uniform(2, nx - 3, self.n_stars)
        y = rng.uniform(2, ny - 3, self.n_stars)
        r = rng.uniform(15.5, 20.5, self.n_stars)
        colour = rng.uniform(0.3, 2.5, self.n_stars)
        magnitude = {"g": r + 0.4 * colour, "r": r, "i": r - 0.6 * colour, "z": r - 0.7 * colour}
        truth = magnitude[self.band] + self.colour_term(colour)
        flux = 10 ** (-0.4 * (truth - self.zero_point)) * self.exptime
        for a, b, f in zip(x, y, flux, strict=True):
            self._add(image, self.profile(a, b, 121) * f, a, b)
        for _ in range(self.n_galaxies):
            a, b = rng.uniform(5, nx - 6), rng.uniform(5, ny - 6)
            half = 20
            u, v = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
            q, t = rng.uniform(0.3, 1), rng.uniform(3, 6)
            blob = np.exp(-np.hypot(u / t, v / t / q))
            total = 10 ** (-0.4 * (rng.uniform(18.5, 21.5) - self.zero_point)) * self.exptime
            self._add(image, blob / blob.sum() * total, a, b)
        ra, dec = self.truth_wcs(k).pixel_to_sky(x=x, y=y)
        table = Table({"id": np.arange(self.n_stars) + 1000 * k, "ra": ra, "dec": dec})
        for band, values in magnitude.items():
            table[f"{band}mag"], table[f"e_{band}mag"] = values, np.full(len(x), 0.005)
        table["x"], table["y"], table["flux"], table["truth"] = x, y, flux, truth
        table["ccd"] = self.ccds[k]
        electrons = rng.poisson((image + sky) * self.gain) + rng.normal(0, 5, (ny, nx))
        counts = electrons / self.gain
        variance = (np.maximum(image, 0) + sky) / self.gain + (5 / self.gain) ** 2
        flat = sky / self.gain + (5 / self.gain) ** 2
        quality = np.zeros((ny, nx), np.int32)
        hot = counts > 4e4
        quality[hot] = 3
        quality[:, 200] = 1
        quality[-3:] = 1
        counts[:, 200] = -50.0
        return counts, variance, flat, quality, table

    def _add(self, image, stamp, x, y):
        half = stamp.shape[0] // 2
        ny, nx = image.shape
        x0, y0 = round(x) - half, round(y) - half
        a0, a1, b0, b1 = (
            max(0, x0),
            min(nx, x0 + 2 * half + 1),
            max(0, y0),
            min(ny, y0 + 2 * half + 1),
        )
        image[b0:b1, a0:a1] += stamp[b0 - y0 : b1 - y0, a0 - x0 : a1 - x0]

    def write(self) -> "SimulatedImage":
        rng = np.random.default_rng(self.seed)
        primary = fits.Header()
        instrument = {"decam": "DECam", "mosaic": "Mosaic3", "90prime": "90prime"}[self.camera]
        filters = {"mosaic": f"{self.band}d DECam k1038", "90prime": self.band}
        primary["INSTRUME"] = instrument
        primary["FILTER"] = filters.get(self.camera, f"{self.band} DECam SDSS c0002 6415.0 1480.0")
        primary["EXPTIME"], primary["MJD-OBS"] = self.exptime, 57110.355
        primary["DATE-OBS"], primary["AIRMASS"] = "2015-03-29T08:33:20", 1.3
        primary["OBJECT"], primary["PROPID"] = "DECaLS_31037_r", "2014B-0404"
        primary["RA"], primary["DEC"] = "10:00:24.0", "2:12:00.0"
        primary["PLVER"], primary["PLPROCID"] = self.plver, self.plprocid
        primary["DATE"] = "2019-08-25T08:56:38"
        if self.camera == "90prime":
            digits = str(self.exposure)
            primary["DTACQNAM"] = f"/x/d{digits[:-4]}.{digits[-4:]}.fits"
        else:
            primary["EXPNUM"] = self.exposure
        files = {kind: [fits.PrimaryHDU(header=primary)] for kind in "iwd"}
        tables = []
        rate = survey_camera(self.camera).unit_is_electrons_per_second
        for k, ccd in enumerate(self.ccds):
            if rate:
                # The zero point is that of an electron a second.
                count = self.zero_point
                self.zero_point = count - 2.5 * np.log10(self.gain)
            counts, variance, flat, quality, table = self._one(k, rng)
            header = self.header(k)
            header["EXTNAME"], header["CCDNUM"] = ccd, k + 1
            if self.camera == "decam":
                header["GAINA"] = header["GAINB"] = self.gain
            if rate:
                self.zero_point = count
                factor = self.gain / self.exptime
                counts, weight = counts * factor, 1 / (flat * factor**2)
                header["SKYADU1"] = self.sky * factor
            else:
                weight = 1 / variance
            weight[quality > 0] = 0
            for kind, data in (("i", counts), ("w", weight), ("d", quality)):
                array = data.astype(np.int32 if kind == "d" else np.float32)
                files[kind].append(fits.ImageHDU(array, header=header))
            tables.append(table)
        for kind, hdus in files.items():
            path = self.path.with_name(self.path.name.replace("_ooi_", f"_oo{kind}_"))
            path.parent.mkdir(parents=True, exist_ok=True)
            fits.HDUList(hdus).writeto(path, overwrite=True, checksum=True)
        from astropy.table import vstack

        self.stars = vstack(tables)
        return self

    def write_references(self, folder: Path) -> tuple[Path, Path]:
        """Pan-STARRS1 and Gaia files of the stars."""
        folder.mkdir(parents=True, exist_ok=True)
        keep = ["id", "ra", "dec"]
        ps1 = self.stars[keep + [c for c in self.stars.colnames if c.endswith("mag")]]
        gaia = self.stars[keep].copy()
        gaia["ra_error"] = gaia["dec_error"] = np.full(len(gaia), 0.1)
        gaia["phot_g_mean_mag"] = self.stars["rmag"]
        gaia["epoch"] = np.full(len(gaia), 57110.355)
        ps1.write(folder / "ps1.fits", overwrite=True)
        gaia.write(folder / "gaia.fits", overwrite=True)
        return folder / "ps1.fits", folder / "gaia.fits"
