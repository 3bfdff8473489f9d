"""Studies that several figures are made of, so that the store computes them once."""

from dataclasses import replace
from typing import Any

from modeconn.reproduce.figure import SMOKE, Study

_SMOKE = {
    "iterations": 40,
    "task.width": 0.25,
    "alphas": 3,
    "calibration": 100,
    "replicates": 2,
    "batchnorm": ("interpolate",),
}
_EARLIER = "10%,25%,50%"  # of training, where copies are compared before its end

# Of ResNet-20, 63,000 steps of 258 ms: `python -m benchmarks.profile_step cifar10-resnet20 --precision bfloat16`.
FULL_LENGTH = "4.5 h each in full length on one core with AVX512_BF16"

# Unpruned networks: at which k do copies stay connected? With every measure between the copies, and their distance from
# the initialisation, at the end and earlier.
DENSE: dict[str, dict[str, dict[str, Study]]] = {
    "mnist-lenet": {
        "paper": {
            "dense": Study(
                "instability",
                "mnist-lenet",
                {
                    "rewind_iters": "0,100,500,2000,6000",
                    "copies": 3,
                    "alphas": "paper",
                    "measures": ("ends",),
                    "measure_at": _EARLIER,
                },
            )
        },
        # In full length, with one pair of copies of each initialisation instead of three.
        "short": {
            "dense": Study(
                "instability",
                "mnist-lenet",
                {
                    "rewind_iters": "0,100,500,2000,6000",
                    "alphas": 11,
                    "measures": ("ends",),
                    "measure_at": "10%,50%",
                },
            )
        },
    },
    "cifar10-resnet20": {
        "paper": {
            "dense": Study(
                "instability",
                "cifar10-resnet20",
                {
                    "rewind_iters": "0,100,500,1000,2000,3000,5000,10000",
                    "copies": 3,
                    "alphas": "paper",
                    "measures": ("ends",),
                    "measure_at": _EARLIER,
                },
            )
        },
        "short": {
            "dense": Study(
                "instability",
                "cifar10-resnet20",
                {
                    "iterations": 3000,
                    "rewind_iters": "0,1%,3%,10%,30%",
                    "replicates": 1,
                    "alphas": 7,
                    "splits": ("test",),
                    "precision": "bfloat16",
                    "measures": ("ends",),
                    "measure_at": _EARLIER,
                },
            )
        },
    },
    SMOKE: {
        "paper": {"dense": Study("instability", SMOKE, {"measures": ("ends",), "measure_at": _EARLIER})},
        "smoke": {
            "dense": Study(
                "instability", SMOKE, _SMOKE | {"rewind_iters": "0,8", "measures": ("ends",), "measure_at": "50%"}
            )
        },
    },
}


# Copies that train T iterations after the fork, beside those that train T - k: two studies, and only replicates tell
# whether they differ, so the short protocol of the ResNet is shorter than that of its other figures, and of fewer k.
_SHORTER: dict[tuple[str, str], dict[str, Any]] = {
    ("cifar10-resnet20", "short"): {"iterations": 600, "rewind_iters": "0,3%,30%", "replicates": 3}
    | {"measure_at": (), "measures": ()}
}


def _whole(dense: Study, changes: dict[str, Any]) -> dict[str, Study]:
    rest = replace(dense, options={**dense.options, **changes})
    whole = {**rest.options, "copies_train": "whole", "measure_at": (), "measures": ()}
    return {"dense": rest, "whole": replace(rest, options=whole)}


WHOLE = {
    network: {
        protocol: _whole(studies["dense"], _SHORTER.get((network, protocol), {}))
        for protocol, studies in protocols.items()
    }
    for network, protocols in DENSE.items()
}

# Intervals are over initialisations, of which the ResNet's other studies have one.
INTERVALS = DENSE | {
    "cifar10-resnet20": {
        "paper": DENSE["cifar10-resnet20"]["paper"],
        "short": {"dense": WHOLE["cifar10-resnet20"]["short"]["dense"]},
    }
}


def _by_noise(task: str, sources: tuple[str, ...], options: dict[str, Any]) -> dict[str, Study]:
    every = {"all": sources, **{source: (source,) for source in sources}}
    return {name: Study("instability", task, options | {"noise": noise}) for name, noise in every.items()}


_DROPOUT = ("order", "dropout")
_WITH_DROPOUT: dict[str, Any] = {
    "task.model": "lenet-100-50",
    "task.norm": "none",
    "task.dropout": 0.2,
}  # on the digits
NOISE = {
    SMOKE: {
        "paper": _by_noise(SMOKE, _DROPOUT, _WITH_DROPOUT),
        "smoke": _by_noise(SMOKE, _DROPOUT, _SMOKE | _WITH_DROPOUT | {"rewind_iters": "0,8"}),
    },
    "cifar10-resnet20": {
        "short": _by_noise(
            "cifar10-resnet20",
            ("order", "augmentation"),
            {"iterations": 600, "rewind_iters": "0,3%,30%", "precision": "bfloat16", "replicates": 1, "alphas": 7},
        )
    },
}


