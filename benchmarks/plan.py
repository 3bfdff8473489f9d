"""What is measured: the rows of the table, the sides that they compare, and how large the pieces of work are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.rounds import Side
from modeconn.options import THRESHOLD


@dataclass(frozen=True)
class Work:
    """For the floor: what the images of one unit of work pass through."""

    task: str
    precision: str
    batch: int
    training: bool
    images: int = 1


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        side: what is measured.
        against: what it is compared with: the better of these sides.
        unit: one of `summary.UNITS`.
        target: with `against`, at least so many times as fast; else at most so much of the unit.
        work: for the floor.
        agree: how far the numbers of both sides may be apart: of `error`, `loss` (largest on the path), `barrier`, and
            `decision` (1 where one is above the threshold and the other is not).
    """

    name: str
    side: str
    against: tuple[str, ...] = ()
    unit: str = "images/s"
    target: float | None = None
    work: Work | None = None
    agree: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """Rows whose sides take turns in the same rounds.

    Attributes:
        before: run once, before all rounds.
        timed: whether it is seconds that are measured; counts need one round, and others do not matter.
    """

    name: str
    sides: tuple[Side, ...]
    rows: tuple[Row, ...]
    before: Side | None = None
    timed: bool = True

    def only(self, rows: list[str]) -> "Benchmark | None":
        """With these rows and the sides that they need; None if none of them is here."""
        kept = tuple(row for row in self.rows if row.name in rows)
        needed = {name for row in kept for name in (row.side, *row.against, *floor_sides(row))}
        sides = tuple(side for side in self.sides if side.name in needed)
        return Benchmark(self.name, sides, kept, self.before, self.timed) if kept else None


def floor_sides(row: Row) -> tuple[str, ...]:
    """The sides that measure what the machine can do."""
    return (f"{row.work.precision} products", "copies") if row.work else ()


@dataclass(frozen=True)
class Sizes:
    """How much every side does, in iterations, images, alphas, repetitions or seconds."""

    resnet: int = 60
    few: int = 10
    digits: int = 1_000
    lenet: int = 10_000
    lenet_tutorial: int = 2_000
    pair: int = 200
    alphas: int = 31
    images: int = 10_000
    commands: tuple[str, ...] = ()
    large: int = 63
    repeats: int = 20
    floor: float = 2.0
    product: int = 1024


QUICK = Sizes(
    resnet=2,
    few=1,
    digits=5,
    lenet=50,
    lenet_tutorial=10,
    pair=2,
    alphas=3,
    images=100,
    commands=("--iterations", "10", "--replicates", "1", "--alphas", "3"),
    large=1,
    repeats=2,
    floor=0.1,
    product=256,
)
_CHECKPOINTS = 10.0  # seconds; a study saves every 60, so this is a harder case, but rounds are shorter than 60


