"""Measures a device: step times, the KV transfer path, host overhead; fits them into a ``HardwareProfile``.

``grid`` chooses what to measure, ``steps``, ``transfer`` and ``host`` measure, ``profile`` runs it all and fits.
"""

from nanopd.profiler.profile import Measured, load_runner, measured_config, profile_device, profile_runner

__all__ = ["Measured", "load_runner", "measured_config", "profile_device", "profile_runner"]
