"""Paged prefill attention against float64, on ragged batches over a cache whose unused slots hold NaN."""

from dataclasses import dataclass, field

import pytest
import torch

from nanopd.kernels.paged_prefill import PrefillWorkspace, paged_prefill

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

# (q_len, context_len): prefill alone, tile edges, chunks on cached context, one-token rows, no new tokens, padding.
RAGGED = ((1, 1), (127, 127), (128, 128), (129, 129), (33, 1000), (1, 777), (0, 50), (1, 0), (300, 300), (64, 192))


@dataclass(frozen=True)
class Case:
    head_dim: int = 128
    num_heads: int = 8
    num_kv_heads: int = 2
    block_size: int = 16
    dtype: torch.dtype = torch.bfloat16
    lengths: tuple[tuple[int, int], ...] = RAGGED

    def __str__(self) -> str:
        kind = "bf16" if self.dtype == torch.bfloat16 else "fp16"
        return f"D{self.head_dim}-H{self.num_heads}-K{self.num_kv_heads}-S{self.block_size}-{kind}-B{len(self.lengths)}"


CASES = (
    Case(),
    *(Case(head_dim=dim, block_size=size) for dim in (64, 256) for size in (8, 64)),
    *(Case(block_size=size) for size in (8, 32, 64)),
    *(Case(num_heads=heads, num_kv_heads=kv) for heads, kv in ((2, 2), (14, 2), (15, 5), (8, 1))),
    Case(dtype=torch.float16),
    Case(head_dim=64, num_heads=9, num_kv_heads=3, dtype=torch.float16),
    Case(lengths=((700, 2000),)),
    # Few tiles on long contexts: split along the keys.
    *(Case(head_dim=dim, lengths=((20, 4000), (5, 900), (0, 10))) for dim in (64, 128, 256)),
    Case(block_size=64, num_kv_heads=1, lengths=((3, 20000),)),
    Case(lengths=tuple((1 + i % 3, 20 * i + 3) for i in range(75))),
)