def benchmarks(sizes: Sizes, cores: int, data_dir: str, folder: str) -> list[Benchmark]:
    """All of them.

    Args:
        sizes: of the work.
        cores: how many one-thread processes fill the machine.
        data_dir: with `cifar10.npz` and `mnist.npz`.
        folder: for networks that are trained first.
    """
    full = partial(Side, processes=cores)
    products = {"size": sizes.product, "seconds": sizes.floor}
    floor = (
        full("float32 products", "benchmarks.floor:matrix_products", {**products, "precision": "float32"}),
        full("bfloat16 products", "benchmarks.floor:matrix_products", {**products, "precision": "bfloat16"}),
        full("copies", "benchmarks.floor:copies", {"seconds": sizes.floor}),
    )
    resnet: dict[str, Any] = {"task": "cifar10-resnet20", "data_dir": data_dir}
    lenet: dict[str, Any] = {"task": "mnist-lenet", "data_dir": data_dir}
    return [
        Benchmark(
            "resnet20-train",
            (
                *(
                    full(name, "benchmarks.ours:train", {**resnet, "iterations": sizes.resnet, "precision": name})
                    for name in ("float32", "bfloat16")
                ),
                *_tutorials("train", {**resnet, "iterations": sizes.resnet}),
                *floor,
            ),
            tuple(
                Row(
                    f"resnet20-train-{name}",
                    name,
                    _TUTORIALS,
                    target=target,
                    work=Work("cifar10-resnet20", name, 128, training=True),
                )
                for name, target in (("float32", 1.5), ("bfloat16", 2.5))
            ),
        ),
        Benchmark(
            "lenet-train",
            (
                full("float32", "benchmarks.ours:train", {**lenet, "iterations": sizes.lenet}),
                *_tutorials("train", {**lenet, "iterations": sizes.lenet_tutorial}),
                *floor,
            ),
            (
                Row(
                    "lenet-train",
                    "float32",
                    _TUTORIALS,
                    target=5.0,
                    work=Work("mnist-lenet", "float32", 60, training=True),
                ),
            ),
        ),
        _paths(sizes, resnet, folder, floor, cores),
        *(
            Benchmark(
                f"{name}-overhead",
                (
                    full(
                        "study's job",
                        "benchmarks.ours:study_job",
                        {**options, "iterations": iterations, "checkpoint_every": _CHECKPOINTS},
                    ),
                    full("bare steps", "benchmarks.ours:bare_steps", {**options, "iterations": iterations}),
                ),
                (Row(f"{name}-overhead", "study's job", ("bare steps",), target=0.97),),
            )
            for name, options, iterations in (("resnet20", resnet, sizes.resnet), ("lenet", lenet, sizes.lenet))
        ),
        *(
            Benchmark(
                f"written-out-{name}",
                (
                    full("written out", "benchmarks.ours:train", of),
                    full("autograd", "benchmarks.ours:train", of | _AUTOGRAD),
                ),
                (Row(f"written-out-{name}", "written out", ("autograd",)),),
            )
            for name, of in (
                ("mnist-lenet", {**lenet, "iterations": sizes.lenet}),
                ("lenet-100-50", {**lenet, "task": "digits-conv", "changes": _SMALL_MLP, "iterations": sizes.lenet}),
            )
        ),
        *(_cohort(task, members, target, sizes, data_dir, full) for task, members, target in _COHORTS),
        *_tried(sizes, full),
        _commands(sizes),
        _large(sizes, folder),
        Benchmark(
            "start-up",
            (
                Side(
                    "import modeconn",
                    "benchmarks.commands:start_up",
                    {"repeats": sizes.repeats, "arguments": ["-c", "import modeconn"], "besides": ["-c", "pass"]},
                ),
                Side(
                    "modeconn --help",
                    "benchmarks.commands:start_up",
                    {"repeats": sizes.repeats, "arguments": ["-m", "modeconn", "--help"]},
                ),
            ),
            (
                Row("import-time", "import modeconn", unit="s", target=0.1),
                Row("help-time", "modeconn --help", unit="s", target=0.5),
            ),
        ),
        Benchmark(
            "search",
            tuple(
                Side(task, "benchmarks.search_cost:cost", {"task": task})
                for task in ("digits-conv", "mnist-lenet", "cifar10-resnet20")
            ),
            tuple(
                Row(f"search-{task}", task, unit="of the full grid", target=1 / 3)
                for task in ("digits-conv", "mnist-lenet", "cifar10-resnet20")
            ),
            timed=False,
        ),
    ]


# The digits' cohort is that of the default study: two copies in each of three replicates.
_COHORTS = (("digits-conv", 6, 1.5), ("mnist-lenet", 6, None), ("cifar10-resnet20", 2, None))


def _cohort(
    task: str, members: int, target: float | None, sizes: Sizes, data_dir: str, full: Callable[..., Side]
) -> Benchmark:
    """Several networks as one program on each core, against one; the same number of iterations of all."""
    options: dict[str, Any] = {"task": task, "data_dir": data_dir}
    iterations = {"digits-conv": sizes.digits, "mnist-lenet": sizes.lenet_tutorial, "cifar10-resnet20": sizes.few}[task]
    sides = (
        full("together", "benchmarks.ours:cohort", {**options, "iterations": iterations, "members": members}),
        full("one", "benchmarks.ours:train", {**options, "iterations": iterations}),
    )
    return Benchmark(f"cohort-{task}", sides, (Row(f"cohort-{task}", "together", ("one",), target=target),))


def _tried(sizes: Sizes, full: Callable[..., Side]) -> Iterator[Benchmark]:
    """What is not used, against what is."""
    ways = [full(way, "benchmarks.tried:steps", {"way": way, "members": 6, "seconds": sizes.floor}) for way in _WAYS]
    rows = tuple(Row(f"tried-{way}", way, (_WAYS[0],)) for way in _WAYS[1:])
    yield Benchmark("tried-cohorts", tuple(ways), rows)
    # The digits' training split is one batch.
    for network, used, other in (("digits-conv", 1437, 250), ("resnet-20", 250, 500)):
        sides = [
            full(
                f"{batch} images, {members} networks" if members > 1 else f"{batch} images",
                "benchmarks.tried:forward",
                {"network": network, "batch": batch, "members": members, "seconds": sizes.floor},
            )
            for batch, members in ((used, 1), (50, 1), (other, 1), (used, 6))
        ]
        names = ("batches-of-50", f"batches-of-{other}", "six-alphas-at-once")
        rows = tuple(
            Row(f"tried-{network}-{name}", side.name, (sides[0].name,))
            for name, side in zip(names, sides[1:], strict=True)
        )
        yield Benchmark(f"tried-{network}", tuple(sides), rows)


