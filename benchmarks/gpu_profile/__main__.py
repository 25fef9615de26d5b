"""Profiles this machine's GPU with Qwen3-8B (random weights), and plays traces to the real engine, for the records of the simulator's fidelity.

    python -m benchmarks.gpu_profile --out DIR --workers 1P+1D,2C,1C    (on the machine; 1C: with the profiles, in one process)
    python -m benchmarks.gpu_profile --take DIR                         (anywhere: profile and records into benchmarks/results)

With two GPUs every worker has one of its own, and the profile's transfer is measured between them; with one they share it: then 1C goes with
--sharing.
``--try`` does everything with the embedded model on a CPU, small: that each part runs.
"""

import argparse
import asyncio
from pathlib import Path

from benchmarks.gpu_profile.setting import GPU, TRY
from benchmarks.gpu_profile.take import take

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure here, and where to")
    parser.add_argument("--workers", default="1C", help="sets of workers, one after another (%(default)s)")
    parser.add_argument("--profiles", type=int, default=2, help="around the traces of 1C (%(default)s)")
    parser.add_argument(
        "--sharing", action="store_true", help="with 1C: what two processes take of a GPU (with room for two)"
    )
    parser.add_argument("--min-rounds", type=int, default=2, help="of a profile over all kinds of steps (%(default)s)")
    parser.add_argument("--take", type=Path, help="make the profile and its records from what was measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where --take writes (%(default)s)")
    parser.add_argument("--try", dest="is_try", action="store_true", help="small, on a CPU")
    parser.add_argument("--transfer", type=Path, help="with --take: a record of benchmarks/transfer, for the profile")
    parser.add_argument("--note", default="", help="with --take: where what comes from, if not all is of one run")
    args = parser.parse_args()
    setting = TRY if args.is_try else GPU
    if args.out is not None:
        from benchmarks.gpu_profile.measure import Measurement

        args.out.mkdir(parents=True, exist_ok=True)
        measurement = Measurement(setting, args.out, args.min_rounds)
        for workers in args.workers.split(","):
            if workers == "1C":
                measurement.one_device(args.profiles, args.sharing)
            else:
                asyncio.run(measurement.cluster(workers))
    if args.take is not None:
        print(take(setting, args.take, args.results, args.transfer, args.note))


if __name__ == "__main__":
    main()