@dataclass
class Problem:
    case: Case
    seed: int = 0
    q: torch.Tensor = field(init=False)
    kv: torch.Tensor = field(init=False)
    block_tables: torch.Tensor = field(init=False)
    cu_q_lens: torch.Tensor = field(init=False)
    context_lens: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        case, device = self.case, torch.device("cuda")
        generator = torch.Generator(device).manual_seed(self.seed)
        q_lens, context_lens = zip(*case.lengths, strict=True)
        blocks_per_seq = [-(-length // case.block_size) for length in context_lens]
        num_blocks, num_tokens = sum(blocks_per_seq) + 5, sum(q_lens) + 3  # some rows of q belong to no sequence

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device).to(case.dtype)

        # q is a slice of a wider projection, the layer a slice of a cache of two layers.
        self.q = normal(num_tokens, case.num_heads + 2 * case.num_kv_heads, case.head_dim)[:, : case.num_heads]
        self.kv = normal(num_blocks, 2, 2, case.num_kv_heads, case.block_size, case.head_dim)[:, 1]
        order = torch.randperm(num_blocks, generator=generator, device=device).int().split([*blocks_per_seq, 5])
        self.kv[order[-1].long()] = float("nan")
        self.block_tables = torch.full((len(q_lens), max(blocks_per_seq) + 1), -1, dtype=torch.int32, device=device)
        for row, blocks, length in zip(self.block_tables, order, context_lens, strict=False):
            row[: len(blocks)] = blocks
            if length % case.block_size:
                self.kv[blocks[-1], :, :, length % case.block_size :] = float("nan")
        self.cu_q_lens = torch.tensor([0, *q_lens], device=device).cumsum(0).int()
        self.context_lens = torch.tensor(context_lens, dtype=torch.int32, device=device)

    def reference(self) -> torch.Tensor:
        """Float64; NaN in the rows nothing may be written to."""
        case = self.case
        out = torch.full(self.q.shape, float("nan"), dtype=torch.float64, device="cuda")
        starts = self.cu_q_lens.tolist()
        for (q_len, context_len), start, blocks in zip(case.lengths, starts, self.block_tables, strict=False):
            if not q_len or not context_len:
                continue
            used = self.kv[blocks[: -(-context_len // case.block_size)].long()].double()
            k, v = used.permute(1, 2, 0, 3, 4).reshape(2, case.num_kv_heads, -1, case.head_dim)[:, :, :context_len]
            k, v = (x.repeat_interleave(case.num_heads // case.num_kv_heads, 0) for x in (k, v))
            scores = torch.einsum("qhd,hkd->hqk", self.q[start : start + q_len].double(), k) * case.head_dim**-0.5
            limits = torch.arange(q_len, device="cuda")[:, None] + context_len - q_len
            visible = torch.arange(context_len, device="cuda") <= limits
            probabilities = scores.masked_fill(~visible, float("-inf")).softmax(-1)
            out[start : start + q_len] = torch.einsum("hqk,hkd->qhd", probabilities, v)
        return out

    def run(self, path: str, **options: object) -> torch.Tensor:
        out = torch.full(self.q.shape, float("nan"), dtype=self.q.dtype, device="cuda")
        paged_prefill(
            self.q,
            self.kv,
            self.block_tables,
            self.cu_q_lens,
            self.context_lens,
            max_q_len=max(q_len for q_len, _ in self.case.lengths),
            max_context_len=max(context_len for _, context_len in self.case.lengths),
            scale=self.case.head_dim**-0.5,
            out=out,
            path=path,
            **options,
        )
        return out


@pytest.fixture(params=["generic", "sm90"])
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "sm90" and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a Hopper GPU")
    return request.param


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    written = ~reference.isnan()
    assert torch.equal(out.isnan(), ~written), "every row of a sequence is written, and no other"
    return float((out.double() - reference)[written].norm() / reference[written].norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_float64(case: Case, path: str) -> None:
    problem = Problem(case)
    assert relative_error(problem.run(path), problem.reference()) < (5e-3 if case.dtype == torch.bfloat16 else 1e-3)


def test_large_scores_do_not_overflow(path: str) -> None:
    problem = Problem(Case(lengths=((200, 500),)))
    problem.q.mul_(40)
    assert relative_error(problem.run(path), problem.reference()) < 5e-3


def test_chunks_give_the_same_rows_as_one_prefill(path: str) -> None:
    whole = Problem(Case(lengths=((384, 384),)))
    expected = whole.run(path)[:384]
    for begin, end in ((0, 100), (100, 101), (101, 384)):
        chunk = Problem(Case(lengths=((end - begin, end),)))
        chunk.q, chunk.kv, chunk.block_tables = whole.q[begin:end], whole.kv, whole.block_tables
        assert relative_error(chunk.run(path), expected[begin:end].double()) < 4e-3


def test_replays_in_a_graph_on_new_lengths(path: str) -> None:
    captured = ((40, 3000), (130, 130), (1, 64))
    problem = Problem(Case(lengths=captured))
    workspace = PrefillWorkspace.allocate(128, torch.device("cuda"))
    problem.run(path, workspace=workspace)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = problem.run(path, workspace=workspace)
    for lengths in (captured, ((90, 2900), (2, 100), (79, 79)), ((0, 2800), (129, 171), (42, 42))):
        fresh = Problem(Case(lengths=lengths), seed=1)
        rows, blocks = len(fresh.q), fresh.block_tables.shape[1]
        problem.q[:rows], problem.kv[: len(fresh.kv)] = fresh.q, fresh.kv
        problem.block_tables[:, :blocks] = fresh.block_tables
        problem.cu_q_lens.copy_(fresh.cu_q_lens)
        problem.context_lens.copy_(fresh.context_lens)
        graph.replay()
        assert relative_error(out[:rows], fresh.reference()) < 5e-3
        assert not workspace.counter.any() and not workspace.arrivals.any(), "left ready for the next launch"


def test_equal_inputs_give_equal_bits(path: str) -> None:
    problem = Problem(Case(lengths=((20, 4000), (300, 600))))
    first = problem.run(path).nan_to_num()
    assert all(torch.equal(first, problem.run(path).nan_to_num()) for _ in range(5))


def test_rejects_what_it_cannot_do() -> None:
    problem = Problem(Case(lengths=((4, 4),)))
    problem.kv = problem.kv.half()
    with pytest.raises(ValueError, match="kv must be torch.bfloat16"):
        problem.run("generic")
    problem = Problem(Case(head_dim=64, lengths=((4, 4),)))
    problem.block_tables = problem.block_tables[:, :0]
    with pytest.raises(ValueError, match="must cover max_context_len"):
        problem.run("generic")
