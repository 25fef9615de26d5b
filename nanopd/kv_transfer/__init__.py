"""KV on the move: how blocks of one worker's pool reach the blocks another worker reserved.

Read ``transport`` (the protocol) first; ``endpoint`` picks a backend, ``loopback`` is the simplest one, ``shared_memory`` serves CPU workers.
"""
