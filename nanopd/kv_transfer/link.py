"""What lies between two devices, and which transport serves it best, found out by moving blocks over each."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.endpoint import piece_bytes
from nanopd.kv_transfer.transport import LinkSender, PoolHandle

logger = logging.getLogger(__name__)

# What one direction carries, GB/s: PCIe 5.0 x16, and NVLink by compute capability (A100 250 of 300, H100 and H200 380 of 450, B200 760 of 900).
_PCIE_GB_S = 50.0
_NVLINK_GB_S = {8: 250.0, 9: 380.0, 10: 760.0}
_SAME_DEVICE_GB_S = 250.0  # few SMs copy; the memory itself would carry several times that
_FAR_BELOW = 0.5
_FULL_RATE_PIECE_BYTES = 32 << 10  # smaller (layer, block) pieces are moved more slowly, whatever the link


@dataclass(frozen=True, slots=True)
class Link:
    """What connects two devices."""

    kind: str  # same device, NVLink, PCIe
    gb_s: float  # one could hope for


def link_between(device: torch.device, peer: str) -> Link:
    """Of our device and a peer's, both as this host numbers them. Without peer access only host memory lies between: PCIe."""
    from cuda.bindings import driver as cu

    other = torch.device(peer)
    if other == device:
        return Link("same device", _SAME_DEVICE_GB_S)
    attribute = cu.CUdevice_P2PAttribute.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED
    result, has_atomics = cu.cuDeviceGetP2PAttribute(attribute, device.index, other.index)
    if int(result) == 0 and has_atomics:
        major, _ = torch.cuda.get_device_capability(device)
        return Link("NVLink", _NVLINK_GB_S.get(major, _NVLINK_GB_S[9]))
    return Link("PCIe", _PCIE_GB_S)


def rank_by_probe(device: torch.device, name: str, destination: PoolHandle, senders: Sequence[LinkSender]) -> list[str]:
    """Transports that reach ``destination``, the fastest first. The outcome is logged; a link far below its rate is warned of.

    A link that silently carries a tenth of what it should is the commonest trouble of disaggregated serving: better known at start.
    """
    if torch.device(destination.device).type != device.type:
        logger.warning("%s does not reach the KV pool %s on %s", device, destination.name, destination.device)
        return []
    began = time.perf_counter()
    rates: dict[str, float] = {}
    failures: dict[str, str] = {}
    for sender in senders:
        try:
            rates[sender.transport] = sender.probe(destination)
        except (TransferError, RuntimeError) as error:  # RuntimeError: CUDA's
            failures[sender.transport] = str(error)
    order = sorted(rates, key=lambda transport: -rates[transport])
    link = link_between(device, destination.device)
    report = {
        "sender": name,
        "receiver": destination.name,
        "link": link.kind,
        "link_gb_s": link.gb_s,
        "transport": order[0] if order else None,
        "measured_gb_s": {transport: round(rate, 1) for transport, rate in rates.items()},
        "failed": failures,
        "probe_ms": round((time.perf_counter() - began) * 1e3, 1),
    }
    expected = expected_gb_s(link, order[0], piece_bytes(destination)) if order else 0.0
    is_slow = bool(order) and rates[order[0]] < _FAR_BELOW * expected
    report["expected_gb_s"] = round(expected, 1)
    level = logging.WARNING if is_slow or failures or not order else logging.INFO
    logger.log(level, "KV link%s: %s", " far below its rate" if is_slow else "", report, extra={"kv_link": report})
    return order


def expected_gb_s(link: Link, transport: str, num_piece_bytes: int) -> float:
    """What a transport could carry over a link, in pieces of this size: a relay no more than PCIe does, half of it where both ways share one."""
    gb_s = link.gb_s
    if transport == "pinned_relay":
        gb_s = min(gb_s, _PCIE_GB_S / 2 if link.kind == "same device" else _PCIE_GB_S)
    return gb_s * min(1.0, num_piece_bytes / _FULL_RATE_PIECE_BYTES)
