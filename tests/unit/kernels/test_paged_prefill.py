"""What the prefill wrapper decides on the host; the kernels themselves are tested in tests/gpu."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanopd.kernels import paged_prefill as wrapper
from nanopd.kernels.paged_prefill import (
    CONFIGS,
    PrefillConfig,
    PrefillWorkspace,
    choose_num_splits,
    max_tiles_per_head,
    paged_prefill,
)

NUM_SMS = 132


@given(st.lists(st.integers(0, 700), min_size=1, max_size=40), st.sampled_from([1, 9, 18, 32, 128]))
def test_the_grid_has_room_for_any_lengths_within_the_bounds(q_lens: list[int], tokens_per_tile: int) -> None:
    tiles = sum(-(-q_len // tokens_per_tile) for q_len in q_lens)
    assert tiles <= max_tiles_per_head(sum(q_lens), len(q_lens), max(q_lens), tokens_per_tile)


@given(st.integers(1, 5000), st.integers(1, 1000))
def test_parts_fit_the_workspace_and_are_worth_their_merge(max_tiles: int, num_key_tiles: int) -> None:
    num_splits = choose_num_splits(max_tiles, NUM_SMS, num_key_tiles)
    assert num_splits == 1 or (max_tiles * num_splits <= NUM_SMS and num_key_tiles // num_splits >= 4)


def test_few_long_tiles_are_split_and_many_are_not() -> None:
    assert choose_num_splits(8, NUM_SMS, 205) == 16
    assert choose_num_splits(100, NUM_SMS, 205) == 1
    assert choose_num_splits(8, NUM_SMS, 5) == 1


@pytest.mark.parametrize("block_size", [8, 16, 32, 64])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_tiles_hold_whole_blocks_and_fit_shared_memory(head_dim: int, block_size: int) -> None:
    config = PrefillConfig("sm90", "__half", head_dim, block_size, 4)
    assert config.keys % block_size == 0 and config.keys // block_size <= 32
    assert config.shared_bytes <= 227 * 1024


def test_configurations_are_distinct_and_name_existing_sources() -> None:
    assert len(set(CONFIGS)) == len(CONFIGS)
    assert {spec.source for spec in CONFIGS} == {"paged_prefill.cu", "sm90_paged_prefill.cu"}


class RecordingKernel:
    def __init__(self, split: bool) -> None:
        self.split = split
        self.launches: list[tuple[int, list[object]]] = []

    def launch(self, grid: tuple[int, int, int], block: object, args: list[object], **options: object) -> None:
        self.launches.append((grid[0], args))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RecordingKernel]:
    """Every kernel asked for, in order."""
    kernels: list[RecordingKernel] = []

    def kernel(config: PrefillConfig, device: torch.device, split: bool = False) -> RecordingKernel:
        kernels.append(RecordingKernel(split))
        return kernels[-1]

    monkeypatch.setattr(wrapper, "_kernel", kernel)
    monkeypatch.setattr(wrapper, "tensor_map", lambda *_: bytes(128))
    return kernels


Change = Callable[[dict[str, object]], None]


def attend(q_lens: list[int], context_lens: list[int], path: str, change: Change = lambda _: None) -> None:
    num_seqs, width = len(q_lens), -(-max(context_lens) // 16)
    arguments: dict[str, object] = {
        "q": torch.zeros(sum(q_lens), 8, 128, dtype=torch.bfloat16),
        "kv": torch.zeros(num_seqs * width, 2, 2, 16, 128, dtype=torch.bfloat16),
        "block_tables": torch.arange(num_seqs * width, dtype=torch.int32).view(num_seqs, width),
        "cu_q_lens": torch.tensor([0, *q_lens]).cumsum(0).int(),
        "context_lens": torch.tensor(context_lens, dtype=torch.int32),
        "max_q_len": max(q_lens),
        "max_context_len": max(context_lens),
        "scale": 128**-0.5,
        "out": torch.zeros(sum(q_lens), 8, 128, dtype=torch.bfloat16),
        "workspace": PrefillWorkspace(*(torch.zeros(NUM_SMS, 8, dtype=torch.int32) for _ in range(4))),
    }
    change(arguments)
    paged_prefill(**arguments, path=path)  # type: ignore[arg-type]


def test_launches_what_the_shapes_ask_for(launched: list[RecordingKernel]) -> None:
    attend([2000], [2000], "sm90")
    attend([20], [8000], "sm90")
    attend([20], [8000], "generic")
    attend([0, 0], [8, 9], "sm90")
    assert [kernel.split for kernel in launched] == [False, True, False]
    assert [kernel.launches[0][0] for kernel in launched] == [2 * 63, 2 * 12, 2 * 2]
    assert [len(kernel.launches[0][1]) for kernel in launched] == [3, 3, 13]
    assert len(launched[0].launches[0][1][2]) == 96, "struct Params"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(kv=a["kv"].half()), "kv must be torch.bfloat16"),
        (lambda a: a.update(block_tables=a["block_tables"][:, :3]), "must cover max_context_len 100, got 3 blocks"),
        (lambda a: a.update(cu_q_lens=a["cu_q_lens"].long()), "cu_q_lens must be torch.int32"),
        (lambda a: a.update(out=a["out"][:5]), r"out must have shape \[20, 8, 128\]"),
        (lambda a: a.update(q=a["q"][:, :7], out=a["out"][:, :7]), "query heads must be 1 to 128 times the kv heads"),
    ],
)
def test_rejects_by_name(launched: list[RecordingKernel], change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attend([20], [100], "sm90", change)
    assert not launched
