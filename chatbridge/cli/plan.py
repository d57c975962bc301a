"""Plan a training run: `chatbridge plan CFG [--options ...] [--gpu a100] [--gpu-memory 80GiB] [--ranks 8] [--mfu 0.4]
[--probe] [--json FILE]`.

Weights and data need not be on the disk. The exit code is 0 when the plan fits (or no memory is stated), 3 when it does
not, and 2 for a mistake in the file or the arguments.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from chatbridge.cli.arguments import add_options
from chatbridge.common.environment import hidden
from chatbridge.common.safe_files import replace_text

DOES_NOT_FIT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan. Returns the exit code."""
    args = _arguments(arguments)
    from chatbridge.experiment.plan.fitting import changes_that_fit, fitting_text, ranks_text, ranks_that_fit
    from chatbridge.experiment.plan.planner import Planner
    from chatbridge.experiment.plan.report import after_verdict, as_dict, up_to_verdict
    from chatbridge.experiment.plan.request import plan_request
    from chatbridge.experiment.plan.waiting import told

    request = plan_request(args.gpu, args.gpu_memory, args.ranks, args.mfu)
    planner = Planner(args.config, request)
    with told(f"planning {args.config}"):
        plan = planner.plan(args.options)
    print(hidden(up_to_verdict(plan)), flush=True)
    result = as_dict(plan)
    if plan.fits is False:
        with told("looking for changes with which it fits"):
            changes = changes_that_fit(planner, plan, args.options)
        texts = [fitting_text(changes), ranks_text(plan)]
        print(hidden("\n" + "\n\n".join(filter(None, texts))), flush=True)
        result["changes_that_fit"] = [list(one.options) for one in changes]
        result["ranks_that_fit"] = None if (found := ranks_that_fit(plan)) is None else found[0]
    print(hidden(f"\n{after_verdict(plan)}"), flush=True)
    if args.probe:
        from chatbridge.experiment.plan.probe import correction, probe, probe_text

        with told("running the steps of the probe"):
            steps = probe(plan)
        print(hidden(f"\n{probe_text(plan, steps)}"), flush=True)
        result["probe"] = {
            "correction": correction(steps),
            "steps": [{"rows": one.rows, "seconds": one.measured.seconds, "peak": one.measured.peak,
                       "predicted": one.predicted, "flops_per_second": one.rate} for one in steps],
        }  # fmt: skip
    if args.json is not None:
        replace_text(args.json, json.dumps(result, indent=1))
    return DOES_NOT_FIT if plan.fits is False else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Predict parameters, operations, memory, data and hours of a training run, without its files."
    )
    parser.add_argument("config", type=Path, metavar="CFG", help="the YAML of a training")
    add_options(parser)
    parser.add_argument("--gpu", metavar="NAME", help="GPU of each rank: a100, h100, h200, l40s, rtx4090, ...")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="memory of one rank: 80GiB, 80GB; default: that of --gpu")
    parser.add_argument("--ranks", type=int, metavar="N", help="number of processes; default: 1")
    parser.add_argument(
        "--mfu", type=float, metavar="SHARE", help="share of the GPU's rate that is reached; default: 0.4"
    )
    parser.add_argument("--probe", action="store_true", help="run real steps on this machine and correct the plan")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON, too")
    return parser.parse_args(arguments)
