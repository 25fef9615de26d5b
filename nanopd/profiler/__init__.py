"""Measures a device: step times, the KV transfer path, host overhead; fits them into a ``HardwareProfile``.

``grid`` chooses what to measure, ``steps``, ``transfer`` and ``host`` measure, ``profile`` runs it all and fits.
"""

from nanopd.profiler.profile import Measured, profile_device

__all__ = ["Measured", "profile_device"]
