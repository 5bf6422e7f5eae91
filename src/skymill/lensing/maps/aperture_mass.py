"""Maps of the aperture mass: E mode, B mode and their variance, for many apertures at once.

For each point of a grid the galaxies are summed once into radial bins; every aperture is then a
matrix product of the bins with its filter. See ``docs/steps/mass_map.md`` for the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError
from skymill.data.geometry import FitsWcs
from skymill.data.options import check_choice, check_range, option
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.maps._aperture_kernels import radial_histograms
from skymill.lensing.maps.filters import FILTER_NAMES, aperture_filter
from skymill.lensing.maps.grid import choose_grid, image_hdus, require_planes

__all__ = [
    "ApertureMassMap",
    "ApertureMassOptions",
    "filter_matrix",
    "make_aperture_mass_map",
    "sort_into_cells",
    "sum_over_grid",
]

Float32Array = NDArray[np.float32]
# Steps in sqrt(r) to which the edges of the radial bins are rounded.
_FINE = 16384


@dataclass(frozen=True, kw_only=True)
class ApertureMassOptions:
    """Grid, apertures and filter of a mass map."""

    filter: str = option("schirmer", "Filter: schirmer, polynomial, gaussian or tsis")
    aperture_min_arcmin: float = option(2.0, "Radius of the smallest aperture", unit="arcmin")
    aperture_max_arcmin: float = option(
        0.0,
        "Radius of the largest aperture; 0 takes half of the field's smaller side, at most 127",
        unit="arcmin",
    )
    n_apertures: int = option(27, "Number of apertures, equally spaced in radius")
    step_arcsec: float = option(26.3, "Distance of grid points", unit="arcsec")
    extent_arcmin: float = option(
        0.0, "Side of the square map; 0 takes the extent of the catalogue", unit="arcmin"
    )
    radial_bins: int = option(1024, "Radial bins, equally spaced in the square root of the radius")

    def __post_init__(self) -> None:
        check_choice(self, "filter", FILTER_NAMES)
        check_range(self, "aperture_min_arcmin", low=0.0, low_open=True)
        check_range(self, "aperture_max_arcmin", low=0.0)
        check_range(self, "n_apertures", low=1, high=500)
        check_range(self, "step_arcsec", low=0.0, low_open=True)
        check_range(self, "extent_arcmin", low=0.0)
        check_range(self, "radial_bins", low=64, high=16384)
        if 0 < self.aperture_max_arcmin < self.aperture_min_arcmin:
            raise ConfigError(
                "aperture_max_arcmin must be >= aperture_min_arcmin = "
                f"{self.aperture_min_arcmin} arcmin; got {self.aperture_max_arcmin}"
            )


@dataclass(frozen=True, kw_only=True)
class ApertureMassMap:
    """Aperture mass on a grid with North up and East left.

    Parameters
    ----------
    e_mode, b_mode, variance : (n_aperture, ny, nx) float32
        Aperture mass of the tangential shear, of the cross shear, and the variance of each.
    coverage : (n_aperture, ny, nx) float32
        Weight inside the aperture over that of a full aperture at the field's median density.
    apertures : (n_aperture,) float64 [arcmin]
        Radii.
    filter : str
        Filter function.
    wcs : FitsWcs
        Mapping of the grid's pixels to the sky.
    n_galaxies : int
        Galaxies used.
    """

    e_mode: Float32Array
    b_mode: Float32Array
    variance: Float32Array
    coverage: Float32Array
    apertures: NDArray[np.float64]
    filter: str
    wcs: FitsWcs
    n_galaxies: int

    @property
    def step_arcmin(self) -> float:
        """Distance of grid points [arcmin]."""
        return float(proj_plane_pixel_scales(self.wcs.astropy)[1]) * 60.0

    def snr(self, mode: str = "E") -> Float32Array:
        """Signal to noise (n_aperture, ny, nx) of the E or the B mode; zero without galaxies."""
        if mode not in ("E", "B"):
            raise ConfigError(f"mode must be E or B; got {mode!r}")
        signal = self.e_mode if mode == "E" else self.b_mode
        positive = self.variance > 0
        return np.where(positive, signal / np.sqrt(np.where(positive, self.variance, 1)), 0).astype(
            np.float32
        )

    def to_hdulist(self) -> fits.HDUList:
        """FITS file in memory.

        Returns
        -------
        astropy.io.fits.HDUList
            Cubes ``E``, ``B``, ``VARIANCE``, ``SNR_E``, ``SNR_B``, ``COVERAGE`` whose first two
            axes carry the celestial WCS and whose third is the aperture, and a table ``APERTURES``.
        """
        primary = fits.PrimaryHDU()
        primary.header["FILTER"] = (self.filter, "aperture-mass filter")
        primary.header["NGAL"] = (self.n_galaxies, "galaxies used")
        hdus: list[fits.hdu.base.ExtensionHDU] = [primary]
        planes = {
            "E": self.e_mode,
            "B": self.b_mode,
            "VARIANCE": self.variance,
            "SNR_E": self.snr("E"),
            "SNR_B": self.snr("B"),
            "COVERAGE": self.coverage,
        }
        header = self.wcs.header
        header.pop("WCSAXES", None)
        header["WCSAXES"] = 3
        header["CTYPE3"] = ("APERTURE", "linear index; radii are in table APERTURES")
        header["CRPIX3"], header["CRVAL3"], header["CDELT3"] = 1.0, 0.0, 1.0
        hdus += image_hdus(planes, header)
        hdus.append(
            fits.BinTableHDU.from_columns(
                [fits.Column("radius", "D", unit="arcmin", array=self.apertures)], name="APERTURES"
            )
        )
        return fits.HDUList(hdus)

    @classmethod
    def from_hdulist(cls, hdus: fits.HDUList) -> ApertureMassMap:
        """Read what `to_hdulist` wrote.

        Parameters
        ----------
        hdus : astropy.io.fits.HDUList
            The open file.

        Returns
        -------
        ApertureMassMap
            The map.

        Raises
        ------
        DataError
            If an extension is missing.
        """
        require_planes(hdus, ("E", "B", "VARIANCE", "COVERAGE", "APERTURES"), what="mass map")
        cubes = {
            n: np.asarray(hdus[n].data, np.float32) for n in ("E", "B", "VARIANCE", "COVERAGE")
        }
        header = hdus["E"].header.copy()
        for key in ("WCSAXES", "CTYPE3", "CRPIX3", "CRVAL3", "CDELT3"):
            header.pop(key, None)
        return cls(
            e_mode=cubes["E"],
            b_mode=cubes["B"],
            variance=cubes["VARIANCE"],
            coverage=cubes["COVERAGE"],
            apertures=np.asarray(hdus["APERTURES"].data["radius"], np.float64),
            filter=hdus[0].header["FILTER"],
            wcs=FitsWcs(header),
            n_galaxies=int(hdus[0].header["NGAL"]),
        )


def _choose_apertures(options: ApertureMassOptions, half_field: float) -> NDArray[np.float64]:
    low, high = options.aperture_min_arcmin, options.aperture_max_arcmin
    if high == 0.0:
        high = max(min(half_field, 127.0), low)
    n = options.n_apertures if high > low else 1
    return np.linspace(low, high, n)


def sort_into_cells(
    columns: NDArray[np.floating], size: float
) -> tuple[NDArray[np.floating], NDArray[np.int64], int, int, float, float]:
    """Galaxies sorted by square cells, the x axis running fastest, and where each cell starts.

    Parameters
    ----------
    columns : (m, n) float
        Properties of the galaxies; the first two are East and North [arcmin].
    size : float [arcmin]
        Side of a cell.

    Returns
    -------
    columns : (m, n) float
        In the new order.
    start : (n_cell + 1,) int64
        First galaxy of each cell.
    nx, ny : int
        Cells in each direction.
    x0, y0 : float [arcmin]
        Corner of the first.
    """
    east, north = columns[0], columns[1]
    x0, y0 = float(east.min()) - 1e-3, float(north.min()) - 1e-3
    ix = ((east - x0) / size).astype(np.int64)
    iy = ((north - y0) / size).astype(np.int64)
    nx, ny = int(ix.max()) + 1, int(iy.max()) + 1
    cell = iy * nx + ix
    order = np.argsort(cell, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=nx * ny))])
    return np.ascontiguousarray(columns[:, order]), start, nx, ny, x0, y0


def filter_matrix(
    filter_name: str, edges: NDArray[np.float64], apertures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """R^2 Q at the middle of each radial bin.

    Parameters
    ----------
    filter_name : str
        Filter function.
    edges : (n_bins + 1,) float64 [arcmin]
        Edges of the bins.
    apertures : (n_aperture,) float64 [arcmin]
        Radii.

    Returns
    -------
    (n_bins, n_aperture) float64
        Values.
    """
    # Galaxies fill a ring in proportion to r: its mean radius, not its middle.
    low, high = edges[:-1], edges[1:]
    middle = 2.0 / 3.0 * (high**3 - low**3) / (high**2 - low**2)
    return aperture_filter(filter_name, middle[:, None] / apertures[None, :])


def _inside_matrix(
    edges: NDArray[np.float64], apertures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The fraction of each radial bin's area within each aperture: (n_bins, n_aperture)."""
    low, high = edges[:-1, None] ** 2, edges[1:, None] ** 2
    return np.clip((apertures[None, :] ** 2 - low) / (high - low), 0.0, 1.0)


