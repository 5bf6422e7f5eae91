"""What a step of a cluster is made of."""

from __future__ import annotations

import dataclasses

__all__ = ["CENTRE_MAP", "OF_DECAM_SKY", "OF_SKY", "PROCESSING", "PipelineRun", "Step"]

#: Collection that the steps' own are named under.
PROCESSING = "DECam/processing"
#: Data queries of tracts and patches.
OF_SKY = "skymap='{skymap}'"
OF_DECAM_SKY = f"instrument='DECam' AND {OF_SKY}"
#: Overrides that put a mass map around the cluster.
CENTRE_MAP = ("massMap:centreRa={ra}", "massMap:centreDec={dec}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """One pipeline subset of a step.

    ``subset`` of the cluster's pipeline (or of another ``pipeline`` of ours), ``inputs`` in search
    order, ``output`` chain, ``where`` data query, ``config`` overrides; ``optional`` inputs are
    left out when they do not exist; ``only_bands`` restricts the bands; with ``detrends`` the
    calibrations that exist decide about the switches of ``isr``.
    """

    subset: str
    inputs: tuple[str, ...]
    output: str
    where: str = ""
    config: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    only_bands: tuple[str, ...] = ()
    detrends: bool = False
    pipeline: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    ``number`` is that of the published pipeline. A step has pipeline ``runs`` or an ``action``
    of `skymill.campaign.actions`. ``on_request`` says how a user asks for a step that is not done
    by default. ``after`` are the steps whose products it reads beside its collections.
    ``reuse``: new input only adds quanta. ``tolerant``: some failed quanta do not stop the rest.
    ``disposable``: dataset types that no later step reads.
    """

    name: str
    number: str
    doc: str
    runs: tuple[PipelineRun, ...] = ()
    action: str = ""
    per_band: bool = False
    after: tuple[str, ...] = ()
    on_request: str = ""
    reuse: bool = False
    tolerant: bool = False
    disposable: tuple[str, ...] = ()
