"""Malformed input of every kind is read, or refused in a sentence: soon, and in little memory.

A few cases of each kind run with the slow tests, the same ones each time; `MODECONN_FUZZ=600` runs so many of each,
drawn anew, and prints what became of them.
"""

import base64
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import modeconn
from modeconn.analysis.connectivity.features_result import FeatureConnectivity
from modeconn.analysis.connectivity.layerwise_result import LayerwiseBarrier
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.cli import main as command_line
from modeconn.cli.sources import load_given
from modeconn.data import draws_per_example, load_data
from modeconn.data.folder import load_folder
from modeconn.errors import ModeconnError
from modeconn.pruning.masks import Mask
from mutations import (
    archive,
    mangled,
    strange_arrays,
    strange_json,
    strange_safetensors,
    strange_table,
)
from watched import Watch, memory_limit

OLD = Path(__file__).parent.parent / "compatibility" / "made_by_0.1.0"
CASES = int(os.environ.get("MODECONN_FUZZ", "0"))
MEMORY = 6 << 30  # bytes more than before, at which this process gets no more
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Group = Callable[[Path], st.SearchStrategy[tuple[object, Callable[[], object]]]]
X, Y = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 2
GOOD = nn.Linear(4, 2).state_dict()


def make() -> nn.Module:
    """The network that all weights are of."""
    return nn.Linear(4, 2)


def barrier(a: object, data: object = (torch.from_numpy(X), torch.from_numpy(Y)), model: Any = make) -> str:
    """A whole measurement, printed."""
    return str(modeconn.error_barrier(a, GOOD, data, model=model, alphas=3))  # type: ignore[arg-type]


def write(path: Path, content: bytes) -> Path:
    """Write a file."""
    path.write_bytes(content)
    return path


def run(*arguments: str) -> int:
    """A command, whose last resort does not hide an exception."""
    return command_line.main(list(arguments))


def arrays(folder: Path) -> st.SearchStrategy[Any]:
    """Data for a barrier, and prepared data sets, in .npz files."""
    pixels, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    prepared = {f"{s}_{k}": v for s in ("train", "test") for k, v in (("images", pixels), ("labels", labels))}

    def read_prepared(content: bytes) -> object:
        data = load_data(write(folder / "p.npz", content))
        return nn.Linear(2, data.classes), data.train.images.read(torch.arange(2))

    plain = strange_arrays({"inputs": X, "targets": Y})
    return st.one_of(
        plain.map(lambda content: (content, lambda: barrier(GOOD, load_given(str(write(folder / "d.npz", content)))))),
        strange_arrays(prepared).map(lambda content: (content, lambda: read_prepared(content))),
    )


def tensors(folder: Path) -> st.SearchStrategy[Any]:
    """Weights and masks in safetensors files."""
    pruned = {"bias": GOOD["bias"], "weight_orig": GOOD["weight"], "weight_mask": torch.ones(2, 4)}
    mask = safetensors.torch.save({"weight": torch.ones(2, 4, dtype=torch.bool)}, {"layers": '["weight"]'})
    file = folder / "x.safetensors"
    return st.one_of(
        *(
            strange_safetensors(safetensors.torch.save(state)).map(lambda c: (c, lambda: barrier(write(file, c))))
            for state in (GOOD, pruned)
        ),
        strange_safetensors(mask).map(lambda c: (c, lambda: Mask.load(write(file, c)).describe())),
    )


def pickles(folder: Path) -> st.SearchStrategy[Any]:
    """Weights in PyTorch's files, old and new, packed, and pickles of anything."""

    def saved(content: object, **how: Any) -> bytes:
        out = io.BytesIO()
        torch.save(content, out, **how)
        return out.getvalue()

    class Calls:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "was called"),)

    anything = st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from([*GOOD.values(), np.float64(1), Path("/x"), Calls()]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
    )
    kinds = [
        mangled(saved(GOOD)),
        mangled(saved(GOOD, _use_new_zipfile_serialization=False)),
        mangled(pickle.dumps(GOOD | {"x": Calls()})),
        anything.map(lambda value: saved(GOOD | {"x": value})),
        anything.map(lambda value: saved({"state_dict": GOOD, "beside": value})),
        anything.map(pickle.dumps),
        st.binary(max_size=200).map(
            lambda code: archive({"a/data.pkl": b"\x80\x02" + code, "a/version": b"3\n"}, ending="")
        ),
        st.sampled_from(
            [b"\x80\x02})" + b"\x85" * 20_000 + b"K\x01s.", b"\x80\x04cos\nsystem\n\x8d" + b"\x7f" * 8 + b"x"]
        ),
    ]

    def read(content: bytes) -> object:
        try:
            return barrier(write(folder / "x.pt", content))
        finally:
            assert not (folder / "was called").exists(), "a pickle's code ran"

    return st.one_of(*kinds).map(lambda content: (content, lambda: read(content)))


