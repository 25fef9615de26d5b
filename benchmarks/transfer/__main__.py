"""KV between two workers: rates of every transport, what overlap leaves over, TTFT of both paths. Qwen3-8B's shapes unless told.

    python -m benchmarks.transfer --devices cuda:0,cuda:1 --out benchmarks/results/NAME      (writes NAME.json and NAME.md)
    python -m benchmarks.transfer --devices cpu,cpu --model smollm2-135m-instruct --prompts 256,512 --pushes 16,512

``--devices`` the sender's and the receiver's; the same GPU twice measures two processes on it.

rates     Scattered 16-token blocks from this process to the pool of another: from the push to the fence seen by ``poll`` (wall) and as the transport
          reports it, newly drawn block ids each time; strided copies by the copy engine and plain ones over PCIe for comparison.
overlap   The production worker (engine, hand-off, sender) prefills prompts and pushes chunk by chunk into the other process's pool; in between, like
          prompts without a push. Exposed: from the first token's arrival on the host to the fence. A trace of one prefill is kept (Perfetto).
ttft      A cluster of one prefill and one decode worker, processes, requests one at a time, from the client's clock: disaggregated beside collocated.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from benchmarks.transfer.overlap import measure_overlap
from benchmarks.transfer.rates import measure_pcie, measure_rates
from benchmarks.transfer.record import Record
from benchmarks.transfer.setting import Setting
from benchmarks.transfer.ttft import measure_ttft
from nanopd.profiler.pool_process import PoolProcess

MODEL = str(Path(__file__).parents[1] / "models" / "qwen3-8b")


def main() -> None:
    args = parse()
    first, second = args.devices.split(",")
    setting = Setting(
        model=args.model,
        load_format="dummy" if args.model == MODEL else args.load_format,
        devices=(first, second),
        pushes=_numbers(args.pushes),
        prompts=_numbers(args.prompts),
        chunks=_numbers(args.chunks),
        rounds=args.rounds,
        cuda_graphs=not args.no_cuda_graphs,
    )
    record = Record(args.out, {**asdict(setting), "model": Path(args.model).name})
    parts = args.parts.split(",")
    if "rates" in parts or "overlap" in parts:
        with PoolProcess(setting.pool_shape, second) as peer:
            if "rates" in parts:
                if not setting.on_cpu:
                    measure_pcie(setting.devices, record.note)
                measure_rates(setting, peer, record.note)
            if "overlap" in parts:
                measure_overlap(setting, peer, record.note, args.out)
    if "ttft" in parts:
        measure_ttft(setting, record.note)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cuda:0,cuda:0", help="sender,receiver (%(default)s)")
    parser.add_argument("--parts", default="rates,overlap,ttft", help="(%(default)s)")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--pushes", default="16,128,1024,4096,8192,16384", help="tokens of each (%(default)s)")
    parser.add_argument("--prompts", default="1024,4096,16384", help="tokens of each (%(default)s)")
    parser.add_argument("--chunks", default="512,2048", help="prompt tokens of a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of everything; a third for long prompts (%(default)s)")
    parser.add_argument("--no-cuda-graphs", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    main()
