"""Worker processes: an engine, a KV sender and an inbox each.

``worker`` is the state machine (no sockets), ``handoff`` the push of one prefill, ``channel`` the wire, ``process`` the program.
"""