def hugging_face(folder: Path) -> st.SearchStrategy[Any]:
    """Configurations and indices of Hugging Face folders."""
    home = folder / "hf"
    home.mkdir(exist_ok=True)
    config = json.dumps(
        {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1}
    )
    index = json.dumps({"metadata": {}, "weight_map": {"weight": "1.safetensors", "bias": "1.safetensors"}})

    def read(name: str, content: bytes) -> object:
        safetensors.torch.save_file(GOOD, home / "1.safetensors")
        for old in home.glob("*.json"):
            old.unlink()
        write(home / name, content)
        if name == "config.json":
            safetensors.torch.save_file(GOOD, home / "model.safetensors")
        else:
            (home / "model.safetensors").unlink(missing_ok=True)
        return barrier(home, model=None if name == "config.json" else make)

    return st.one_of(
        *(
            strange_json(text).map(lambda content, name=name: (content, lambda: read(name, content)))
            for name, text in (("config.json", config), ("model.safetensors.index.json", index))
        )
    )


def store(folder: Path) -> st.SearchStrategy[Any]:
    """What a store keeps of itself, its studies and its runs; and a Dask scheduler's file."""
    with tarfile.open(OLD / "whole.tar.gz") as archived:
        archived.extractall(folder, filter="data")
    root = folder / "whole"
    states = [next((root / "runs").glob(f"{kind}-*")) for kind in ("state", "evaluation", "path")]
    files = [root / "store.json", *(root / "studies").glob("*.json")]
    files += [state / name for state in states for name in ("spec.json", "done.json")]
    texts = {path: path.read_text() for path in files}

    def look(path: Path, content: bytes, action: int) -> object:
        name = path.parent.name if path.parent.parent.name == "runs" else path.stem
        actions = (("runs",), ("runs", "verify"), ("runs", "show", name), ("runs", "clean"))
        write(path, content)
        try:
            chosen = actions[action]
            return run(*chosen[:1], *chosen[1:], "--store", str(root))
        finally:
            path.write_text(texts[path])

    def connect(content: bytes) -> object:
        from modeconn.execution.dask_engine import Dask

        try:
            return Dask(scheduler_file=write(folder / "scheduler.json", content), patience=0.0)._address()
        except (OSError, ValueError, KeyError, TypeError) as error:  # at which one waits for a file that is whole
            raise ModeconnError(str(error)) from error

    return st.one_of(
        *(
            st.tuples(strange_json(text), st.integers(0, 3)).map(
                lambda drawn, path=path: (drawn, lambda: look(path, drawn[0], drawn[1]))
            )
            for path, text in texts.items()
        ),
        strange_json(json.dumps({"address": "tcp://127.0.0.1:8786", "id": "x"})).map(lambda c: (c, lambda: connect(c))),
    )


def results(_: Path) -> st.SearchStrategy[Any]:
    """Results in JSON, with the outcomes packed in them."""
    kinds = {
        "barrier": modeconn.Barrier,
        "barrier-decided": modeconn.Barrier,
        "matrix": BarrierMatrix,
        "layerwise": LayerwiseBarrier,
        "features": FeatureConnectivity,
    }
    texts = {name: (OLD / "json" / f"{name}.json").read_text() for name in kinds}
    content = json.loads(texts["barrier"])
    bomb = base64.b64encode(zlib.compress(bytes(1 << 29), 1)).decode()

    def unpacked(dtype: str, shape: list[int], packed: str) -> bytes:
        changed = json.loads(json.dumps(content))
        for samples in changed["samples"].values():
            samples["sums"] = {"dtype": dtype, "shape": shape, "zlib": packed or samples["sums"]["zlib"]}
        return json.dumps(changed).encode()

    def use(name: str, text: bytes) -> object:
        result = kinds[name].from_json(text.decode(errors="replace"))
        return str(result), result.rows(), result.to_json(), result.plot()

    return st.one_of(
        *(strange_json(text).map(lambda c, n=name: (c, lambda: use(n, c))) for name, text in texts.items()),
        st.builds(
            unpacked,
            st.sampled_from(["bool", "float32", "int64", "object", "U5", "float16", "x"]),
            st.lists(st.sampled_from([0, 1, 3, 2**29, 2**40, 2**63, -1]), max_size=3),
            st.sampled_from(["", bomb, "x", "eJwDAAAAAAE="]),
        ).map(lambda c: (c, lambda: use("barrier", c))),
    )


