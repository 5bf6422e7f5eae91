import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError
from skymill.data.tables import load_schema
from skymill.photoz.estimate import models_of
from skymill.photoz.options import PhotozOptions
from skymill.tasks.photo_z import PhotoZConnections, PhotoZTask

BANDS = "ugri"


def make_catalogue(n=400, *, shift=0.0):
    """Galaxies of the templates as in a calibrated catalogue, g fainter by ``shift``; spectra."""
    models = models_of(list(BANDS), options=PhotozOptions(dz=0.01, z_max=1.5))
    rng = np.random.default_rng(1)
    t, i = rng.integers(0, 8, n), rng.integers(10, 100, n)
    flux = models.flux[:, t, i].T.astype(float) * 10 ** rng.uniform(3, 4, (n, 1))
    err = 0.02 * flux.mean(axis=1)
    flux += rng.normal(0, 1, flux.shape) * err[:, None]
    flux[:, 1] *= 10 ** (-0.4 * shift)
    table = Table(
        {
            "ID": [f"g{k}" for k in range(n)],
            "ra": 10.0 + rng.uniform(0, 0.5, n),
            "dec": rng.uniform(0, 0.5, n),
            "is_galaxy": np.arange(n) % 10 > 0,
        }
    )
    for k, b in enumerate(BANDS):
        table[f"{b}_psf_mag"] = np.full(n, 20.0)
        table[f"{b}_cmodel_flux"], table[f"{b}_cmodel_fluxerr"] = flux[:, k], err
    spectra = Table({"ra": table["ra"], "dec": table["dec"] + 0.1 / 3600, "z": models.z[i]})
    return table, spectra[: n - 50]


def config(**values):
    out = PhotoZTask.ConfigClass()
    out.photoz.dz, out.photoz.z_max = 0.01, 1.5
    for name, value in values.items():
        setattr(out, name, value)
    return out


def test_spectra_give_metrics_and_stand_in_the_catalogue():
    table, spectra = make_catalogue()
    result = PhotoZTask(config=config(specCatalog="x.csv")).run(table, spectra)
    assert load_schema("photoz").problems(result.outputCatalog) == []
    assert load_schema("photozMetrics").problems(result.metrics) == []
    assert len(result.outputCatalog) == 360
    assert result.metrics["n"][0] == np.isfinite(result.outputCatalog["spec_z"]).sum() == 315


def test_training_is_graded_on_the_other_half():
    table, spectra = make_catalogue(shift=0.2)
    plain = PhotoZTask(config=config(specCatalog="x.csv")).run(table, spectra)
    trained = PhotoZTask(config=config(specCatalog="x.csv", trainZeroPoints=True))
    found = trained.run(table, spectra)
    assert 120 < found.metrics["n"][0] < 200
    assert found.metrics["cde_loss"][0] < plain.metrics["cde_loss"][0]


def test_outputs_without_spectra():
    table, _ = make_catalogue(50)
    result = PhotoZTask(config=config()).run(table)
    assert not hasattr(result, "metrics")
    assert "spec_z" not in result.outputCatalog.colnames
    assert set(PhotoZConnections(config=config()).outputs) == {"outputCatalog"}
    with_spectra = PhotoZConnections(config=config(specCatalog="x.csv"))
    assert set(with_spectra.outputs) == {"outputCatalog", "metrics"}


def test_clear_sentences():
    table, spectra = make_catalogue(50)
    with pytest.raises(ConfigError, match="trainZeroPoints needs specCatalog"):
        config(trainZeroPoints=True).validate()
    with pytest.raises(DataError, match="no column 'z_spec' or 'z'"):
        PhotoZTask(config=config()).run(table, spectra["ra", "dec"])
    with pytest.raises(ConfigError, match="at least 2 bands"):
        PhotoZTask(config=config(bands=["g", "Y"])).run(table)
