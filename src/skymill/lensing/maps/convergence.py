"""Convergence maps: Kaiser & Squires with smoothing, and a Wiener filter that knows the mask.

The complex field kappa_E + i kappa_B and the shear are related by a phase in Fourier space,
``gamma = (l1 + i l2)^2 / l^2 kappa``. The direct inversion smooths the shears and ignores the
holes; the Wiener filter asks for the most probable Gaussian field given shears, their noise and
the power of the field, and fills holes from their surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from skymill.data.geometry import FitsWcs
from skymill.data.options import check_range, option
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.maps.grid import choose_grid, image_hdus, require_planes

__all__ = ["ConvergenceMap", "ConvergenceOptions", "make_convergence_map", "wiener_filter"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
_PLANES = ("KAPPA_E", "KAPPA_B", "SIGMA", "WIENER_E", "WIENER_B", "WIENER_SIGMA", "MASK")
#: Slope of the prior power beyond its core, l^-3: between isolated cusps (-2) and smooth halos.
_SLOPE = 1.5
_MAX_CORE = 3000.0


@dataclass(frozen=True, kw_only=True)
class ConvergenceOptions:
    """Grid, smoothing and regularisation of a convergence map."""

    step_arcsec: float = option(20.0, "Side of a pixel", unit="arcsec")
    extent_arcmin: float = option(
        0.0, "Side of the square map; 0 takes the extent of the catalogue", unit="arcmin"
    )
    smoothing_arcmin: float = option(
        1.0, "Sigma of the Gaussian that smooths the direct inversion", unit="arcmin"
    )
    min_density: float = option(
        0.3, "Pixels with less smoothed weight than this times the median are masked"
    )
    n_reduced: int = option(3, "Iterations of shear = reduced shear times (1 - kappa)")
    n_noise: int = option(
        16, "Catalogues of turned shapes for the noise of the Wiener map; 0 for none"
    )
    tolerance: float = option(1e-4, "Relative residual at which the Wiener filter stops")
    max_iterations: int = option(300, "Most iterations of the Wiener filter")

    def __post_init__(self) -> None:
        check_range(self, "step_arcsec", low=0.0, low_open=True)
        check_range(self, "extent_arcmin", low=0.0)
        check_range(self, "smoothing_arcmin", low=0.0, low_open=True)
        check_range(self, "min_density", low=0.0, high=1.0)
        check_range(self, "n_reduced", low=0, high=20)
        check_range(self, "n_noise", low=0, high=10_000)
        check_range(self, "tolerance", low=1e-12, high=0.1)
        check_range(self, "max_iterations", low=1, high=100_000)


@dataclass(frozen=True, kw_only=True)
class ConvergenceMap:
    """Convergence on a grid with North up and East left; its mean is not determined.

    Parameters
    ----------
    kappa_e, kappa_b : (ny, nx) float32
        Kaiser-Squires maps of the smoothed shear; zero where masked.
    sigma : (ny, nx) float32
        Standard error of each.
    wiener_e, wiener_b : (ny, nx) float32
        Wiener maps, defined everywhere.
    wiener_sigma : (ny, nx) float32
        Scatter of the Wiener map of turned shapes; zero without them.
    mask : (ny, nx) bool
        Where there are too few galaxies.
    wcs : FitsWcs
        Mapping of the pixels to the sky.
    n_galaxies : int
        Galaxies used.
    prior : tuple of float
        Amplitude [sr] and core multipole of the power of the Wiener filter.
    """

    kappa_e: Float32Array
    kappa_b: Float32Array
    sigma: Float32Array
    wiener_e: Float32Array
    wiener_b: Float32Array
    wiener_sigma: Float32Array
    mask: NDArray[np.bool_]
    wcs: FitsWcs
    n_galaxies: int
    prior: tuple[float, float] = field(default=(0.0, 0.0))

    def to_hdulist(self) -> fits.HDUList:
        """FITS file in memory.

        Returns
        -------
        astropy.io.fits.HDUList
            Images ``KAPPA_E``, ``KAPPA_B``, ``SIGMA``, ``WIENER_E``, ``WIENER_B``,
            ``WIENER_SIGMA``, ``MASK`` with their WCS.
        """
        primary = fits.PrimaryHDU()
        primary.header["NGAL"] = (self.n_galaxies, "galaxies used")
        primary.header["PRIORAMP"] = (self.prior[0], "[sr] prior power at l = 0")
        primary.header["PRIORELL"] = (self.prior[1], "multipole of the prior's core")
        planes = (
            self.kappa_e, self.kappa_b, self.sigma, self.wiener_e, self.wiener_b,
            self.wiener_sigma, self.mask.astype(np.uint8),
        )  # fmt: skip
        named: dict[str, NDArray[np.generic]] = dict(zip(_PLANES, planes, strict=True))
        return fits.HDUList([primary, *image_hdus(named, self.wcs.header)])

    @classmethod
    def from_hdulist(cls, hdus: fits.HDUList) -> ConvergenceMap:
        """Read what `to_hdulist` wrote.

        Parameters
        ----------
        hdus : astropy.io.fits.HDUList
            The open file.

        Returns
        -------
        ConvergenceMap
            The map.

        Raises
        ------
        DataError
            If an extension is missing.
        """
        require_planes(hdus, _PLANES, what="convergence map")
        e, b, sigma, we, wb, ws, mask = (np.asarray(hdus[n].data) for n in _PLANES)
        return cls(
            kappa_e=e, kappa_b=b, sigma=sigma, wiener_e=we, wiener_b=wb, wiener_sigma=ws,
            mask=mask.astype(bool), wcs=FitsWcs(hdus["KAPPA_E"].header.copy()),
            n_galaxies=int(hdus[0].header["NGAL"]),
            prior=(hdus[0].header["PRIORAMP"], hdus[0].header["PRIORELL"]),
        )  # fmt: skip


def _multipoles(n: int, step: float) -> tuple[Float64Array, ComplexArray]:
    """Modulus of l (n, n) and the phase (l1 + i l2)^2 / l^2; the first axis is North."""
    l_axis = 2.0 * np.pi * fft.fftfreq(n, d=step)
    ell = l_axis[None, :] + 1j * l_axis[:, None]
    modulus = np.abs(ell)
    return modulus, np.where(modulus > 0, ell**2 / np.maximum(modulus, 1e-30) ** 2, 0.0)


def _invert(shear: ComplexArray, phase: ComplexArray) -> ComplexArray:
    """Convergence E + i B of a periodic shear field."""
    return np.asarray(fft.ifft2(np.conj(phase) * fft.fft2(shear)))


def wiener_filter(
    shear: ComplexArray,
    inverse_noise: Float64Array,
    power: Float64Array,
    phase: ComplexArray,
    *,
    pixel: float,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
) -> ComplexArray:
    """Most probable convergence given shears with noise and holes.

    Parameters
    ----------
    shear : (n, n) complex128
        Mean shear g1 + i g2 in each pixel; anything where there is none.
    inverse_noise : (n, n) float64
        Inverse variance of each component; zero where there is no shear.
    power : (n, n) float64 [sr]
        Prior power of each of E and B.
    phase : (n, n) complex128
        ``(l1 + i l2)^2 / l^2``.
    pixel : float [sr]
        Area of a pixel.
    tolerance : float
        Relative residual at which to stop.
    max_iterations : int
        Most iterations.

    Returns
    -------
    (n, n) complex128
        kappa_E + i kappa_B.

    Notes
    -----
    Conjugate gradients on ``(1 + R N^-1 R^T) y = R N^-1 d`` with ``kappa = S^(1/2) y`` and R the
    shear of it: well conditioned where there is no data.

    References
    ----------
    Simon, Taylor & Hartlap 2009, MNRAS 399, 48; Jeffrey et al. 2018, MNRAS 479, 2871.
    """
    # One Fourier mode of the array has the variance of power / pixel in numpy's orthonormal norm.
    root = np.sqrt(power / pixel)
    forward = root * phase
    data: ComplexArray = np.where(inverse_noise > 0, shear, 0.0 + 0.0j)

    def adjoint(values: ComplexArray) -> ComplexArray:
        return np.asarray(np.conj(forward) * fft.fft2(values, norm="ortho"))

    def apply(y: ComplexArray) -> ComplexArray:
        return y + adjoint(inverse_noise * fft.ifft2(forward * y, norm="ortho"))

    y = np.zeros_like(data)
    residual = adjoint(inverse_noise * data)
    direction = residual.copy()
    size = float(np.vdot(residual, residual).real)
    goal = tolerance**2 * size
    for _ in range(max_iterations):
        if size <= goal or size == 0.0:
            break
        moved = apply(direction)
        alpha = size / float(np.vdot(direction, moved).real)
        y += alpha * direction
        residual -= alpha * moved
        new = float(np.vdot(residual, residual).real)
        direction = residual + (new / size) * direction
        size = new
    return np.asarray(fft.ifft2(root * y, norm="ortho"))


def _prior_power(modulus: Float64Array, amplitude: float, core: float) -> Float64Array:
    return np.where(modulus > 0, amplitude * (1.0 + (modulus / core) ** 2) ** -_SLOPE, 0.0)


def _fit_prior(
    shear: ComplexArray,
    inverse_noise: Float64Array,
    modulus: Float64Array,
    phase: ComplexArray,
    pixel: float,
) -> tuple[float, float]:
    """Amplitude and core of the power, from the E modes of the shears weighted by their noise."""
    top = float(inverse_noise.max())
    window = inverse_noise / top
    e_mode = _invert(window * shear, phase).real
    periodogram = np.abs(fft.fft2(e_mode, norm="ortho")) ** 2 * pixel
    # Fraction of the field in the window, and white noise of the weighted shears; E is half of it.
    share = float(np.mean(window**2))
    positive = inverse_noise > 0
    noise = float(np.sum(window[positive] ** 2 / inverse_noise[positive])) / window.size * pixel
    use = (modulus > 0) & (modulus < 0.5 * modulus.max())
    value, ell = periodogram[use], modulus[use]
    bins = np.digitize(np.log(ell), np.linspace(np.log(ell.min()), np.log(ell.max()), 25))
    count = np.bincount(bins)
    full = count > 0
    mean_p = np.bincount(bins, weights=value)[full] / count[full]
    mean_l = np.exp(np.bincount(bins, weights=np.log(ell))[full] / count[full])
    count = count[full]

    def deviance(p: Float64Array) -> float:
        signal = _prior_power(mean_l, float(np.exp(p[0])), float(np.exp(p[1])))
        model = share * signal + noise * float(np.exp(p[2]))
        return float(np.sum(count * (np.log(model) + mean_p / model)))

    excess = max(float(np.mean(mean_p[:4])) - noise, 0.05 * noise) / share
    lowest = float(ell.min())
    start = np.array([np.log(excess), np.log(4.0 * lowest), 0.0])
    # A core beyond _MAX_CORE would be white, as noise is; its level is free by a third.
    limits = [
        (np.log(1e-6 * excess), np.log(1e4 * excess)),
        (np.log(lowest), np.log(max(_MAX_CORE, 2.0 * lowest))),
        (-0.3, 0.3),
    ]
    # The longest wave of a small field is shorter than the usual core.
    start = np.clip(start, *np.transpose(limits))
    found = minimize(deviance, start, method="Nelder-Mead", bounds=limits,
                     options={"maxiter": 2000})  # fmt: skip
    return float(np.exp(found.x[0])), float(np.exp(found.x[1]))


class _Field:
    """Shears of a catalogue on a padded grid whose first axis is North and second East."""

    def __init__(
        self, sample: ShearSample, middle: tuple[float, float], options: ConvergenceOptions
    ) -> None:
        east, north, g1, g2 = sample.in_plane(middle)
        self.points = choose_grid(
            east, north, middle=middle, step_arcsec=options.step_arcsec,
            extent_arcmin=options.extent_arcmin, half_limits=(2, 3000),
        )  # fmt: skip
        step, self.size = self.points.step, self.points.size
        inside = np.isfinite(east) & np.isfinite(north)
        self.padded = int(fft.next_fast_len(2 * self.size))
        ix = np.rint(np.where(inside, east, 1e9) / step).astype(int) + self.points.half
        iy = np.rint(np.where(inside, north, 1e9) / step).astype(int) + self.points.half
        keep = (ix >= 0) & (ix < self.size) & (iy >= 0) & (iy < self.size)
        self.index = (iy * self.padded + ix)[keep]
        self.weight = sample.weight[keep]
        self.shears = (g1 + 1j * g2)[keep]
        self.n_galaxies = int(keep.sum())
        self.pixel = (step * np.pi / 10800.0) ** 2
        self.modulus, self.phase = _multipoles(self.padded, step * np.pi / 10800.0)
        self.smoothing = options.smoothing_arcmin / step
        self.sum_w = self.total(self.weight).real
        sigma2 = float(
            np.sum(self.weight**2 * np.abs(self.shears) ** 2) / (2.0 * np.sum(self.weight**2))
        )
        sum_w2 = self.total(self.weight**2).real
        self.sum_w2s2 = sum_w2 * sigma2
        self.inverse_noise = np.where(
            sum_w2 > 0, self.sum_w**2 / np.maximum(self.sum_w2s2, 1e-30), 0.0
        )

    def total(self, values: NDArray[np.generic]) -> ComplexArray:
        """Sums over the galaxies of each pixel (n, n)."""
        size = self.padded**2
        out = np.bincount(self.index, weights=values.real, minlength=size) + 0j
        if np.iscomplexobj(values):
            out += 1j * np.bincount(self.index, weights=values.imag, minlength=size)
        return np.asarray(out.reshape(self.padded, self.padded))

    def mean_shear(self, shears: ComplexArray) -> ComplexArray:
        """Weighted mean of shears in each pixel; zero where there is no galaxy."""
        sums = self.total(self.weight * shears)
        return np.where(self.sum_w > 0, sums / np.where(self.sum_w > 0, self.sum_w, 1.0), 0.0)

    def smooth(self, values: Float64Array) -> Float64Array:
        """Convolve with the Gaussian; the sum of a kernel is one."""
        return np.asarray(gaussian_filter(values, self.smoothing, mode="constant", truncate=5.0))

    def crop(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The field itself, with East to the left."""
        return values[: self.size, : self.size][:, ::-1]


