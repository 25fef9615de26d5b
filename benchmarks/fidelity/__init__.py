"""The simulator against the real engine on the same trace: ``python -m benchmarks.fidelity --help``."""
