"""A cluster in virtual time: the production policy code over a cost model. No tensors, no sockets, no wall clock."""

from nanopd.simulator.result import RequestRecord, SimulationResult, merge
from nanopd.simulator.simulation import Simulation, SimulationConfig

__all__ = ["RequestRecord", "Simulation", "SimulationConfig", "SimulationResult", "merge"]
