"""Kills a small study at random moments, and repeats its command: the same bytes, and nothing left behind.

python benchmarks/kills.py --driver 100 --group 100 [--terminate 20] [--server 20] [--json kills.json]

Of each kind: SIGKILL to the command alone; to its whole process group; SIGTERM to the command; SIGKILL to the process
that workers are forked from. After every kill no process of the command is alive; after every study its tables are
those of one that nothing disturbed, `modeconn runs verify` finds no damage, and there are no temporary files, named
semaphores or temporary folders. Needs Linux.
"""

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.synchronize import SemLock
from pathlib import Path
from types import SimpleNamespace

from modeconn.cli.main import main as command
from modeconn.execution import pool
from modeconn.execution.fork_server import serve

STUDY = ["instability", "digits-conv", "--iterations", "40", "--rewind-iters", "0,10", "--replicates", "1"]
STUDY += ["--alphas", "3", "--device", "cpu", "--checkpoint-every", "0"]
SECONDS = 30.0  # in which all processes of a killed command must have ended


def main() -> int:
    """Kill, repeat, compare; print what was found.

    Returns:
        0 if all was as it must be, or else 1.
    """
    options = _options()
    kinds = [kind for kind in ("driver", "group", "terminate", "server") for _ in range(getattr(options, kind))]
    pick = random.Random(options.seed)
    pick.shuffle(kinds)
    root = Path(tempfile.mkdtemp())  # and no TemporaryDirectory, which the first fork that ends would remove
    try:
        place = _Place(root)
        whole = place.compute()
        place.begin_anew()
        began = time.monotonic()
        place.finish()
        length = time.monotonic() - began
        place.begin_anew()
        print(f"undisturbed: {length:.1f} s", flush=True)
        counts: Counter[str] = Counter()
        problems: list[str] = []
        while kinds:
            if place.killed(kinds[-1], pick.uniform(0, length), problems):
                counts[kinds.pop()] += 1
                print(dict(counts), problems[-3:], flush=True)
                if pick.random() < 0.9:  # the next kill meets what this one left
                    continue
            found = place.finish()
            counts["studies"] += 1
            problems += place.left() + ([] if found == whole else [f"other tables in study {counts['studies']}"])
            place.begin_anew()
        found = place.finish()
        problems += place.left() + ([] if found == whole else ["other tables in the last study"])
    finally:
        shutil.rmtree(root)
    counts["studies"] += 1
    said = {"kills": dict(counts), "problems": problems, "seed": options.seed, "study": STUDY}
    print(json.dumps(said, indent=1))
    if options.json:
        options.json.write_text(json.dumps(said, indent=1) + "\n")
    return int(bool(problems))