_WAYS = ("grouped", "vmap", "products")
_AUTOGRAD = {"autograd": True}
_SMALL_MLP = {"model": "lenet-100-50", "norm": "none", "learning_rate": 0.03}
_TUTORIALS = ("tutorial, 0 workers", "tutorial, 2 workers")


def _tutorials(function: str, options: dict[str, Any]) -> tuple[Side, ...]:
    """One process with PyTorch's default threads, one for each core, and with that many workers of its loader."""
    return tuple(
        Side(
            f"tutorial, {workers} workers",
            f"benchmarks.tutorial:{function}",
            {**options, "loader_workers": workers},
            threads=None,
        )
        for workers in (0, 2)
    )


def _paths(sizes: Sizes, resnet: dict[str, Any], folder: str, floor: tuple[Side, ...], cores: int) -> Benchmark:
    options = {**resnet, "files": [f"{folder}/{end}.safetensors" for end in range(2)], "images": sizes.images}
    ours: dict[str, dict[str, Any]] = {
        "float32": {"alphas": sizes.alphas},
        "bfloat16": {"alphas": sizes.alphas, "precision": "bfloat16"},
        "adaptive": {"alphas": "adaptive"},
        "decide": {"alphas": sizes.alphas, "decide": THRESHOLD},
    }
    images = sizes.images * sizes.alphas
    row = partial(Row, unit="paths/h")
    work = {
        name: Work("cifar10-resnet20", name, 250, training=False, images=images) for name in ("float32", "bfloat16")
    }
    return Benchmark(
        "error-barrier",
        (
            *(Side(name, "benchmarks.ours:path", {**options, **chosen}, cores) for name, chosen in ours.items()),
            Side("one call", "benchmarks.ours:path", {**options, "alphas": sizes.alphas}),
            *_tutorials("path", {**options, "alphas": sizes.alphas}),
            *floor,
        ),
        (
            row(
                "error-barrier-float32",
                "float32",
                _TUTORIALS,
                target=1.6,
                work=work["float32"],
                agree={"error": 1e-5, "loss": 1e-5},
            ),
            row(
                "error-barrier-bfloat16",
                "bfloat16",
                _TUTORIALS,
                target=2.8,
                work=work["bfloat16"],
                agree={"error": 1e-3},
            ),
            row("error-barrier-adaptive", "adaptive", ("float32",), target=2.5, agree={"barrier": 1e-3}),
            row("error-barrier-decide", "decide", ("float32",), agree={"decision": 0}),
            row("error-barrier-one-call", "one call", _TUTORIALS, agree={"error": 1e-5, "loss": 1e-5}),
        ),
        before=Side(
            "two trained networks",
            "benchmarks.ours:trained",
            {**resnet, "iterations": sizes.pair, "folder": folder},
            processes=2,
        ),
    )


def _commands(sizes: Sizes) -> Benchmark:
    """Each takes all cores by itself."""
    sides = [
        Side(name, "benchmarks.commands:study", {"arguments": [name, *sizes.commands]}, threads=None, checked=False)
        for name in ("instability", "lottery")
    ]
    return Benchmark(
        "digits",
        tuple(sides),
        (
            Row("digits-study", "instability", unit="s", target=12.0),
            Row("digits-lottery", "lottery", unit="s", target=30.0),
        ),
    )


def _large(sizes: Sizes, folder: str) -> Benchmark:
    """A study of 10,090 jobs, and a store with as many artifacts."""
    size, place = {"replicates": sizes.large}, {"folder": f"{folder}/large"}
    return Benchmark(
        "10000-jobs",
        (
            Side("planning", "benchmarks.large_study:planning", size),
            Side("modeconn runs", "benchmarks.large_study:listing", {"repeats": 3, **place}),
        ),
        (
            Row("plan-10000", "planning", unit="s", target=5.0),
            Row("runs-10000", "modeconn runs", unit="s", target=2.0),
        ),
        before=Side("a store of 10,090 artifacts", "benchmarks.large_study:filled_store", size | place),
    )
