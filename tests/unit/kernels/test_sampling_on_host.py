"""The sampling kernel's own source, compiled for the host (support/cuda_on_host), against the rules in float64. Needs a C++ compiler, no GPU."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support import sampling_oracle as oracle

from nanopd.kernels.headers import INCLUDE_DIR, SOURCE_DIR
from nanopd.kernels.sampling import SamplingConfig

COMPILER = shutil.which("g++")
HOST = Path(__file__).parents[2] / "support" / "cuda_on_host"
LOGITS = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


class Kernel:
    """One configuration, built."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, config: SamplingConfig, *, filters: bool, greedy: bool
    ) -> None:
        self.config = config
        source = (SOURCE_DIR / "sampling.cu").read_text()
        here = "    __shared__ Shared shared;\n"
        assert source.count(here) == 1
        there = "    auto& shared = reinterpret_cast<Shared&>(*host::shared_memory[host::current->cta].data());\n"
        (folder / "kernel.cpp").write_text(source.replace(here, there))
        macros = {
            "LOGIT": LOGITS[dtype],
            "CLUSTER": config.cluster,
            "THREADS": config.threads,
            "MIN_CTAS": 1,
            "GREEDY_ONLY": int(greedy),
            "HAS_FILTERS": int(filters),
            "__CUDA_ARCH__": 0,
            "KERNEL": f'"{folder / "kernel.cpp"}"',
        }
        library = folder / "kernel.so"
        options = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-I{HOST}", f"-I{INCLUDE_DIR}"]
        options += [f"-D{name}={value}" for name, value in macros.items()]
        assert COMPILER is not None
        subprocess.run([COMPILER, *options, str(HOST / "sampling.cpp"), "-o", str(library)], check=True)
        self._run = ctypes.CDLL(str(library)).sample

    def __call__(self, logits: torch.Tensor, parameters: tuple[list, ...]) -> list[int]:
        temperature, top_k, top_p, min_p, uniform = parameters
        num_rows, vocab = logits.shape
        out = torch.full((num_rows,), -7)
        floats = [torch.tensor(values, dtype=torch.float32) for values in (temperature, top_p, min_p, uniform)]
        tensors = (logits, floats[0], torch.tensor(top_k), *floats[1:], out)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        stride = ctypes.c_longlong(logits.stride(0))
        done = self._run(*pointers, stride, vocab, self.config.slice_tokens(vocab), num_rows)
        assert done == num_rows, f"row {done}: threads wait for one another"
        return out.tolist()


def check(tokens: list[int], logits: torch.Tensor, parameters: tuple[list, ...]) -> None:
    expected = [oracle.allowed(row, *values) for row, *values in zip(logits, *parameters, strict=True)]
    wrong = [(i, token, expected[i]) for i, token in enumerate(tokens) if token not in expected[i]]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("dtype", "config"),
    [
        (torch.float32, SamplingConfig(4, 64, 1)),
        (torch.float32, SamplingConfig(1, 128, 1)),
        (torch.bfloat16, SamplingConfig(2, 64, 1)),
    ],
)
def test_filtered(tmp_path: Path, dtype: torch.dtype, config: SamplingConfig) -> None:
    kernel = Kernel(tmp_path, dtype, config, filters=True, greedy=False)
    for kind in ("normal", "peaked", "negative", "masked"):
        for vocab, apart in ((4003, 0), (1000, 24), (7, 1)):
            torch.manual_seed(vocab)
            logits = oracle.make_logits(5, vocab, dtype, kind, "cpu")
            logits = torch.nn.functional.pad(logits, (0, apart), value=100.0)[:, :vocab]
            parameters = oracle.make_parameters(5)
            check(kernel(logits, parameters), logits, parameters)


def test_cuts_among_logits_that_are_almost_equal(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, torch.float32, SamplingConfig(2, 64, 1), filters=True, greedy=False)
    for spread in (0.0, 1e-6, 1e-4):
        for high in (0.05, 3.0, 30.0):
            torch.manual_seed(0)
            logits = oracle.make_crowd(3, 6000, high, spread, "cpu")
            parameters = ([0.7] * 3, [7, 0, 300], [1.0, 0.6, 0.5], [0.0] * 3, torch.rand(3).tolist())
            check(kernel(logits, parameters), logits, parameters)
    # Fewer tokens than top-k asks for: what each CTA's threads reach says nothing.
    logits = torch.full((3, 6000), -float("inf"))
    logits[:, ::300] = torch.randn(3, 20)
    parameters = ([1.0] * 3, [50, 50, 15], [1.0, 0.9, 1.0], [0.0] * 3, [0.2, 0.5, 0.9])
    check(kernel(logits, parameters), logits, parameters)


@pytest.mark.parametrize("greedy", [True, False])
def test_without_filters(tmp_path: Path, greedy: bool) -> None:
    kernel = Kernel(tmp_path, torch.float32, SamplingConfig(2, 64, 1), filters=False, greedy=greedy)
    for kind in ("normal", "peaked", "masked"):
        torch.manual_seed(1)
        logits = oracle.make_logits(6, 4003, torch.float32, kind, "cpu")
        logits[:, 4002] = logits[:, 17] = logits.max()  # equals, in different CTAs
        temperature = [0.0] * 6 if greedy else [0.0, 0.3, 0.6, 1.0, 1.7, 1.0]
        parameters = (temperature, [0] * 6, [1.0] * 6, [0.0] * 6, torch.rand(6).tolist())
        check(kernel(logits, parameters), logits, parameters)
    masked = torch.full((1, 100), -float("inf"))
    assert kernel(masked, ([0.0], [0], [1.0], [0.0], [0.5])) == [0]
