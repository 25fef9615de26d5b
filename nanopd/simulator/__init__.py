"""A cluster in virtual time: the production policy code over a cost model. No tensors, no sockets, no wall clock."""

from nanopd.simulator.experiment import ARMS, capacity, simulate
from nanopd.simulator.result import RequestRecord, SimulationResult, merge
from nanopd.simulator.simulation import Simulation, SimulationConfig

__all__ = [
    "ARMS",
    "RequestRecord",
    "Simulation",
    "SimulationConfig",
    "SimulationResult",
    "capacity",
    "merge",
    "simulate",
]