def _kaiser_squires(
    grid: _Field, options: ConvergenceOptions
) -> tuple[ComplexArray, Float64Array, NDArray[np.bool_]]:
    """Smoothed convergence, its standard error, and where there are too few galaxies."""
    weight = grid.smooth(grid.sum_w)
    filled = weight[grid.sum_w > 0]
    mask = weight < options.min_density * float(np.median(filled))
    safe = np.where(mask, 1.0, weight)
    sums = grid.total(grid.weight * grid.shears)
    smooth = grid.smooth(sums.real) + 1j * grid.smooth(sums.imag)
    reduced = np.asarray(smooth / safe, np.complex128)
    reduced[mask] = 0.0
    kappa = _invert(reduced, grid.phase)
    for _ in range(options.n_reduced):
        kappa = _invert(
            np.asarray(reduced * (1.0 - np.clip(kappa.real, -0.5, 0.9)), np.complex128), grid.phase
        )
    # Sum of squares under the squared kernel: a Gaussian of sigma / sqrt(2) over 4 pi sigma^2.
    narrow = gaussian_filter(
        grid.sum_w2s2, grid.smoothing / np.sqrt(2.0), mode="constant", truncate=5.0
    )
    variance = narrow / (4.0 * np.pi * grid.smoothing**2) / safe**2
    return kappa, np.where(mask, 0.0, np.sqrt(variance)), mask


