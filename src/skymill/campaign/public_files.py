"""Products of a step as plain files in the folder of the cluster, under the published names."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from skymill.campaign.cluster import Cluster
from skymill.data.catalogue_files import write_bytes
from skymill.data.errors import DataError
from skymill.data.files import atomic_path

__all__ = ["PUBLIC_FOLDERS", "write_public_files"]

#: Folder that a step writes, below that of the cluster.
PUBLIC_FOLDERS = {
    "skymap": ".",
    "photometric_calibration": "photometric_correction_output",
    "photo_z": "photo_z_output",
    "shear_calibration": "shear_calibration_output",
    "mass_map": "mass_map_output",
    "mass_fit": "mass_fit_output",
    "quality_check": "quality_check_output",
    "red_sequence": "red_sequence_output",
    "export_data": "combine_patch_color_output",
    "meta_export": "metadetect_export",
    "meta_process": "metadetect_processing",
    "meta_lensing": "meta_lensing_output",
}
_CATALOGUES = "read_catalog_all_output"


class _Products:
    """Datasets of one collection and tract, and the files made of them."""

    def __init__(self, butler: Any, cluster: Cluster, step: str, tract: int, stem: str) -> None:
        self.butler = butler
        self.cluster = cluster
        self.tract = tract
        self.name = stem
        self.collection = f"DECam/processing/{step}"
        self.folder = cluster.folder / PUBLIC_FOLDERS.get(step, step)
        self.written: list[Path] = []

    def refs(self, name: str, collection: str = "") -> list[Any]:
        """Datasets of a type in this tract; none if there is no such type or collection."""
        from lsst.daf.butler import MissingCollectionError, MissingDatasetTypeError

        try:
            found = self.butler.query_datasets(
                name,
                collections=collection or self.collection,
                data_id={"skymap": self.cluster.skymap_name, "tract": self.tract},
                limit=None,
                explain=False,
            )
        except (MissingDatasetTypeError, MissingCollectionError):
            return []
        return sorted(found, key=lambda ref: str(ref.dataId))

    def get(self, name: str) -> Any:
        """The dataset of a type; `None` if there is none."""
        refs = self.refs(name)
        return self.butler.get(refs[0]) if refs else None

    def copy(self, ref: Any, path: Path) -> None:
        """The file of a dataset."""
        try:
            with atomic_path(path) as draft:
                _link_or_copy(self.butler.getURI(ref).ospath, draft)
        except OSError as exc:
            raise DataError(f"{path} cannot be written: {exc.strerror or exc}") from exc
        self.written.append(path)

    def copy_type(self, name: str, file: str) -> None:
        """The file of a dataset type, if there is one."""
        for ref in self.refs(name)[:1]:
            self.copy(ref, self.folder / file)

    def write(self, content: bytes, path: Path) -> None:
        """Bytes, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(content, path)
        self.written.append(path)

    def write_csv(self, table: Table, file: str, folder: Path | None = None) -> None:
        """A table without its columns of arrays."""
        self.write(csv_bytes(table), (folder or self.folder) / file)

    def write_fits(self, hdus: fits.HDUList, file: str) -> None:
        """A FITS file."""
        buffer = io.BytesIO()
        hdus.writeto(buffer)
        self.write(buffer.getvalue(), self.folder / file)


