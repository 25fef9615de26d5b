"""How fast scattered blocks reach another process, by transport and size; plain copies beside them as the ceiling."""

import random
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch

from benchmarks.transfer.setting import Note, Setting, sender_over
from nanopd.kv_transfer import pinned_relay, relay_wire
from nanopd.kv_transfer.select import open_endpoint
from nanopd.kv_transfer.transport import KvSender, PoolHandle
from nanopd.profiler.pool_process import PoolProcess, digest, fill

RELAY_VARIANTS = (
    (8, 16, 3),
    (8, 16, 4),
    (6, 32, 3),
)  # slots, MiB each, slots read ahead; besides the default
_WARM_UPS = 2
_NAP_S = 5e-5

Ids = list[int]


def measure_rates(setting: Setting, peer: PoolProcess, note: Note) -> None:
    """Every transport and size, compared bit for bit once; on a GPU also the copy engine and the relay made differently."""
    endpoint = open_endpoint("bench", setting.devices[0])
    shape = setting.pool_shape
    pool = endpoint.allocate(torch.Size(shape).numel() * torch.bfloat16.itemsize).view(torch.bfloat16).view(shape)
    endpoint.export(pool)
    fill(pool, 1)
    block_bytes = pool[:, 0].nbytes

    def rate(name: str, num_tokens: int, push: Callable[[Ids, Ids], float]) -> None:
        """Notes one size; ``push`` returns the milliseconds that the transport itself reports."""
        num_blocks = num_tokens // setting.block_size
        source_ids, target_ids = Ids(), Ids()
        walls, busy = [], []
        for i in range(setting.rounds + _WARM_UPS):
            rng = random.Random(i)
            source_ids, target_ids = (rng.sample(range(shape[1]), num_blocks) for _ in range(2))
            began = time.perf_counter()
            busy.append(push(source_ids, target_ids))
            walls.append((time.perf_counter() - began) * 1e3)
        is_exact = digest(pool, source_ids) == peer.ask("digest", ids=target_ids)
        wall_ms, busy_ms = (median(times[_WARM_UPS:]) for times in (walls, busy))
        num_bytes = num_blocks * block_bytes
        rates = {"gb_s": round(num_bytes / wall_ms / 1e6, 1), "gb_s_transport": round(num_bytes / busy_ms / 1e6, 1)}
        times = {"wall_ms": round(wall_ms, 4), "transport_ms": round(busy_ms, 4)}
        all_ms = [round(wall, 4) for wall in walls[_WARM_UPS:]]
        note(what="rate", transport=name, tokens=num_tokens, num_bytes=num_bytes, **times, **rates)
        note(what="raw", of=f"{name} {num_tokens}", wall_ms=all_ms, is_exact=is_exact)

    for transport in setting.transports:
        sender = sender_over(endpoint, pool, transport)
        push = pusher(sender, peer.handle, transport != "peer_to_peer")
        all_ids = list(range(shape[1]))
        for _ in range(_WARM_UPS):  # clocks rise with work
            push(all_ids, all_ids)
        for num_tokens in setting.pushes:
            rate(transport, num_tokens, push)
        sender.close()
    if not setting.on_cpu:
        from benchmarks.transfer.strided_copy import CopyEngine

        with CopyEngine(pool, peer.handle) as engine:
            for num_tokens in setting.pushes:
                rate("copy engine", num_tokens, engine.push)
        for variant in RELAY_VARIANTS:
            num_slots, mib, read_ahead = variant
            with (
                patch.multiple(relay_wire, NUM_SLOTS=num_slots, SLOT_BYTES=mib << 20),
                patch.object(pinned_relay, "_READ_AHEAD", read_ahead),
            ):
                sender = sender_over(endpoint, pool, setting.transports[1])
                for num_tokens in setting.pushes[-2:]:
                    name = f"pinned_relay, {num_slots} slots of {mib} MiB, {read_ahead} read ahead"
                    rate(name, num_tokens, pusher(sender, peer.handle, True))
                sender.close()
    endpoint.close()


def pusher(sender: KvSender, handle: PoolHandle, has_thread: bool) -> Callable[[Ids, Ids], float]:
    """Polls without a pause, unless the sender has a thread that wants the interpreter."""

    def push(source_ids: Ids, target_ids: Ids) -> float:
        sender.push("p", handle, source_ids, target_ids)
        while not (results := sender.poll()):
            if has_thread:
                time.sleep(_NAP_S)
        assert results[0].error is None, results[0].error
        return results[0].transfer_ms

    return push


def measure_pcie(devices: tuple[str, str], note: Note, num_bytes: int = 256 << 20) -> None:
    """What plain copies of large pinned buffers reach, from the first device and to the second, alone and both at once: the relay's ceiling."""
    hosts = [torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True) for _ in devices]
    down, up = (torch.empty(num_bytes, dtype=torch.uint8, device=device) for device in devices)
    streams = [torch.cuda.Stream(device) for device in devices]
    copies = {"to host": [(streams[0], hosts[0], down)], "to device": [(streams[1], up, hosts[1])]}
    copies["both at once"] = copies["to host"] + copies["to device"]
    for direction, pairs in copies.items():
        rates = []
        for _ in range(3):
            for stream in streams:
                stream.synchronize()
            began = time.perf_counter()
            for _ in range(4):
                for stream, target, source in pairs:
                    with torch.cuda.stream(stream):
                        target.copy_(source, non_blocking=True)
            for stream, _, _ in pairs:
                stream.synchronize()
            rates.append(4 * num_bytes / (time.perf_counter() - began) / 1e9)
        note(what="pcie", direction=direction, gb_s_each_way=round(max(rates), 1))
