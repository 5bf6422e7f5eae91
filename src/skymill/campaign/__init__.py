"""A cluster as one typed YAML file, and the ordered, resumable steps that process it."""

from skymill.campaign.campaign import Campaign, StepError
from skymill.campaign.cluster import Cluster, load_cluster
from skymill.campaign.state import UnitStatus
from skymill.campaign.steps import STEPS, Step, find_step, select_steps

__all__ = [
    "STEPS",
    "Campaign",
    "Cluster",
    "Step",
    "StepError",
    "UnitStatus",
    "find_step",
    "load_cluster",
    "select_steps",
]