def studies(folder: Path) -> st.SearchStrategy[Any]:
    """Tables and summaries of studies that somebody edited."""
    texts = {}
    for kind in ("instability", "lottery"):
        shutil.copytree(OLD / kind, folder / kind, dirs_exist_ok=True)
        texts |= {path: path.read_text() for path in (folder / kind).iterdir() if path.suffix in (".csv", ".json")}

    def use(path: Path, content: bytes) -> object:
        write(path, content)
        try:
            result = modeconn.load_result(path.parent)
            return str(result), repr(result), result.plot()
        finally:
            path.write_text(texts[path])

    return st.one_of(
        *(
            (strange_json if path.suffix == ".json" else strange_table)(text).map(
                lambda c, p=path: (c, lambda: use(p, c))
            )
            for path, text in texts.items()
        )
    )


def images(folder: Path) -> st.SearchStrategy[Any]:
    """Image files that are damaged, huge when decoded, very narrow, or of another kind."""

    def picture(kind: str, mode: str, size: tuple[int, int]) -> bytes:
        out = io.BytesIO()
        Image.new(mode, size).save(out, kind)
        return out.getvalue()

    photos = folder / "photos"
    names = ["0.png", "0.jpg", "0.webp", b"\xff.png".decode(errors="surrogateescape"), "0.tif"]

    def read(content: bytes, name: str, size: int) -> object:
        shutil.rmtree(photos, ignore_errors=True)
        for split in ("train", "val"):
            (photos / split / "a").mkdir(parents=True)
            write(photos / split / "a" / name, content)
        data = load_folder(photos, "photos", size)
        return data.train.images.read(torch.arange(1)), data.train.images.read_augmented(
            torch.arange(1),
            torch.rand(1, draws_per_example("resized-crop-flip"), dtype=torch.float64),
            "resized-crop-flip",
        )

    small = [picture(kind, "RGB", (12, 9)) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]
    large = [picture("PNG", "1", size) for size in ((14000, 14000), (9000, 9000), (1, 60000), (60000, 2))]
    odd = [picture("PNG", mode, (5, 5)) for mode in ("I;16", "LA", "P", "1")] + [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    ]
    contents = st.one_of(*map(mangled, small), st.sampled_from([*small, *large, *odd]))
    sizes = st.sampled_from([8, 8, 8, 224, 10**5, 10**12, 0])
    return st.tuples(contents, st.sampled_from(names), sizes).map(lambda drawn: (drawn, lambda: read(*drawn)))


def names(folder: Path) -> st.SearchStrategy[Any]:
    """Names that no file can have, pipes, devices, broken links, folders where files should be."""
    pipe = folder / "pipe.npz"
    if not pipe.exists():
        os.mkfifo(pipe)
        (folder / "gone.pt").symlink_to("/nowhere/x.pt")
        (folder / "circle.pt").symlink_to(folder / "circle.pt")
        (folder / "folder.npz").mkdir()
        (folder / "store.json").symlink_to(pipe)
    given = [
        str(folder / name) for name in ("pipe.npz", "gone.pt", "circle.pt", "folder.npz", "folder.npz/x", "nothing")
    ]
    given += [
        "a\0b.npz",
        "\udcff.npz",
        "x" * 300 + ".npz",
        "x/" * 3000,
        "/dev/null",
        "/dev/zero",
        "",
        ".",
        "/",
        "~",
        "-",
        "a$\\x$.pt",
        "\n",
    ]
    calls: dict[str, Callable[[str], object]] = {
        "weights": barrier,
        "data": lambda name: load_data(name),
        "barrier data": load_given,
        "mask": Mask.load,
        "result": lambda name: modeconn.Barrier.from_json(Path(name)),
        "study": modeconn.load_result,
        "prepared": lambda name: load_data("digits", data_dir=name),
        "runs": lambda name: run("runs", "--store", name),
        "plot": lambda name: run("plot", name),
        "model": lambda name: run("barrier", "a.pt", "b.pt", "--model", f"{name}:{name}", "--data", name),
        "exit": lambda _: run("barrier", "a.pt", "b.pt", "--model", "sys:exit", "--data", "sys:exit"),
    }
    drawn = st.tuples(st.sampled_from(list(calls)), st.one_of(st.sampled_from(given), st.text(max_size=300)))
    return drawn.map(lambda one: (one, lambda: calls[one[0]](one[1])))