def make_convergence_map(
    sample: ShearSample,
    *,
    rng: np.random.Generator,
    centre: tuple[float, float] | None = None,
    options: ConvergenceOptions = ConvergenceOptions(),
) -> ConvergenceMap:
    """Map the convergence of a field.

    Parameters
    ----------
    sample : ShearSample
        Galaxies.
    rng : numpy.random.Generator
        For the catalogues of turned shapes.
    centre : (ra, dec) [deg], optional
        Middle of the map; that of the catalogue if omitted.
    options : ConvergenceOptions
        Grid, smoothing, regularisation.

    Returns
    -------
    ConvergenceMap
        Direct and Wiener maps with their noise.

    Raises
    ------
    DataError
        If the centre lies outside the catalogue.

    References
    ----------
    Kaiser & Squires 1993, ApJ 404, 441; Seitz & Schneider 1995, A&A 297, 287 (reduced shear).
    """
    middle = sample.middle() if centre is None else centre
    grid = _Field(sample, middle, options)
    kappa, sigma, mask = _kaiser_squires(grid, options)
    shear = grid.mean_shear(grid.shears)
    prior = _fit_prior(shear, grid.inverse_noise, grid.modulus, grid.phase, grid.pixel)
    power = _prior_power(grid.modulus, *prior)

    def reconstruct(values: ComplexArray) -> ComplexArray:
        return wiener_filter(
            values, grid.inverse_noise, power, grid.phase, pixel=grid.pixel,
            tolerance=options.tolerance, max_iterations=options.max_iterations,
        )  # fmt: skip

    wiener = reconstruct(shear)
    square = np.zeros(wiener.shape)
    for _ in range(options.n_noise):
        angle = rng.uniform(0.0, 2.0 * np.pi, len(grid.shears))
        noise = reconstruct(grid.mean_shear(grid.shears * np.exp(1j * angle)))
        square += 0.5 * np.abs(noise) ** 2  # E and B are two draws
    kappa = np.where(mask, 0.0, kappa)
    planes = [kappa.real, kappa.imag, sigma, wiener.real, wiener.imag,
              np.sqrt(square / max(options.n_noise, 1))]  # fmt: skip
    e, b, s, we, wb, ws = (grid.crop(p).astype(np.float32) for p in planes)
    return ConvergenceMap(
        kappa_e=e, kappa_b=b, sigma=s, wiener_e=we, wiener_b=wb, wiener_sigma=ws,
        mask=np.asarray(grid.crop(mask), bool), n_galaxies=grid.n_galaxies, prior=prior,
        wcs=grid.points.wcs,
    )  # fmt: skip
