"""Networks of several initialisations, whose barriers are measured with and without alignment."""

from typing import Any

from modeconn.reproduce.figure import SMOKE, Study

_NO_NORM: dict[str, Any] = {"task.norm": "none"}
_MLP: dict[str, Any] = {"task.learning_rate": 1e-3, "task.batch_size": 500}
_BOTH = ("weights", "activations")


def _alignment(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"alignment": Study("alignment", task, options)}


REBASIN = {
    "mnist-mlp": {
        # 100 epochs of 120 iterations
        "paper": _alignment(
            "mnist-lenet",
            _MLP
            | {"iterations": 12_000, "variants": {"3 x 512": {"model": "lenet-512-512-512"}}, "seeds": 5, "merge": True}
            | {"align": (*_BOTH, "straight-through"), "alphas": 25},
        ),
        "short": _alignment(
            "mnist-lenet",
            _MLP
            | {"iterations": 2400, "variants": {"3 x 512": {"model": "lenet-512-512-512"}}, "seeds": 5, "merge": True}
            | {"align": _BOTH, "alphas": 25},
        ),
    },
    SMOKE: {
        "smoke": _alignment(
            SMOKE,
            _NO_NORM
            | {"iterations": 40, "variants": {"2 x 16": {"model": "lenet-16-16"}}, "seeds": 3, "merge": True}
            | {"align": _BOTH, "alphas": 3},
        )
    },
}


def _widths(widths: tuple[int, ...], decays: tuple[float, ...], layers: int) -> dict[str, dict[str, Any]]:
    """A variant for each width of hidden layers and each weight decay."""
    return {
        f"{width}, {decay:g}": {"model": "lenet" + f"-{width}" * layers, "weight_decay": decay}
        for decay in decays
        for width in widths
    }


WIDTHS = {
    "mnist-mlp": {
        "paper": _alignment(
            "mnist-lenet",
            _MLP
            | {
                "iterations": 12_000,
                "variants": _widths((32, 64, 128, 256, 512, 1024), (1e-4, 3e-3), 3),
                "align": _BOTH,
            }
            | {"seeds": 3},
        ),
        "short": _alignment(
            "mnist-lenet",
            _MLP | {"iterations": 1200, "variants": _widths((32, 128, 512, 1024), (1e-4, 3e-3), 3), "align": _BOTH},
        ),
    },
    SMOKE: {
        "smoke": _alignment(
            SMOKE,
            _NO_NORM | {"iterations": 40, "variants": _widths((4, 16), (1e-4, 3e-3), 2), "align": _BOTH, "alphas": 3},
        )
    },
}

CHANNELS = {
    "cifar10-resnet20": {
        "paper": _alignment(
            "cifar10-resnet20",
            {"variants": {f"{width} x": {"width": float(width)} for width in (1, 2, 4)}, "align": _BOTH}
            | {"batchnorm": ("interpolate", "recalibrate", "repair"), "precision": "bfloat16"},
        ),
        "short": _alignment(
            "cifar10-resnet20",
            {"iterations": 600, "variants": {f"{width:g} x": {"width": width} for width in (0.5, 1.0, 2.0)}}
            | {"align": ("weights",), "batchnorm": ("interpolate", "recalibrate", "repair"), "alphas": 5}
            | {"precision": "bfloat16"},
        ),
    },
    SMOKE: {
        "smoke": _alignment(
            SMOKE,
            {"iterations": 40, "variants": {f"{width:g} x": {"width": width} for width in (0.25, 0.5)}, "alphas": 3}
            | {"align": ("weights",), "batchnorm": ("interpolate", "recalibrate", "repair")},
        )
    },
}

_VIT: dict[str, Any] = {"task.optimizer": "adam", "task.learning_rate": 1e-3, "task.momentum": 0.0}
_VIT |= {"task.weight_decay": 0.0, "task.schedule": "cosine", "task.milestones": (), "task.norm": "layer"}
_VIT |= {"task.init": "own", "task.warmup": 100, "align": _BOTH}
TRANSFORMERS = {
    "cifar10-vit": {
        "short": _alignment(
            "cifar10-resnet20",
            _VIT | {"iterations": 1500, "variants": {"vit-8": {"model": "vit-8"}}, "alphas": 11},
        ),
    },
    SMOKE: {
        "smoke": _alignment(
            SMOKE,
            _VIT
            | {
                "task.warmup": 2,
                "iterations": 20,
                "variants": {"vit-4": {"model": "vit-4", "width": 0.25}},
                "alphas": 3,
            },
        )
    },
}
