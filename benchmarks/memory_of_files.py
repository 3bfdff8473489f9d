"""Peak memory and time of what works on large folders in Hugging Face's form tensor by tensor.

    python benchmarks/memory_of_files.py compare --parameters 1e9 --folder DIR
    python benchmarks/memory_of_files.py align --parameters 7e9 --folder DIR

Writes synthetic folders of bfloat16 weights with Llama's names and shapes, in shards; in a fresh process compares two,
or applies an alignment to one (a random order of the hidden units and the residual stream) and writes it; and
prints the peak memory beside the size of one network and of its largest tensor. The folders are removed at the end.
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
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import modeconn
from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.specification import symmetry_of_specification
from modeconn.weights.sources import weights_of

VOCABULARY, WIDTH, HIDDEN = 32_000, 4096, 11_008  # of Llama-2-7B
SHARD = 5  # layers


def write(folder: Path, seed: int, layers: int) -> int:
    """Write a network of so many layers; the bytes of its largest tensor."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    homes: dict[str, str] = {}
    largest = 0
    for shard in range(-(-layers // SHARD)):
        shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "lm_head": (VOCABULARY, WIDTH)} if shard == 0 else {}
        for layer in range(shard * SHARD, min(layers, (shard + 1) * SHARD)):
            place = f"model.layers.{layer}"
            shapes |= {f"{place}.self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
            shapes |= {f"{place}.mlp.{name}_proj": (HIDDEN, WIDTH) for name in ("gate", "up")}
            shapes |= {f"{place}.mlp.down_proj": (WIDTH, HIDDEN)}
        tensors = {
            f"{name}.weight": torch.randn(*shape, generator=draw, dtype=torch.bfloat16) / 64
            for name, shape in shapes.items()
        }
        name = f"model-{shard:05}.safetensors"
        save_file(tensors, folder / name)
        homes |= dict.fromkeys(tensors, name)
        largest = max(largest, *(tensor.nbytes for tensor in tensors.values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": WIDTH, "rope_theta": 1e4}))
    return largest


def compare(folder: Path) -> dict[str, Any]:
    """Compare the two networks."""
    result = modeconn.compare(folder / "a", folder / "b")
    return {"siblings": result.siblings.answer, "relative distance": result.whole.sums.relative_distance}


def align(folder: Path) -> dict[str, Any]:
    """Apply an alignment to a network, and read some of what was written."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights_of(folder / "a", "a").layout.items()}
    symmetry = symmetry_of_specification({name: _axes(name) for name in shapes}, shapes)
    draw = np.random.default_rng(0)
    alignment = Alignment(symmetry, symmetry.random(draw), "given", 0, 0, (), 0, ("a", "a"), (), {})
    alignment.apply_to_file(folder / "a", folder / "moved.safetensors")
    before, after = weights_of(folder / "a", "a"), weights_of(folder / "moved.safetensors", "moved")
    name = "lm_head.weight"
    expected = before.read(name)[:, torch.from_numpy(alignment.permutations[0])]
    return {"units moved": alignment.moved, f"{name} as expected": bool(torch.equal(after.read(name), expected))}


def _axes(name: str) -> tuple[str | None, str | None]:
    """The groups of a weight's two axes: the residual stream and the MLP's hidden units."""
    layer, kind = name.rpartition(".layers.")[2].partition(".")[0], name.split(".")[-2]
    if kind in ("embed_tokens", "lm_head"):
        return None, "residual"
    if kind in ("gate_proj", "up_proj"):
        return f"hidden {layer}", "residual"
    if kind == "down_proj":
        return "residual", f"hidden {layer}"
    return ("residual", None) if kind == "o_proj" else (None, "residual")


def measure(work: str, folder: Path) -> None:
    """Do it, in this process."""
    modeconn.compare(*[{"weight": torch.randn(8, 8)}] * 2)  # libraries are loaded
    base, peaks, stop = memory(), memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for name, value in memory().items():
                peaks[name] = max(peaks[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.process_time()
    found = WORK[work](folder)
    seconds = time.process_time() - begin
    stop.set()
    watcher.join()
    print(
        json.dumps(
            found
            | {
                "CPU seconds": seconds,
                "GB before": base["VmRSS"] / 1e6,
                "peak GB above": (peaks["VmRSS"] - base["VmRSS"]) / 1e6,
                "peak GB above, without mapped files": (peaks["RssAnon"] - base["RssAnon"]) / 1e6,
            }
        )
    )


WORK = {"compare": compare, "align": align}


def memory() -> dict[str, int]:
    """kB of this process: all that is resident, and what of it is no mapped file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon")}


def main() -> None:
    """Write the folders, measure in a fresh process, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--folder", type=Path, help="where the folders are written (default: a temporary folder)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.work, options.measure)
        return
    of_layer, outside = 4 * WIDTH**2 + 3 * WIDTH * HIDDEN, 2 * VOCABULARY * WIDTH
    layers = max(1, round((options.parameters - outside) / of_layer))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        largest = max(
            write(Path(folder) / end, seed, layers)
            for seed, end in enumerate("ab"[: 2 if options.work == "compare" else 1])
        )
        command = [sys.executable, __file__, options.work, "--measure", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size = (layers * of_layer + outside) * 2 / 1e9
    print(f"{layers} layers: one network {size:.2f} GB, its largest tensor {largest / 1e9:.3f} GB")
    for name, value in found.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
