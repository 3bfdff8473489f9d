"""Peak memory of `error_barrier` between two large checkpoints on a disk.

    python benchmarks/memory_of_large_pairs.py --parameters 7e9 --folder DIR

Writes two synthetic safetensors files of bfloat16 matrices, walks a path of 3 alphas between them in a fresh process,
and prints its peak memory beside the size of one network and of one tensor. The files are removed at the end.
Linux only: peaks are read from /proc.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

WIDTH = 4096


class Stack(nn.Module):
    """Residual square matrices; large, and quick to evaluate on one example."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, WIDTH]
        """Logits [batch, WIDTH]."""
        for layer in self.layers:
            x = x + layer(x)
        return x


def walk(folder: Path, depth: int) -> None:
    """Measure, in this process."""
    import modeconn

    begin, peaks, stop = time.monotonic(), {"RssAnon": 0, "VmRSS": 0}, threading.Event()
    base = _memory()

    def watch() -> None:
        while not stop.wait(0.02):
            for name, value in _memory().items():
                peaks[name] = max(peaks[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    data = (torch.randn(1, WIDTH), torch.zeros(1, dtype=torch.int64))
    a, b = (folder / f"{end}.safetensors" for end in "ab")
    result = modeconn.error_barrier(a, b, data, model=lambda: Stack(depth), alphas=3)
    stop.set()
    watcher.join()
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - begin, 1),
                "l2": result.ends.l2,
                "GB before": base["VmRSS"] / 1e6,
                "peak GB": peaks["VmRSS"] / 1e6,
                "peak GB without mapped files": peaks["RssAnon"] / 1e6,
            }
        )
    )


def _memory() -> dict[str, int]:
    """kB of this process: all that is resident, and what of it is no mapped file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon")}


def main() -> None:
    """Write the files, measure in a fresh process, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--folder", type=Path, help="where the files are written (default: a temporary folder)")
    parser.add_argument("--walk", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    depth = max(1, round(options.parameters / WIDTH**2))
    if options.walk:
        walk(options.walk, depth)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for seed, end in enumerate("ab"):
            torch.manual_seed(seed)
            matrix = torch.randn(WIDTH, WIDTH, dtype=torch.bfloat16) / WIDTH
            tensors = {f"layers.{i}.weight": matrix * (1 + i / depth) for i in range(depth)}
            save_file(tensors, Path(folder) / f"{end}.safetensors")
            del tensors
        command = [sys.executable, __file__, "--parameters", str(options.parameters), "--walk", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    network = depth * WIDTH**2 * 2 / 1e9
    print(f"{depth * WIDTH**2:.3g} parameters: one network {network:.2f} GB, one tensor {WIDTH**2 * 2 / 1e9:.3f} GB")
    for name, value in found.items():
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
