"""What all tests share."""

import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import torch

from modeconn import InstabilityResult, Run, get_task, instability, train
from modeconn.execution import Store
from tiers import pytest_cmdline_main, pytest_runtest_call  # noqa: F401

sys.path.append(str(Path(__file__).parents[1]))  # for benchmarks/, which is no part of the package
torch.set_num_threads(1)
# A law holds however busy the machine is.
hypothesis.settings.register_profile("modeconn", deadline=None)
hypothesis.settings.load_profile("modeconn")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws without a seed is the same in every run and in any order of tests."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file in which jobs note that they ran."""
    return str(tmp_path / "log")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets in which digits are made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """A folder with prepared MNIST and CIFAR-10, or a skip that says how to have one."""
    folder = os.environ.get("MODECONN_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set MODECONN_DATA to a folder with mnist.npz and cifar10.npz to run this on real data")
    return Path(folder)


class FinishedStudy(NamedTuple):
    """An instability study, the folder of its files, and its store; to be read, or copied."""

    result: InstabilityResult
    out: Path
    store: Path


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> FinishedStudy:
    """A small study of the digits, that of the options SMALL in the tests of `modeconn instability`."""
    folder = tmp_path_factory.mktemp("finished")
    task = get_task("digits-conv").shortened(40)
    options = {"replicates": 1, "alphas": 3, "workers": 0, "command": "modeconn instability", "data_dir": data_dir}
    result = instability(task, [0, 20], **options, store=folder / "store", out=folder / "out")
    return FinishedStudy(result, folder / "out", folder / "store")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Run, Run]:
    """Two short trainings of the digits network, with their states in a store."""
    store = tmp_path_factory.mktemp("store")
    one, other = (
        train("digits-conv", iterations=8, workers=0, store=store, data_dir=data_dir, device="cpu", seed=seed)
        for seed in (0, 1)
    )
    return one, other