class _Place:
    """Where one study after the other is made: a folder each, with data, temporary files and settings that are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0
        for name in ("tmp", "data"):
            (root / name).mkdir()
        names = {"TMPDIR": "tmp", "MPLCONFIGDIR": "settings", "MODECONN_DATA": "data"}
        self.environment = os.environ | {name: str(root / folder) for name, folder in names.items()}
        self.begin_anew()

    def begin_anew(self) -> None:
        """Turn to another study, with a store of its own."""
        self.number += 1
        self.folder = self.root / f"study-{self.number}"
        self.folder.mkdir()

    def start(self) -> int:
        """Start the command, in a process group of its own; its process.

        It is forked from this one, which has imported everything, and so is the process that workers are forked from;
        else most kills would meet an interpreter that imports PyTorch.
        """
        process = os.fork()
        if process:
            while os.getpgid(process) != process:  # or a kill of its group may come before it has one
                time.sleep(0.001)
            return process
        try:
            os.setsid()
            os.chdir(self.folder)
            os.environ.update(self.environment)
            tempfile.tempdir = None  # that of this environment
            output = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Its semaphores, and those of what it forks, have a name of their own: other processes make some, too.
            # By now joblib is imported, which names them otherwise.
            name = staticmethod(lambda: f"/{self.root.name}-{next(SemLock._rand)}")  # type: ignore
            SemLock._make_name = name  # type: ignore
            pool.subprocess = SimpleNamespace(Popen=_Forked, DEVNULL=None)  # type: ignore
            sys.argv = ["modeconn", *STUDY, "--workers", "2", "--store", "store", "--out", "out"]
            sys.exit(command())
        except SystemExit as error:
            _end_as_python_does(error.code)
        finally:
            os._exit(70)

    def compute(self) -> dict[str, str]:
        """Run the command in this process alone, which imports what it needs; hashes of the tables that it wrote."""
        arguments = [*STUDY, "--workers", "0", "--store", str(self.folder / "store"), "--out", str(self.folder / "out")]
        if status := command([*arguments, "--data-dir", self.environment["MODECONN_DATA"]]):
            raise SystemExit(status)
        return self.tables()

    def said(self) -> str:
        """What the last command said."""
        return (self.folder / "said").read_text()

    def finish(self) -> dict[str, str]:
        """Let the command end; hashes of the tables that it wrote."""
        status = _status(self.start())
        if status:
            raise SystemExit(f"the study ended with {status}: {self.said()}")
        return self.tables()

    def tables(self) -> dict[str, str]:
        """Hashes of the tables that the command wrote."""
        files = sorted((self.folder / "out").glob("*.csv"))
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def killed(self, kind: str, seconds: float, problems: list[str]) -> bool:
        """Kill the command after so many seconds; False if it ended before."""
        process = self.start()
        time.sleep(seconds)
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        members = _members(process)
        victim = _server(process) if kind == "server" else process
        if ended or victim is None:
            _status(process)
            return False
        if kind == "group":
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(victim, signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
        status = _status(process)  # without its server the command goes on, with another one
        # It may have come when the results were there, or before the command could take it.
        said = [line for line in self.said().splitlines() if "modeconn:" in line and "jobs to compute" not in line]
        sound = status in (0, -signal.SIGTERM) or (status == 143 and len(said) == 1)
        if kind == "terminate" and not sound:
            problems.append(f"terminated with {status}, it said {self.said()!r}")
        if kind == "server" and status:
            problems.append(f"ended with {status} when its server was killed, and said {self.said()!r}")
        end = time.monotonic() + SECONDS
        while alive := [member for member in members if _is_alive(member, process)]:
            if time.monotonic() > end:
                problems.append(f"{len(alive)} processes are alive {SECONDS:g} s after a kill of the {kind}")
                for member in alive:
                    os.kill(member, signal.SIGKILL)
                break
            time.sleep(0.01)
        problems += self.left(files=False)
        return True

    def left(self, files: bool = True) -> list[str]:
        """What must not be there: semaphores, temporary folders and, of a finished study, files and damage."""
        found = [f"semaphore {path.name}" for path in Path("/dev/shm").glob(f"sem.{self.root.name}*")]
        found += [f"temporary {path.name}" for path in (self.root / "tmp").iterdir()]
        if files:
            found += self._runs("clean", "--yes")
            found += [f"file {path.relative_to(self.folder)}" for path in self.folder.rglob("*.tmp-*")]
            found += [f"set aside: {path.name}" for path in self.folder.glob("store/aside/*")]
            found += self._runs("verify")
        return found

    def _runs(self, *action: str) -> list[str]:
        """What `modeconn runs` said, if it failed."""
        done = subprocess.run(
            [sys.executable, "-m", "modeconn", "runs", *action, "--store", "store"],
            cwd=self.folder,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
        )
        return [f"runs {action[0]}: {done.stdout}{done.stderr}"] if done.returncode else []


class _Forked:
    """What a pool needs of `subprocess.Popen` to start its server, by a fork."""

    def __init__(self, arguments: list[str], stdin: None, pass_fds: list[int]) -> None:
        driver = os.getpid()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            try:
                for descriptor in map(int, os.listdir("/proc/self/fd")):
                    with contextlib.suppress(OSError):
                        if descriptor > 2 and descriptor not in pass_fds:
                            os.close(descriptor)
                serve(pass_fds[0], driver, [])
            finally:
                os._exit(70)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.returncode = _status(self.pid)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if self.poll() is None:
            self.returncode = _status(self.pid)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("driver", "group", "terminate", "server"):
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help="kills of this kind (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--json", type=Path, help="file to write what was found to")
    return parser.parse_args()


def _status(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _end_as_python_does(status: object) -> None:
    """End a forked process after what the interpreter does at its end."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def _members(group: int) -> list[int]:
    return [process for process, fields in _processes() if int(fields[2]) == group]


def _is_alive(process: int, group: int) -> bool:
    return any(found == process and fields[0] != "Z" and int(fields[2]) == group for found, fields in _processes())


def _server(command: int) -> int | None:
    """The process that workers are forked from: the one child of the command."""
    return next((process for process, fields in _processes() if int(fields[1]) == command), None)


def _processes() -> list[tuple[int, list[str]]]:
    """All processes: their numbers, and state, parent, group, ..."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_text().rpartition(")")[2].split()))
    return found


if __name__ == "__main__":
    sys.exit(main())