def _link_or_copy(source: str, target: Path) -> None:
    """Images are linked where the disk allows it: mosaics of a tract have gigabytes."""
    target.unlink(missing_ok=True)
    if source.endswith(".fits"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def csv_bytes(table: Table) -> bytes:
    """A table as CSV: True and False, nan, and numbers that read back as they were.

    Parameters
    ----------
    table : astropy.table.Table
        Any table; columns of arrays are left out.

    Returns
    -------
    bytes
        The file.
    """
    import pyarrow as pa
    from pyarrow import csv

    columns: dict[str, Any] = {}
    for name in table.colnames:
        values = np.asarray(table[name])
        if values.ndim != 1:
            continue
        if values.dtype.kind in "bSO":
            values = values.astype(str)
        columns[name] = pa.array(values.astype(object) if values.dtype.kind == "U" else values)
    header = (",".join(columns) + "\n").encode()
    for quoting in ("none", "needed"):
        buffer = io.BytesIO()
        options = csv.WriteOptions(include_header=False, quoting_style=quoting)
        try:
            csv.write_csv(pa.table(columns), buffer, write_options=options)
        except pa.ArrowInvalid:
            # A comma or a quote within a text: all texts are quoted then.
            continue
        break
    return header + buffer.getvalue()


def _range_name(indices: list[tuple[int, int]]) -> str:
    """The published name of a block of patches: ``00-1111`` from (0, 0) to (11, 11)."""
    xs, ys = [i[0] for i in indices], [i[1] for i in indices]
    return f"{min(xs)}{min(ys)}-{max(xs)}{max(ys)}"


def _export_data(out: _Products) -> None:
    tract = out.butler.get("skyMap", skymap=out.cluster.skymap_name, collections="skymaps").tract(
        out.tract
    )
    whole = _range_name([(p.ix, p.iy) for p in tract.patches])
    folder = out.cluster.folder / _CATALOGUES
    for ref in out.refs("exportCatalog")[:1]:
        out.copy(ref, folder / f"{out.name}_{whole}_all.parquet")
        out.write_csv(out.butler.get(ref), f"{out.name}_{whole}_all.csv", folder)
    for suffix, collection in (("", ""), ("_skycorr", "DECam/processing/export_data_skycorr")):
        shown = whole
        for ref in out.refs(f"exportMosaic{suffix}", collection):
            path = out.butler.getURI(ref).ospath
            shown = _mosaic_range(path, tract) or whole
            file = f"{out.name}_{ref.dataId['band']}{shown}_deepCoadd{suffix}.fits"
            out.copy(ref, out.folder / file)
        for ref in out.refs(f"exportColor{suffix}", collection)[:1]:
            file = f"{out.name}_{shown}_irg_deepCoadd{suffix}_blocked.png"
            out.copy(ref, out.folder / file)


def _mosaic_range(path: str, tract: Any) -> str:
    """Patches that a mosaic shows, from its place in the tract."""
    header = fits.getheader(path)
    x0, y0 = -int(header["LTV1"]), -int(header["LTV2"])
    x1, y1 = x0 + int(header["NAXIS1"]), y0 + int(header["NAXIS2"])
    inside = []
    for patch in tract.patches:
        box = patch.inner_box
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        if x0 <= x < x1 and y0 <= y < y1:
            inside.append((patch.ix, patch.iy))
    return _range_name(inside) if inside else ""


def _photometric_calibration(out: _Products) -> None:
    for name, stem in (("dereddenedCatalog", "dered"), ("calibratedCatalog", "dered_dezp")):
        table = out.get(name)
        if table is None:
            continue
        extended = np.asarray(table["extendedness"], float)
        out.write_csv(table, f"{out.name}_{stem}.csv")
        out.write_csv(table[extended < 0.5], f"{out.name}_{stem}_stars.csv")
        out.write_csv(table[extended > 0.5], f"{out.name}_{stem}_gals.csv")
        out.copy_type(name, f"{out.name}_{stem}.parquet")
    zero_points = out.get("zeroPoints")
    if zero_points is not None:
        out.write_csv(zero_points, f"{out.name}_zero_points.csv")
        # As published: a column for each band, the bias and its error as rows.
        rows = Table(
            {
                str(r["band"]): [float(r["offset"]), float(r["offset_err"])]
                for r in zero_points
                if str(r["source"]) != "none"
            }
        )
        out.write_csv(rows, f"{out.name}_matched_residuals.csv")
        _draw_locus(out, zero_points)
    stars = out.get("zeroPointStars")
    if stars is not None:
        from skymill.calibrate.residual_map import map_residuals
        from skymill.qa.zero_point_figures import draw_zero_points

        out.write_csv(stars, f"{out.name}_star_residuals.csv")
        out.write_csv(map_residuals(stars), f"{out.name}_residual_map.csv")
        picture = draw_zero_points(stars, title=out.name)
        out.write(picture, out.folder / f"{out.name}_zero_points.png")
    compared = out.get("photometryComparison")
    if compared is not None:
        out.write_csv(compared, f"{out.name}_mag_diffs.csv")
        out.write_csv(out.get("photometryComparisonStars"), f"{out.name}_mag_diffs_stars.csv")


def _draw_locus(out: _Products, zero_points: Table) -> None:
    """Colours of the stars before and after the zero points."""
    from skymill.qa.zero_point_figures import draw_stellar_locus

    table = out.get("dereddenedCatalog")
    if table is not None:
        stars = table[np.asarray(table["is_star"], bool)]
        picture = draw_stellar_locus(stars, zero_points, title=out.name)
        out.write(picture, out.folder / f"{out.name}_stellar_locus.png")


def _photo_z(out: _Products) -> None:
    out.copy_type("photoz", f"{out.name}_photo_z.parquet")
    table = out.get("photoz")
    if table is not None:
        from skymill.qa.photoz_figures import draw_photoz

        out.write_csv(table, f"{out.name}_photo_z.csv")
        truth = table["spec_z"] if "spec_z" in table.colnames else None
        out.write(draw_photoz(table, truth, title=out.name), out.folder / f"{out.name}_photo_z.png")
    metrics = out.get("photozMetrics")
    if metrics is not None:
        out.write_csv(metrics, f"{out.name}_photo_z_metrics.csv")


def _shear_calibration(out: _Products) -> None:
    out.copy_type("shearCatalog", f"{out.name}_shear.parquet")
    table = out.get("shearCatalog")
    if table is not None:
        out.write_csv(table, f"{out.name}_shear.csv")


def _mass_map(out: _Products) -> None:
    from skymill.lensing.maps.aperture_mass import ApertureMassMap

    peaks, hdus = out.get("massMapPeaks"), out.get("massMap")
    if peaks is None or hdus is None:
        return
    maps = ApertureMassMap.from_hdulist(hdus)
    for mode in ("E", "B"):
        chosen = peaks[np.asarray(peaks["mode"]).astype(str) == mode]
        out.write_csv(chosen, f"Map_{mode}_peak_catalog_{maps.filter}.csv")
    pixel = out.cluster.skymap.pixel_scale
    for index, radius in enumerate(maps.apertures):
        one = fits.HDUList(
            [fits.PrimaryHDU(maps.e_mode[index]), fits.ImageHDU(maps.b_mode[index], name="M_B")]
        )
        one.append(fits.ImageHDU(maps.variance[index], name="M_V"))
        for hdu in one:
            hdu.header.extend(maps.wcs.header, update=True)
            hdu.header["APERTURE"] = (float(radius), "radius [arcmin]")
        one[0].header["FILTER"] = maps.filter
        out.write_fits(one, f"Map_{maps.filter}_{round(radius * 60 / pixel)}.fits")
    out.copy_type("massMap", "mass_map.fits")
    out.copy_type("massMapPeaks", "mass_map_peaks.parquet")
    out.copy_type("convergenceMap", "convergence_map.fits")
    out.copy_type("convergenceMapPicture", "convergence_map.png")
    out.copy_type("massMapOverlay", f"{out.name}_overlay_contours_map_rgb.png")
    best = peaks[np.asarray(peaks["is_best"], bool)]
    radius = float(best["aperture"][0]) if len(best) else float(maps.apertures[0])
    out.copy_type("massMapPicture", f"Map_SN_Rs_{round(radius * 60 / pixel)}.png")


def _mass_fit(out: _Products) -> None:
    fit, profile = out.get("massFit"), out.get("massProfile")
    if fit is not None:
        dof = np.maximum(np.asarray(fit["dof_profile"], float), 1.0)
        rows = Table(
            {
                "median_mass": fit["m200_median"],
                "mass_upper_ci": fit["m200_upper"],
                "mass_lower_ci": fit["m200_lower"],
                "reduced_chi_square": np.asarray(fit["chi2_profile"]) / dof,
            }
        )
        out.write_csv(rows, "mass_peak_statistics.csv")
        out.write_csv(fit, f"{out.name}_mass_fit.csv")
        out.copy_type("massFit", f"{out.name}_mass_fit.parquet")
        out.copy_type("massHalos", f"{out.name}_mass_halos.parquet")
        out.copy_type("massHalosPicture", "mass_halos.png")
    if profile is not None:
        out.write_csv(profile, f"{out.name}_mass_profile.csv")
        out.copy_type("massProfile", f"{out.name}_mass_profile.parquet")
    out.copy_type("massFitPicture", "delta_sigma_profile.png")


def _quality_check(out: _Products) -> None:
    table = out.get("qualityTable")
    if table is not None:
        out.write_csv(table, f"{out.name}_quality.csv")
    out.copy_type("qualityTable", f"{out.name}_quality.parquet")
    for name in ("", "Sky", "Psf", "Null"):
        suffix = f"_{name.lower()}" if name else ""
        out.copy_type(f"quality{name}Picture", f"{out.name}_quality{suffix}.png")


def _red_sequence(out: _Products) -> None:
    from skymill.qa.mass_figures import draw_density

    table, hdus = out.get("redSequence"), out.get("redSequenceMap")
    if table is not None:
        out.write_csv(table, f"{out.name}_red_sequence.csv")
        out.copy_type("redSequence", f"{out.name}_red_sequence.parquet")
    out.copy_type("redSequencePicture", f"{out.name}_red_sequence.png")
    grades = out.get("redSequenceGrades")
    if grades is not None:
        out.write_csv(grades, f"{out.name}_red_sequence_grades.csv")
    if hdus is not None:
        out.copy_type("redSequenceMap", "rs_density_kde.fits")
        title = f"{out.cluster.name}: red sequence"
        out.write(draw_density(hdus["DENSITY"], title=title), out.folder / "rs_density.png")


def _versions(table: Table) -> dict[str, Table]:
    """The rows of each sheared version."""
    names = np.asarray(table["shear"]).astype(str)
    return {str(name): table[names == name] for name in np.unique(names)}


def _meta_export(out: _Products) -> None:
    table = out.get("metaCatalog")
    if table is not None:
        for version, rows in _versions(table).items():
            out.write_csv(rows, f"{out.name}_metadetect_{version}.csv")


def _meta_process(out: _Products) -> None:
    table = out.get("metaCalibratedCatalog")
    if table is not None:
        for version, rows in _versions(table).items():
            out.write_csv(rows, f"{out.name}_{version}_dered_dezp_zphot_gals.csv")
        out.copy_type("metaCalibratedCatalog", f"{out.name}_meta.parquet")


def _meta_lensing(out: _Products) -> None:
    table, response = out.get("metaShearCatalog"), out.get("metaResponse")
    calibrate = out.folder / "calibrate"
    if table is not None:
        name = f"{out.name}_noshear_dered_dezp_zphot_gals_meta_cal.csv"
        out.write_csv(table, name, calibrate)
    if response is not None:
        out.write_csv(response, f"{out.name}_response.csv", calibrate)
    for name, writer in (("mass_map", _mass_map), ("mass_fit", _mass_fit)):
        part = _Products(out.butler, out.cluster, f"meta_{name}", out.tract, out.name)
        part.folder = out.folder / name
        writer(part)
        out.written += part.written


def _skymap(out: _Products) -> None:
    from skymill.qa.pictures import draw_sky_map

    tract = out.butler.get("skyMap", skymap=out.cluster.skymap_name, collections="skymaps").tract(
        out.tract
    )
    records = out.butler.query_dimension_records(
        "visit_detector_region", instrument="DECam", limit=None, explain=False
    )
    corners = [_corners(r.region) for r in records]
    good = [c for c in corners if len(c[0]) == 4]
    ra, dec = [c[0] for c in good], [c[1] for c in good]
    file = "skymap_indices.png" if out.tract == 0 else f"skymap_indices_{out.tract}.png"
    out.write(draw_sky_map(tract, ra=ra, dec=dec), out.folder / file)


def _corners(region: Any) -> tuple[list[float], list[float]]:
    from lsst.sphgeom import LonLat

    points = [LonLat(vertex) for vertex in region.getVertices()]
    return [p.getLon().asDegrees() for p in points], [p.getLat().asDegrees() for p in points]


_WRITERS: dict[str, Callable[[_Products], None]] = {
    "skymap": _skymap,
    "export_data": _export_data,
    "photometric_calibration": _photometric_calibration,
    "photo_z": _photo_z,
    "shear_calibration": _shear_calibration,
    "mass_map": _mass_map,
    "mass_fit": _mass_fit,
    "quality_check": _quality_check,
    "red_sequence": _red_sequence,
    "meta_export": _meta_export,
    "meta_process": _meta_process,
    "meta_lensing": _meta_lensing,
}


def write_public_files(cluster: Cluster, step: str) -> list[Path]:
    """Write the products of a step for people, each file whole or not at all.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : str
        Name of the step; those without public files write nothing.

    Returns
    -------
    list of Path
        The files. Names hold the tract where the sky map has several.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    writer = _WRITERS.get(step)
    if writer is None:
        return []
    from lsst.daf.butler import Butler

    written: list[Path] = []
    with Butler.from_config(cluster.repo_path) as butler:
        sky_map = butler.get("skyMap", skymap=cluster.skymap_name, collections="skymaps")
        numbers = [tract.index for tract in sky_map.tracts]
        for number in numbers:
            stem = cluster.name if len(numbers) == 1 else f"{cluster.name}_tract{number}"
            products = _Products(butler, cluster, step, number, stem)
            writer(products)
            written += products.written
    return written
