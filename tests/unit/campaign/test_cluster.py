"""cluster.yaml: what is accepted, and the sentences about what is not."""

import textwrap

import pytest

from skymill.campaign import load_cluster, select_steps
from skymill.campaign.actions import archive_queries
from skymill.campaign.references import find_reference, parse_photometry
from skymill.campaign.steps import STEPS, expand_run, find_step
from skymill.data.errors import ConfigError, MissingInputError
from skymill.engine.sites import LocalSite, SlurmSite, parse_walltime

GOOD = """
name: A85
centre: [10.46, -9.3]
redshift: 0.0557
bands: [u, g, r]
photometry: ["sm_dr4,u", "ps1,g", "ps1,r"]
"""


def load(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(textwrap.dedent(text))
    return load_cluster(path)


def test_published_defaults(tmp_path):
    cluster = load(tmp_path, GOOD)
    assert cluster.skymap_name == "A85_skymap"
    assert cluster.repo_path == str(tmp_path / "repo" / "repo")
    assert cluster.reference("u") == ("sm_dr4_v", "v")
    assert (cluster.cuts.fwhm_pixel, cluster.cuts.lensing_fwhm_pixel) == (6.4, 4.4)
    assert isinstance(cluster.make_site(), LocalSite)


def test_both_spellings_of_photometry(tmp_path):
    other = GOOD.replace('["sm_dr4,u", "ps1,g", "ps1,r"]', "{u: sm_dr4, g: ps1, r: ps1}")
    assert load(tmp_path, GOOD).photometry == load(tmp_path, other).photometry


def test_xray_peak_wins(tmp_path):
    assert load(tmp_path, GOOD + "xray_peak: {ra: 10.5, dec: -9.2}\n").position == (10.5, -9.2)


def test_slurm_keys_of_the_published_configuration(tmp_path):
    text = (
        GOOD
        + """
site: slurm
sites:
  slurm: {nodes: 7, cores_per_node: 20, mem_per_node: 100, walltime: "48:00:00"}
"""
    )
    site = load(tmp_path, text).make_site()
    assert site == SlurmSite(nodes=7, cores_per_node=20, mem_per_node=100, walltime="48:00:00")
    assert site.n_workers == 140


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("redshift: 0.0557", "redshift: -1"), "redshift input should be greater than 0; got -1"),
        (("redshift: 0.0557", ""), "redshift is missing"),
        (("[10.46, -9.3]", "[400, 0]"), "0 <= ra < 360 .*got 400.0, 0.0"),
        (("centre: [10.46, -9.3]", ""), r"centre \(or xray_peak\) is needed"),
        (("name: A85", "name: 'A 85'"), "letters, digits"),
        (("[u, g, r]", "[u, g, g]"), "bands names one twice"),
        (("[u, g, r]", "[u, g]"), "lensing_band 'r' is not among bands u, g"),
        (("[u, g, r]", "[u, g, r, z]"), "names no reference catalogue for z"),
        (("sm_dr4,u", "ps1,u"), "ps1 has no band u; it has g, r, i, z"),
        (("sm_dr4,u", "sm_dr4 u"), "must be written CATALOGUE,BAND; got 'sm_dr4 u'"),
        (("name: A85", "name: A85\nfoo: 1"), "foo is not a setting"),
        (("name: A85", "name: A85\nsite: moon"), "site 'moon' is not among sites: local"),
        (("name: A85", "name: A85\nsites: {local: {cores: 2}}"), "its keys are workers"),
        (("name: A85", "name: A85\nsites: {local: {workers: -2}}"), "workers must be >= 0"),
        (("name: A85", "name: ["), "is not a YAML file"),
    ],
)
def test_bad_settings_have_a_sentence(tmp_path, change, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(tmp_path, GOOD.replace(*change))
    assert "cluster.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        load_cluster(tmp_path / "none.yaml")


def test_references():
    assert find_reference("ps1", "Y") == ("ps1", "y")
    assert find_reference("mine", "g") == ("mine", "g")
    assert parse_photometry(["sdss,u", "ps1,g"]) == {"u": "sdss", "g": "ps1"}
    with pytest.raises(ConfigError, match="twice"):
        parse_photometry(["sdss,u", "ps1,u"])


@pytest.mark.parametrize("text", ["48", "1:2", "a:b:c", "00:00:10"])
def test_bad_walltime(text):
    with pytest.raises(ConfigError, match="walltime must be"):
        parse_walltime(text)


def test_collections_are_those_of_the_published_pipeline(tmp_path):
    cluster = load(tmp_path, GOOD)
    p = "DECam/processing"
    calib = (
        "DECam/raw/all",
        "DECam/calib",
        "DECam/calib/certified",
        "DECam/calib/curated/19700101T000000Z",
        "DECam/calib/unbounded",
    )
    expected = {
        "process_ccd": (*calib, f"{p}/xtalksources_u", "refcats", f"{p}/calexp_u"),
        "visit_summary": (f"{p}/quality_detectors_u", "skymaps", f"{p}/visit_summary_u"),
        "coadd_3a": (
            *(f"{p}/quality_detectors_{b}" for b in "ugr"),
            *(f"{p}/final_visit_summary_{b}" for b in "ugr"),
            "skymaps",
            f"{p}/coadd_3a",
        ),
        "coadd_3c": (f"{p}/coadd_3a", f"{p}/coadd_3b", "skymaps", f"{p}/coadd_3c"),
    }
    for name, collections in expected.items():
        step = find_step(name)
        request = expand_run(cluster, step.runs[-1], "u" if step.per_band else "")
        assert (*request.inputs, request.output) == collections
    sky = expand_run(cluster, find_step("coadd_3d").runs[0])
    assert sky.output == f"{p}/skycorr"
    assert "band IN ('g', 'r')" in sky.where
    assert f"{p}/quality_detectors_u" not in sky.inputs


def test_selection_of_steps():
    names = [s.name for s in STEPS]
    assert names[0] == "create_output"
    assert names[-1] == "gotta_blast"
    assert [s.name for s in select_steps(first="coadd_3a", last="coadd_3c")] == [
        "coadd_3a",
        "coadd_3b",
        "coadd_3c",
    ]
    everything = [s.name for s in select_steps()]
    assert "gotta_blast" not in everything
    assert "meta_4a" not in everything
    assert "meta_4a" in [s.name for s in select_steps(last="meta_lensing")]
    assert [s.name for s in select_steps(("jointcal", "process_ccd"))] == [
        "process_ccd",
        "jointcal",
    ]
    with pytest.raises(ConfigError, match="there is no step 'x'; steps are: create_output"):
        select_steps(("x",))
    with pytest.raises(ConfigError, match="comes after"):
        select_steps(first="coadd_3c", last="coadd_3a")


@pytest.mark.parametrize(
    ("centre", "ranges"),
    [
        ("[180.0, 0.0]", [(178.0, 182.0)]),
        ("[1.0, 0.0]", [(359.0, 360.0), (0.0, 3.0)]),
        ("[359.0, 0.0]", [(357.0, 360.0), (0.0, 1.0)]),
        ("[5.0, -89.9]", [(0.0, 360.0)]),
    ],
)
def test_archive_query_crosses_zero_and_the_pole(tmp_path, centre, ranges):
    cluster = load(tmp_path, GOOD.replace("[10.46, -9.3]", centre))
    found = [
        tuple(entry[1:])
        for query in archive_queries(cluster)
        for entry in query["search"]
        if entry[0] == "ra_center"
    ]
    assert [pytest.approx(r) for r in ranges] == found


def test_metadetection_is_asked_for_in_the_settings(tmp_path):
    plain = load(tmp_path, GOOD)
    assert not plain.shear.metadetect
    for text in ("shear: metadetect\n", "shear: {metadetect: true, bands: [r]}\n"):
        cluster = load(tmp_path, GOOD + text)
        names = [s.name for s in select_steps(cluster=cluster)]
        assert names[names.index("red_sequence") + 1 :] == [
            "meta_4a", "meta_4b", "meta_export", "meta_process", "meta_lensing",
        ]  # fmt: skip
    assert "meta_4a" not in [s.name for s in select_steps(cluster=plain)]
    runs = [expand_run(cluster, run) for run in find_step("meta_4b").runs]
    p = "DECam/processing"
    assert [r.output for r in runs] == [
        f"{p}/meta_4b_{t}" for t in ("noshear", "1p", "1m", "2p", "2m")
    ]
    assert runs[1].config == (
        "metaMeasure:shear=1p", "metaMeasure:connections.coaddName=deep_1p_",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"shear\.bands z not among bands"):
        load(tmp_path, GOOD + "shear: {bands: [z]}\n")


def test_shear_settings_become_overrides(tmp_path):
    text = "shear: {method: hsc, response_from: [../B/meta.parquet]}\npaths: {dust: maps}\n"
    found = load(tmp_path, GOOD + text).overrides
    assert found["calibrateShear"] == {"shear.method": "hsc"}
    assert found["metaShear"] == {"responseCatalogs": [str(tmp_path / "../B/meta.parquet")]}
    assert found["metaProcess"] == found["dereddenCatalog"]
