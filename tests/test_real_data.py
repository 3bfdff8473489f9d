"""On MNIST and CIFAR-10, where they are; `MODECONN_DATA` says where."""

import numpy as np
import pytest

from modeconn import get_task, instability, load_data

QUICK = {"replicates": 1, "alphas": 5, "splits": ["test"], "workers": 0}


def require(folder, name: str) -> None:
    if not (folder / name).exists():
        pytest.skip(f"{folder.name} holds no {name}")


def test_mnist_is_mnist(real_data_dir):
    require(real_data_dir, "mnist.npz")
    data = load_data("mnist", real_data_dir)
    assert (len(data.train), len(data.test), data.shape, data.classes) == (60_000, 10_000, (1, 28, 28), 10)
    assert (round(data.mean[0], 4), round(data.std[0], 4)) == (0.1307, 0.3081)
    assert data.train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]


@pytest.mark.slow
def test_lenet_is_stable_at_initialisation(real_data_dir, tmp_path):
    require(real_data_dir, "mnist.npz")
    result = instability("mnist-lenet", [0], iterations=1000, data_dir=real_data_dir, store=tmp_path, **QUICK)
    row = result.rows[0]
    assert row["barrier"] < 0.02
    assert row["error_a"] < 0.06
    assert row["l2_distance"] > 1


@pytest.mark.slow
def test_resnet_20_trains_on_cifar_10_and_says_what_the_data_are(real_data_dir, tmp_path):
    require(real_data_dir, "cifar10.npz")
    data = load_data("cifar10", real_data_dir)
    assert (len(data.train), len(data.test), data.shape) == (50_000, 10_000, (3, 32, 32))
    arrays = dict(np.load(real_data_dir / "cifar10.npz"))
    tests = {name: arrays[name][:500] for name in ("test_images", "test_labels")}  # 10,000 take a minute
    np.savez(tmp_path / "cifar10.npz", **arrays | tests)
    result = instability(
        get_task("cifar10-resnet20", batch_size=32),
        [0],
        iterations=30,
        calibration=250,
        batchnorm=["recalibrate"],
        data_dir=tmp_path,
        store=tmp_path / "store",
        **QUICK | {"alphas": 3},
    )
    assert result.rows[0]["error_a"] < 0.9  # better than chance after 30 iterations
    assert result.summary["data_note"] == data.note
