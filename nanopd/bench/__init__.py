"""Load over HTTP: any OpenAI-compatible engine is measured in the same way.

::

    arm        what is measured: an engine we start, or a URL; all arms of a run have equally many workers
    load       what it is given: requests, pre-generated, the same for every arm
    client     one request over HTTP, and when its tokens came
    drive      open loop (requests come when they are due) and closed loop (so many at a time)
    runner     arms x loads -> cells;  sweep: rates until saturation, resumable
    cell       one arm under one load: samples -> figures
    record     what is kept: JSON and Markdown, never overwritten
    compare    which differences exceed the noise
    energy     what the arm's GPUs drew, by NVML
    plots      the figures, of records and of what other measurements write
"""