def options(folder: Path) -> st.SearchStrategy[Any]:
    """Options that ask for what cannot be, up to where a study would compute."""
    numbers = [
        "0",
        "-1",
        "1",
        "2",
        "3",
        "1000",
        "10**9",
        "1000000000",
        "9" * 20,
        "9" * 5000,
        "nan",
        "inf",
        "1e308",
        "0.5",
        "x",
        "",
    ]
    lists = [
        "0",
        "0,1,2",
        "0,0.5,1",
        "1%",
        "100%",
        "2ep",
        "9" * 30,
        "0." + "1" * 5000 + "%",
        ",".join(map(str, range(3000))),
        "paper",
        "adaptive",
        "nan,0.5",
        ",",
    ]
    models = [
        "resnet-20",
        "resnet-" + "9" * 11 + "8",
        "lenet" + "-1" * 3000,
        "lenet-" + "9" * 20,
        "vgg-11",
        "conv-2",
        "x",
        "sys:exit",
        ":",
        "os:nothing",
    ]
    words = [
        "interpolate",
        "recalibrate",
        "test",
        "train,test",
        "test,test",
        "order",
        "global",
        "imp",
        "none",
        "",
        "\udcff",
        "é",
    ]
    flags = {
        **dict.fromkeys(
            ("--replicates", "--copies", "--levels", "--per-class", "--validation", "--seed", "--calibration"), numbers
        ),
        **dict.fromkeys(
            ("--iterations", "--task.width", "--task.batch-size", "--task.image-size", "--threshold"), numbers
        ),
        **dict.fromkeys(
            ("--task.learning-rate", "--task.dropout", "--task.momentum", "--checkpoint-every", "--fraction"), numbers
        ),
        **dict.fromkeys(("--task.validation", "--task.evaluate-every", "--task.warmup", "--workers"), numbers),
        **dict.fromkeys(("--alphas", "--rewind-iters", "--rewind-iter", "--task.milestones", "--prune-iter"), lists),
        **dict.fromkeys(
            ("--batchnorm", "--splits", "--noise", "--conditions", "--barriers", "--scope", "--rates"), words
        ),
        "--task.model": models,
        "--task.norm": ["batch", "group", "none", "x"],
    }
    ours = ["--store", str(folder / "s"), "--out", str(folder / "o"), "--data-dir", str(folder)]

    @st.composite
    def line(draw: st.DrawFn) -> list[str]:
        chosen = draw(st.lists(st.sampled_from(list(flags)), min_size=1, max_size=3, unique=True))
        pairs = [word for flag in chosen for word in (flag, draw(st.sampled_from(flags[flag])))]
        started = [] if "--workers" in chosen else ["--workers", "0"]
        return [draw(st.sampled_from(["instability", "lottery"])), *pairs, *started, *ours]

    return line().map(lambda drawn: (drawn, lambda: run(*drawn)))


GROUPS: dict[str, Group] = {
    "arrays": arrays,
    "tensors": tensors,
    "pickles": pickles,
    "hugging face": hugging_face,
    "store": store,
    "results": results,
    "studies": studies,
    "images": images,
    "names": names,
    "options": options,
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, commands that hide no exception, and studies that stop before they compute."""

    def again(error: Exception, _: object) -> None:
        raise error

    def planned(*_: object, **__: object) -> None:
        raise ModeconnError("planned")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "_last_resort", again)
    monkeypatch.setattr("modeconn.execution.pool.start_server", lambda: None)
    for name in ("compute", "attempt"):
        monkeypatch.setattr(f"modeconn.training.runner.Runner.{name}", planned)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    load_data("digits", tmp_path)
    with memory_limit(MEMORY):
        yield tmp_path


@pytest.mark.parametrize("group", GROUPS)
def test_malformed_input_is_read_or_refused(group: str, alone: Path) -> None:
    watch = Watch()

    @hypothesis.settings(
        max_examples=CASES or 15,
        derandomize=not CASES,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(GROUPS[group](alone))
    def go(drawn: tuple[object, Callable[[], object]]) -> None:
        watch.call(drawn[1], drawn[0])

    go()
    if CASES:
        print(f"{group:<14}", dict(watch.outcomes), file=sys.__stderr__)
    assert not watch.findings
