"""Where the time of a whole command goes: `python -m benchmarks.phases instability digits-conv --workers 2`.

The command runs once, in a fresh process and with an empty store. `phase_clock` is how its time is counted.
"""

import argparse
import datetime
import itertools
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, describe, others_share, usage
from benchmarks.phase_clock import FOLDER, JOBS

_CODE = "import sys; from benchmarks.phase_clock import run; run(float(sys.argv[1]), sys.argv[2:])"
_IDLE, _END, _REST = "workers have no job", "Python ends", "anything else"


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run a command once, with an empty store: its seconds, and what its processes left."""
    with tempfile.TemporaryDirectory() as folder:
        (records := Path(folder) / "records").mkdir()
        environment = os.environ | {FOLDER: str(records), "PYTHONPATH": str(ROOT)}
        places = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        began, before = time.monotonic(), _used()
        command = [sys.executable, "-c", _CODE, str(began), *arguments, *places]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        ended, used = time.monotonic(), _used() - before
        found = [json.loads(line) for path in records.iterdir() for line in path.read_text().splitlines()]
    return {"seconds": ended - began, "ended": ended, "used": used, "records": found}


def _used() -> float:
    """Processor seconds of the commands that were waited for and of their servers; workers are not among them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every phase: seconds of the command, of its server, of all workers together, and of processors.

    What the command and its workers spend is all there; the sum of the command's seconds is that of the whole.
    """
    of = {kind: [one for one in measured["records"] if one["kind"] == kind] for kind in ("command", "server", "job")}
    found: dict[str, dict[str, Any]] = {}

    def add(phase: str, who: str, seconds: float, cpu: float) -> None:
        row = found.setdefault(phase, {"phase": phase, "command": 0.0, "server": 0.0, "job": 0.0, "cpu": 0.0})
        row[who] += seconds
        row["cpu"] += cpu

    for who, records in of.items():
        for record in records:
            for phase, (seconds, cpu) in record["spent"].items():
                add(phase, who, seconds, cpu)
    (command,) = of["command"]
    workers = {one["process"]: one["cpu"] for one in of["job"]}  # what each has spent at its last job
    if workers:
        busy = sum(one["ended"] - one["began"] for one in of["job"])
        # A study may have several pools of workers one after the other.
        changes = sorted(change for one in of["job"] for change in ((one["began"], 1), (one["ended"], -1)))
        at_once = max(itertools.accumulate(change for _, change in changes))
        add(_IDLE, "job", found[JOBS]["command"] * at_once - busy, 0.0)
    outside = measured["used"] - command["cpu"] - sum(one["cpu"] for one in of["server"])
    add(_END, "command", measured["ended"] - command["ended"], outside)
    seconds, cpu = (sum(row[name] for row in found.values()) for name in ("command", "cpu"))
    add(_REST, "command", measured["seconds"] - seconds, measured["used"] + sum(workers.values()) - cpu)
    return sorted(found.values(), key=lambda row: (-row["cpu"], -row["command"]))


def markdown(results: Mapping[str, Any]) -> str:
    """The table, and what it was measured with."""
    lines = ["| phase | command, s | server, s | workers, s | processors, s |", "| --- | --- | --- | --- | --- |"]
    for row in results["phases"]:
        cells = [f"{row[who]:.2f}" if abs(row[who]) >= 0.005 else "" for who in ("command", "server", "job", "cpu")]
        lines.append(f"| {' | '.join([row['phase'], *cells])} |")
    total = f"| all | {results['seconds']:.2f} |  |  | {sum(row['cpu'] for row in results['phases']):.2f} |"
    about, kinds = results["machine"], ", ".join(f"{n} {kind}" for kind, n in results["jobs"].items())
    machine = f"{about['cpu']}, {about['cores']} cores ({', '.join(about['flags'])}); modeconn {about['modeconn']}"
    others = "not known" if results["others"] is None else f"{100 * results['others']:.0f} %"
    said = f"`modeconn {results['command']}`; jobs: {kinds or 'in the command'}. {machine}, torch {about['torch']}"
    return "\n".join([*lines, total, "", f"{said}; others used {others} of the machine. {results['when']}."])


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write what was measured")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a command of modeconn that writes to --out")
    options = parser.parse_args()
    before = usage()
    measured = measure([word for word in options.command if word != "--"])
    phases, after = rows(measured), usage()
    if before and after:  # of workers that have ended the system may tell nobody, but their records say what they used
        before, after = replace(before, ours=0), replace(after, ours=sum(row["cpu"] for row in phases))
    results = {
        "command": shlex.join(options.command),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "others": others_share(before, after, os.cpu_count() or 1),
        "seconds": measured["seconds"],
        "jobs": Counter(one["job"] for one in measured["records"] if one["kind"] == "job"),
        "phases": phases,
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
