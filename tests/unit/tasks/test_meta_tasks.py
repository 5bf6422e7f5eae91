"""The tasks of metadetection one after the other, and their pipelines."""

import numpy as np
import pytest
from astropy.table import Table
from lsst.pipe.base import NoWorkFound, Pipeline
from scipy import ndimage

from skymill.data.catalogue_files import write_catalogue
from skymill.data.errors import ConfigError, MissingInputError
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.tables import load_schema
from skymill.psf.models import ConstantPsf
from skymill.shear.metacal import SHEAR_TYPES
from skymill.tasks.meta_cells import MetaCellsTask
from skymill.tasks.meta_export import MetaExportTask
from skymill.tasks.meta_measure import MetaMeasureTask
from skymill.tasks.meta_process import MetaProcessTask
from skymill.tasks.meta_shear import MetaShearTask, _read

DRP = "resource://skymill/pipelines/DRP-LoVoCCS.yaml"
SIDE = 200
BOX = Box(x0=0, y0=0, x1=SIDE, y1=SIDE)
INNER = Box(x0=20, y0=20, x1=180, y1=180)
WCS = make_tan_wcs(ra=10.0, dec=-5.0, scale=0.263, x=100, y=100)


def coadd(band, flux=3000.0):
    """25 round galaxies (Gaussians) of a patch."""
    image = np.zeros((SIDE, SIDE))
    for k in range(25):
        image[36 + 32 * (k // 5), 36 + 32 * (k % 5)] = flux
    image = ndimage.gaussian_filter(image, 2.6)
    image += np.random.default_rng(ord(band)).normal(0, 1.0, image.shape)
    planes = PixelPlanes(
        image.astype(np.float32), np.ones(image.shape, np.float32),
        np.zeros(image.shape, np.int32), unit="nJy",
    )  # fmt: skip
    return Coadd(
        planes=planes, box=BOX, inner_box=INNER, band=band, skymap="s", tract=0, patch=2,
        wcs=WCS, psf=ConstantPsf.gaussian(1.8, 31),
    )  # fmt: skip


def cells_task(**values):
    config = MetaCellsTask.ConfigClass()
    config.cells.size, config.cells.rim = 80, 20
    # Nothing is marked as detected here: the noise is taken as white.
    config.noise.min_pixels = 10**6
    for name, value in values.items():
        setattr(config, name, value)
    config.validate()
    return MetaCellsTask(config=config)


def measure_task(shear):
    config = MetaMeasureTask.ConfigClass()
    config.shear = shear
    config.metadetect.metacal.step = 0.02  # options within options reach the algorithm
    return MetaMeasureTask(config=config)


def star(magnitude):
    return Table(
        {"ra": [10.0], "dec": [-5.0], "phot_g_mean_flux": [10 ** (-0.4 * (magnitude - 31.4))]}
    )


def test_tasks_one_after_the_other(tmp_path):
    coadds = {band: coadd(band) for band in "gr"}
    cells = cells_task().run(coadds, [star(17.0)]).cells
    assert cells.stars.shape == (3, 1)
    np.testing.assert_allclose(cells.stars[:2, 0], [100, 100], atol=1e-6)
    assert cells.stars[2, 0] == pytest.approx(5 / 0.263, rel=1e-3)
    tables = {name: [measure_task(name).run(coadds, cells).objects] for name in SHEAR_TYPES}
    # The galaxy in the middle lies on the masked star.
    assert {len(parts[0]) for parts in tables.values()} == {24}
    joined = MetaExportTask(config=MetaExportTask.ConfigClass()).run(tables).catalog
    zero = Table({"band": ["g", "r"], "offset": [0.0, 0.0], "source": ["ps1 g", "ps1 r"]})
    result = MetaProcessTask(config=MetaProcessTask.ConfigClass()).run(joined, zero)
    assert load_schema("metaCalibratedCatalog").problems(result.outputCatalog) == []
    assert load_schema("photoz").problems(result.photoz) == []
    assert len(result.photoz) == 24
    config = MetaShearTask.ConfigClass()
    config.metadetect.metacal.step = 0.02
    done = MetaShearTask(config=config).run(result.outputCatalog)
    assert load_schema("shearCatalog").problems(done.shearCatalog) == []
    assert load_schema("metaResponse").problems(done.response) == []
    last = done.response[-1]
    assert abs(last["g1"]) < 0.02
    assert last["r_err"] < 0.1 * last["r"]
    # Together with itself as another cluster: the same response.
    file = tmp_path / "SIM_meta.parquet"
    write_catalogue(result.outputCatalog, file)
    both = MetaShearTask(config=config).run(result.outputCatalog, others=[_read(file)])
    assert both.response["n_cluster"][-1] == 2
    np.testing.assert_allclose(both.shearCatalog["g1"], done.shearCatalog["g1"], rtol=1e-6)


def test_faults_have_a_sentence(tmp_path):
    with pytest.raises(NoWorkFound, match="tract 0 patch 2: the patch has no coadd in a band that"):
        cells_task(shearBands=["z"]).run({"r": coadd("r")})
    blind = coadd("r")
    blind.planes.variance[:] = 0.0
    with pytest.raises(NoWorkFound, match=r"no cell can be measured.*4 without data or PSF"):
        cells_task().run({"r": blind})
    with pytest.raises(MissingInputError, match=r"there is no catalogue .*x.parquet"):
        _read(tmp_path / "x.parquet")
    one = {"r": coadd("r")}
    cells = cells_task(doMaskBrightStars=False).run(one).cells
    tables = {n: [measure_task(n).run(one, cells).objects] for n in ("noshear", "1p")}
    alike = dict.fromkeys(SHEAR_TYPES, tables["1p"])
    joined = MetaExportTask(config=MetaExportTask.ConfigClass()).run(alike).catalog
    zero = Table({"band": ["r"], "offset": [0.0], "source": ["ps1 r"]})
    with pytest.raises(ConfigError, match="photo-z need at least 2 bands of the catalogue"):
        MetaProcessTask(config=MetaProcessTask.ConfigClass()).run(joined, zero)


def test_published_names_of_the_pipeline():
    first = Pipeline.from_uri(f"{DRP}#step4a").to_graph()
    assert sorted(first.tasks) == ["metaCells"]
    pipeline = Pipeline.from_uri(f"{DRP}#step4b")
    pipeline.addConfigOverride("metaMeasure", "shear", "2m")
    pipeline.addConfigOverride("metaMeasure", "connections.coaddName", "deep_2m_")
    outputs = pipeline.to_graph().tasks["metaMeasure"].outputs
    assert [edge.dataset_type_name for edge in outputs.values()] == ["deep_2m_Coadd_obj"]
    export = Pipeline.from_uri(f"{DRP}#meta_export").to_graph().tasks["metaExport"]
    names = {edge.dataset_type_name for edge in export.inputs.values()}
    assert names == {f"deep_{name}_Coadd_obj" for name in SHEAR_TYPES}
