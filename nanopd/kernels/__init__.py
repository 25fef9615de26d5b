"""Handwritten CUDA: building blocks in ``include/nanopd``, one kernel family per ``csrc/*.cu``, one wrapper beside it.

Importing this package needs torch but no GPU, driver or CUDA wheel; those are first touched by ``jit.load``.
"""
