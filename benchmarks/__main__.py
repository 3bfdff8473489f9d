"""Measure, print the table, write the JSON; or print the table of a JSON that was written before."""

import argparse
import datetime
import functools
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.floor import Amount, amount
from benchmarks.plan import QUICK, Benchmark, Sizes, Work, benchmarks
from benchmarks.rounds import Round, is_noisy, measure, run_side
from benchmarks.summary import summarize
from benchmarks.table import markdown

_PLACES = ("data_dir", "folder", "files")  # of this machine, which say nothing to others


def main() -> None:
    """Run the command line."""
    options = _options()
    if options.table:
        print(markdown(json.loads(options.table.read_text())))
        return
    data_dir = str(options.data_dir.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        sizes = QUICK if options.quick else Sizes() if options.images is None else Sizes(images=options.images)
        everything = benchmarks(sizes, machine.cores(), data_dir, temporary)
        names = [row.name for one in everything for row in one.rows]
        unknown = set(options.rows or ()) - set(names)
        if unknown:
            sys.exit(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        chosen = [part for one in everything if (part := one.only(options.rows or names))]
        results: dict[str, Any] = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "how": {
                "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
                "others": options.others,
                "checked": machine.CHECKED,
                "keep noisy": options.keep_noisy,
                "quick": options.quick,
            },
            "rows": [],
            "benchmarks": {},
        }
        for one in chosen:
            rows, evidence = _measure(one, options)
            results["rows"] += rows
            results["benchmarks"][one.name] = evidence
            if options.json:  # after each, so that an interruption costs one benchmark
                options.json.write_text(json.dumps(results, indent=1))
    print(markdown(results))


def _measure(one: Benchmark, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a benchmark, and all that was measured for them."""
    if one.before:
        _say(f"{one.name}: {one.before.name}: {run_side(one.before).seconds:.0f} s")
    kept, thrown = measure(
        one.sides,
        options.rounds if one.timed else 1,
        others=options.others,
        keep_noisy=options.keep_noisy or not one.timed,
        say=lambda text: _say(f"{one.name}: {text}"),
    )
    noisy = functools.partial(is_noisy, others=options.others) if one.timed else lambda found: False
    rows = [summarize(row, kept, _count, noisy) | {"thrown away": len(thrown)} for row in one.rows]
    evidence = {
        "sides": {
            side.name: {
                "function": side.function,
                "options": {name: value for name, value in side.options.items() if name not in _PLACES},
                "processes": side.processes,
            }
            for side in one.sides
        },
        "rounds": [_spec(found) for found in kept],
        "rounds thrown away": [_spec(found) for found in thrown],
    }
    return rows, evidence


@functools.cache
def _count(work: Work) -> Amount:
    return amount(work.task, work.precision, work.batch, work.training)


def _spec(found: Round) -> dict[str, Any]:
    return {name: run.spec() for name, run in found.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with cifar10.npz and mnist.npz")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows of the table (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds should count (default: 5)")
    parser.add_argument(
        "--images", type=int, metavar="N", help="test images of the error-barrier rows (default: 10,000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all that was measured")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing; print the table of such a file")
    parser.add_argument(
        "--others",
        type=float,
        default=0.03,
        metavar="X",
        help="a round in which others used more than this fraction of the machine is thrown away (default: 0.03)",
    )
    parser.add_argument("--keep-noisy", action="store_true", help="count such rounds too, and say so")
    parser.add_argument("--quick", action="store_true", help="tiny pieces of work, to see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
