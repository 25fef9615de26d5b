"""KV on the move: how blocks of one worker's pool reach the blocks another worker reserved.

Read ``transport`` (the protocol) first. ``loopback`` is the simplest backend; ``shared_memory`` serves CPU workers; on a GPU ``cuda_endpoint`` puts
together ``peer_to_peer`` and ``pinned_relay``, between which ``link`` chooses by measuring and ``failover`` when one fails.
"""
