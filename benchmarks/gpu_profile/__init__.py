"""A profile of this machine's GPUs and the simulator's fidelity on them: ``python -m benchmarks.gpu_profile --help``."""