def _perturbed(task: str, options: dict[str, Any]) -> dict[str, Study]:
    kinds = {"one weight": "weight", "noise of norm 0.1": "gaussian:0.1", "one other batch": "batch"}
    return {name: Study("instability", task, options | {"perturb": kind}) for name, kind in kinds.items()}


PERTURBED = {
    SMOKE: {"paper": _perturbed(SMOKE, {}), "smoke": _perturbed(SMOKE, _SMOKE | {"rewind_iters": "0,8"})},
    "cifar10-resnet20": {
        "short": _perturbed(
            "cifar10-resnet20",
            {"iterations": 600, "rewind_iters": "0,0.5%,3%,30%", "precision": "bfloat16", "splits": ("test",)}
            | {"replicates": 1, "alphas": 7},
        )
    },
}


_SMALL = {
    "iterations": 40,
    "task.width": 0.25,
    "alphas": 3,
    "calibration": 100,
    "replicates": 1,
    "levels": 2,
    "fraction": 0.5,
}
_SMALL |= {"fix": False}  # barriers are measured as they are


def _lottery(title: str, task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {title: Study("lottery", task, options)}


# Sparse networks rewound to several k, at the paper's lowest density of each network at which IMP matches for some k.
_THREE = ("imp", "random", "reinit")
_AT_THE_END: dict[str, Any] = {"conditions": _THREE, "barriers": ("instability",), "barriers_of": _THREE, "fix": False}
_AT_THE_END |= {"details": ("paths",), "measures": ("ends",)}
# Why IMP may be stable and match from k = 0 here.
WHY_SPARSE = {
    "short": "the masks know what the trainings before found, and the less a network learns in one training, the more "
    "that is worth: tickets err less than the dense network"
}
SPARSE = {
    "mnist-lenet": {
        "paper": _lottery(
            "sparse",
            "mnist-lenet",
            _AT_THE_END
            | {
                "rewind_iter": "0,500,6000",
                "levels": 15,
                "at_levels": (15,),
                "replicates": 3,
                "copies": 3,
                "validation": 0,
            },
        ),
        # In full length, at two k.
        "short": _lottery(
            "sparse",
            "mnist-lenet",
            _AT_THE_END | {"rewind_iter": "0,500", "levels": 15, "at_levels": (15,), "replicates": 2, "validation": 0},
        ),
    },
    "cifar10-resnet20": {
        "paper": _lottery(
            "sparse",
            "cifar10-resnet20",
            _AT_THE_END
            | {"rewind_iter": "0,500,1000,2000", "levels": 8, "at_levels": (8,), "replicates": 3, "copies": 3}
            | {"validation": 0},
        ),
        "short": _lottery(
            "sparse",
            "cifar10-resnet20",
            _AT_THE_END
            | {"iterations": 1500, "rewind_iter": "0,3%", "levels": 3, "fraction": 0.448, "at_levels": (3,)}
            | {"alphas": 7, "splits": ("test",), "replicates": 1, "precision": "bfloat16", "validation": 0},
        ),
    },
    SMOKE: {
        "paper": _lottery(
            "sparse",
            SMOKE,
            _AT_THE_END | {"rewind_iter": "0,4,12,40,120", "levels": 8, "at_levels": (8,), "replicates": 3},
        ),
        "smoke": _lottery("sparse", SMOKE, _SMALL | _AT_THE_END | {"rewind_iter": "0,8", "at_levels": (2,)}),
    },
}

# Lottery tickets as Frankle & Carbin (2019) train them: layer by layer, early stopping, one-shot pruning beside.
_FIVE: dict[str, Any] = {
    "conditions": ("imp", "reinit", "random", "oneshot", "oneshot-reinit"),
    "barriers": (),
    "rewind_iter": 0,
}
_FIVE |= {"details": ("curves",)}
_LTH = _FIVE | {"scope": "layerwise", "rates": (("output", 0.5),), "fix": False}
# Why Conv-2's tickets may err no less than the dense network here.
WHY_CONV = {
    "short": "one trial, pruned by 44.8 % at a time (20 % in the paper) after a fifth of its training: tickets learn "
    "sooner, but err no less"
}
TICKETS = {
    "mnist-lenet": {
        "paper": _lottery(
            "tickets", "mnist-lenet", _LTH | {"iterations": 50_000, "levels": 25, "replicates": 5, "reinits": 3}
        ),
        "short": _lottery(
            "tickets",
            "mnist-lenet",
            _LTH
            | {
                "conditions": ("imp", "reinit", "random"),
                "iterations": 10_000,
                "levels": 15,
                "replicates": 3,
            },
        ),
    },
    "cifar10-conv2": {
        "paper": _lottery(
            "tickets", "cifar10-conv2", _FIVE | {"levels": 20, "replicates": 5, "reinits": 3, "fix": False}
        ),
        # To 5.3 % of the weights, near where the paper's tickets are best.
        "short": _lottery(
            "tickets",
            "cifar10-conv2",
            _FIVE
            | {
                "conditions": ("imp", "reinit", "random"),
                "iterations": 4000,
                "task.evaluate_every": 200,
                "levels": 5,
                "fraction": 0.448,
                "replicates": 1,
                "precision": "bfloat16",
                "fix": False,
            },
        ),
    },
    SMOKE: {
        "paper": _lottery("tickets", SMOKE, _FIVE | {"levels": 12, "replicates": 5, "fix": False}),
        "smoke": _lottery("tickets", SMOKE, _SMALL | _FIVE),
    },
}


def _with(options: dict[str, Any], studies: dict[str, dict[str, Any]], task: str = SMOKE) -> dict[str, Study]:
    """One study for each title, which differs from the others by these options."""
    return {title: Study("lottery", task, options | differs) for title, differs in studies.items()}


def _rates(warmup: int) -> dict[str, dict[str, Any]]:
    return {"high": {}, "low": {"task.learning_rate": 0.01}, "high, warmup": {"task.warmup": warmup}}


_TWO = {"conditions": ("imp", "reinit"), "barriers": (), "rewind_iter": 0}
# The rate of the digits, 0.1, is one for BatchNorm: without it, dense networks err less at 0.03, with dropout or not.
_DROPOUTS: dict[str, dict[str, Any]] = {
    "without dropout": _WITH_DROPOUT | {"task.learning_rate": 0.03, "task.dropout": 0.0},
    "with dropout": _WITH_DROPOUT | {"task.learning_rate": 0.03, "task.dropout": 0.5},
}
# In full length on the digits, with a warmup of 9 % as that of VGG-19 in Figure 7 (10,000 of 112,480 iterations).
_AT_LENGTH = _TWO | {"levels": 12, "fix": False}
DROPOUT = {
    SMOKE: {
        "paper": _with(_AT_LENGTH | {"replicates": 5}, _DROPOUTS),
        "smoke": _with(_SMALL | _TWO, _DROPOUTS),
    }
}
RATES = {
    SMOKE: {
        "paper": _with(_AT_LENGTH | {"replicates": 3}, _rates(warmup=36)),
        "smoke": _with(_SMALL | _TWO, _rates(warmup=4)),
    }
}

# Pruning at initialisation, by every criterion; its ablations; and later in training.
_CRITERIA = ("magnitude", "snip", "grasp", "synflow")
_EARLY: dict[str, Any] = {
    "conditions": ("imp", "oneshot", *_CRITERIA, "uniform", "erk", "balanced"),
    "barriers": (),
    "rewind_iter": 0,
    "fix": False,
}
_ABLATED = _EARLY | {
    "conditions": tuple(
        f"{method}{control}" for method in (*_CRITERIA, "oneshot") for control in ("", "-shuffle", "-reinit", "-invert")
    )
}
_LATER = _EARLY | {"conditions": (*_CRITERIA, "oneshot"), "prune_iter": "rewind"}
_FOUR: dict[str, Any] = {"levels": 4, "fraction": 0.448, "validation": 0}  # 55.2, 30.5, 16.8 and 9.3 % of the weights
_ONE: dict[str, Any] = {"at_levels": (3,), "splits": ("test",)}  # of these, 16.8 %
_SHORT = _FOUR | {"iterations": 600, "replicates": 1, "precision": "bfloat16"}
EARLY, ABLATIONS, LATER = (
    {
        "cifar10-resnet20": {"short": _lottery(title, "cifar10-resnet20", _SHORT | options | {**several})},
        SMOKE: {
            "paper": _lottery(title, SMOKE, _FOUR | {"replicates": 3} | options | {**at_home}),
            "smoke": _lottery(title, SMOKE, _SMALL | options | {**tried}),
        },
    }
    for title, options, several, at_home, tried in (
        ("early", _EARLY, {}, {}, {}),
        ("ablations", _ABLATED, _ONE, {}, {}),
        ("later", _LATER, {"rewind_iter": "0,1%,10%"}, {"rewind_iter": "0,12,40,120"}, {"rewind_iter": "0,8"}),
    )
)


# Sparse networks over density: from which k on are they stable, and do they match?
def _sweep(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"sweep": Study("sweep", task, {"validation": 0, **options})}


SWEEP = {
    "cifar10-resnet20": {
        "short": _sweep(
            "cifar10-resnet20",
            {"iterations": 600, "levels": (1, 4), "ks": "0,1%,10%", "replicates": 1, "precision": "bfloat16"},
        )
    },
    SMOKE: {
        "paper": _sweep(SMOKE, {"levels": (1, 3, 5, 7, 9), "ks": "0,1%,3%,10%,30%", "replicates": 3}),
        "smoke": _sweep(
            SMOKE,
            {name: value for name, value in _SMALL.items() if name != "fix"} | {"levels": (1, 2), "ks": "0,20%"},
        ),
    },
}
