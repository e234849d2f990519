"""Latency: how long layers and networks take on a device, measured once, kept, and predicted from there."""

from hwsparse.latency.board import Address
from hwsparse.latency.board_runner import BoardRunner
from hwsparse.latency.builders import Crew
from hwsparse.latency.calibrate import CalibrationReport, Codegen, calibrate, layer_settings
from hwsparse.latency.cost_model import CostModel, Prediction
from hwsparse.latency.estimate import Estimate, Latency
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.footprint import Footprint, Footprints, stored_bytes
from hwsparse.latency.measurement import MeasureFailure, Measurement, RunSettings, median_interval
from hwsparse.latency.network import Residual
from hwsparse.latency.network_records import KnownNetwork, NetworkRecords
from hwsparse.latency.records import Records
from hwsparse.latency.runner import Clock, LocalRunner, Outcome, Progress, Runner
from hwsparse.latency.workload import REFERENCE, Workload

__all__ = [
    "REFERENCE",
    "Address",
    "BoardRunner",
    "CalibrationReport",
    "Clock",
    "Codegen",
    "CostModel",
    "Crew",
    "Device",
    "Estimate",
    "Footprint",
    "Footprints",
    "KnownNetwork",
    "Latency",
    "LocalRunner",
    "MeasureFailure",
    "Measurement",
    "NetworkRecords",
    "Outcome",
    "Prediction",
    "Progress",
    "Records",
    "Residual",
    "RunSettings",
    "Runner",
    "Toolchain",
    "Workload",
    "calibrate",
    "layer_settings",
    "median_interval",
    "stored_bytes",
]