def _radial_bins(
    n_bins: int, apertures: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Edges equally spaced in sqrt(r) and at every aperture, and the bin of each fine step."""
    r_max = float(apertures.max())
    wanted = np.concatenate([np.arange(n_bins + 1) / n_bins, np.sqrt(apertures / r_max)])
    steps = np.unique(np.rint(wanted * _FINE).astype(np.int64))
    lookup = np.searchsorted(steps, np.arange(_FINE + 1), side="right") - 1
    return (steps / _FINE) ** 2 * r_max, lookup.astype(np.int32)


def make_aperture_mass_map(
    sample: ShearSample,
    *,
    centre: tuple[float, float] | None = None,
    options: ApertureMassOptions = ApertureMassOptions(),
) -> ApertureMassMap:
    """Map the aperture mass of a field.

    Parameters
    ----------
    sample : ShearSample
        Galaxies.
    centre : (ra, dec) [deg], optional
        Middle of the map; that of the catalogue if omitted.
    options : ApertureMassOptions
        Grid, apertures, filter.

    Returns
    -------
    ApertureMassMap
        Maps of each aperture.

    Raises
    ------
    DataError
        If the centre lies outside the catalogue.

    References
    ----------
    Schneider 1996, MNRAS 283, 837; Schirmer et al. 2007, A&A 462, 875.
    """
    middle = sample.middle() if centre is None else centre
    east, north, g1, g2 = sample.in_plane(middle)
    if not (np.isfinite(east).all() and np.isfinite(north).all()):
        raise DataError(
            f"galaxies lie more than 89 deg from the centre ra={middle[0]:.5f}, "
            f"dec={middle[1]:.5f}; give a centre inside the field"
        )
    grid = choose_grid(
        east, north, middle=middle, step_arcsec=options.step_arcsec,
        extent_arcmin=options.extent_arcmin, half_limits=(1, 5000),
    )  # fmt: skip
    apertures = _choose_apertures(options, 0.5 * min(np.ptp(east), np.ptp(north)))
    w = sample.weight / sample.weight.mean()
    columns = np.stack([east, north, w * g1, w * g2, 0.5 * w * w * (g1**2 + g2**2), w])
    cubes = sum_over_grid(
        columns.astype(np.float32), grid.offsets, apertures, options.filter, options.radial_bins
    )
    signal_e, signal_b, noise, weight = cubes
    positive = weight > 0
    norm = np.pi / np.where(positive, weight, 1.0)  # A Q = pi (R^2 Q)
    density = weight[:, positive.all(axis=0)]
    full = np.median(density, axis=1) if density.size else weight.max(axis=(1, 2))
    return ApertureMassMap(
        e_mode=(signal_e * norm).astype(np.float32),
        b_mode=(signal_b * norm).astype(np.float32),
        variance=np.where(positive, noise * norm**2, 0.0).astype(np.float32),
        coverage=(weight / np.maximum(full, 1e-30)[:, None, None]).astype(np.float32),
        apertures=apertures,
        filter=options.filter,
        wcs=grid.wcs,
        n_galaxies=len(sample),
    )


def sum_over_grid(
    columns: Float32Array,
    offsets: NDArray[np.float64],
    apertures: NDArray[np.float64],
    filter_name: str,
    n_bins: int,
) -> Float32Array:
    """Sums over the galaxies of each aperture at each point of a square grid.

    Parameters
    ----------
    columns : (6, n) float32
        East, North [arcmin], w g1, w g2, w^2 |g|^2 / 2, w.
    offsets : (n_grid,) float64 [arcmin]
        Places of the grid along North; those along East are their negatives.
    apertures : (n_aperture,) float64 [arcmin]
        Radii.
    filter_name : str
        Filter function Q.
    n_bins : int
        Radial bins.

    Returns
    -------
    (4, n_aperture, ny, nx) float32
        Sums of R^2 Q w g_t, R^2 Q w g_x, R^4 Q^2 w^2 |g|^2 / 2 and w.
    """
    r_max = float(apertures.max())
    edges, lookup = _radial_bins(n_bins, apertures)
    n = len(edges) - 1
    size = max(r_max / 6.0, float(np.ptp(columns[0])) / 200.0, 1e-3)
    galaxies, start, ncx, ncy, x0, y0 = sort_into_cells(columns, size)
    q = filter_matrix(filter_name, edges, apertures)
    matrices = [m.astype(np.float32) for m in (q, q, q * q, _inside_matrix(edges, apertures))]
    n_grid, n_ap = len(offsets), len(apertures)
    out = np.empty((4, n_ap, n_grid, n_grid), dtype=np.float32)
    hist = np.empty((4, n_grid, n), dtype=np.float32)
    buffer = np.empty((2, galaxies.shape[1]), dtype=np.float32)
    index = np.empty(galaxies.shape[1], dtype=np.int32)
    row_east = -offsets
    for j, row_north in enumerate(offsets):
        radial_histograms(
            row_north, row_east, start, ncx, ncy, size, x0, y0,
            galaxies, r_max, lookup, n, buffer, index, hist,
        )  # fmt: skip
        for k in range(4):
            out[k, :, j, :] = (hist[k] @ matrices[k]).T
    return out
