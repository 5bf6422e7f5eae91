"""Quantum graphs on Parsl workers: build, run, watch, resume."""

from skymill.engine.driver import Engine
from skymill.engine.graph import GraphRequest
from skymill.engine.pool import EngineError
from skymill.engine.report import QuantumFailure, RunReport, TaskCounts
from skymill.engine.run import BusyError, NothingToRunError, run, run_many
from skymill.engine.sites import Limits, LocalSite, Site, SlurmSite

__all__ = [
    "BusyError",
    "Engine",
    "EngineError",
    "GraphRequest",
    "Limits",
    "LocalSite",
    "NothingToRunError",
    "QuantumFailure",
    "RunReport",
    "Site",
    "SlurmSite",
    "TaskCounts",
    "run",
    "run_many",
]
