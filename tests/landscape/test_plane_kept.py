"""What is measured is kept: a plane goes on after a stop, and workers measure the same."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modeconn import directions, plane, trajectory_plane
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store

INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] > 0).long()


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()


THREE = [network(seed) for seed in range(3)]
HOW: dict[str, Any] = {"points": 5, "refine": 6, "batchnorm": "recalibrate", "calibration": DATA}


class Counting:
    """Data that count how often they are gone through, and stop at a pass."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.passes, self.stop_at = 0, stop_at

    def __iter__(self) -> Any:
        self.passes += 1
        if self.passes == self.stop_at:
            raise KeyboardInterrupt
        yield DATA


def evaluations(stop_at: int | None = None) -> tuple[Any, list[int]]:
    """An `evaluate` that counts its calls in a list, and stops at one; named, as its list has no part in it."""
    calls: list[int] = []

    def evaluate(net: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="sum")
        return {"loss": (float(loss), len(batch[1]))}

    evaluate.modeconn_name = "cross-entropy"  # type: ignore[attr-defined]
    return evaluate, calls


def test_a_plane_goes_on_after_a_stop_with_the_same_bytes_and_measures_nothing_twice(tmp_path):
    evaluate, calls = evaluations()
    whole = plane(*THREE, DATA, evaluate=evaluate, **HOW)
    every = len(calls)
    stopping, before = evaluations(stop_at=50)
    with pytest.raises(KeyboardInterrupt):
        plane(*THREE, DATA, evaluate=stopping, checkpoint=tmp_path, **HOW)
    going_on, after = evaluations()
    found = plane(*THREE, DATA, evaluate=going_on, checkpoint=tmp_path, **HOW)
    assert found.to_json() == whole.to_json()
    # Two passes for each point, one of them for statistics: a stop loses at most the job that it is in.
    assert len(before) + len(after) <= every + 2 * 8 + 4
    assert len(after) <= every - 2 * (3 + 2 * 8)
    nothing, again = evaluations()
    assert plane(*THREE, DATA, evaluate=nothing, checkpoint=tmp_path, **HOW).to_json() == whole.to_json()
    assert len(again) < 5


def jobs_in(folder: Path) -> int:
    return len(Store(folder, create=False).names())


@pytest.mark.parametrize("change", ["network", "data", "calibration", "option", "code"])
def test_points_of_other_networks_data_or_options_are_never_taken(change, tmp_path):
    plane(*THREE, DATA, checkpoint=tmp_path, **HOW)
    before = jobs_in(tmp_path)
    three, data, how = [copy.deepcopy(one) for one in THREE], DATA, dict(HOW)
    if change == "network":
        with torch.no_grad():
            three[2][0].weight[0, 0] += 1e-3
    elif change == "data":
        data = (DATA[0], 1 - DATA[1])
    elif change == "calibration":
        how["calibration"] = (DATA[0] * 2, DATA[1])
    elif change == "option":
        how["batchnorm"] = "interpolate"
    else:
        for one in three:
            one[2] = nn.LeakyReLU(0.2)
    found = plane(*three, data, checkpoint=tmp_path, **how)
    assert found.to_json() == plane(*three, data, **how).to_json()
    assert jobs_in(tmp_path) > before + 1


def test_a_wider_plane_shares_a_folder_and_a_damaged_point_is_measured_again(tmp_path):
    first = plane(*THREE, DATA, points=3, checkpoint=tmp_path)
    directions(THREE[0], DATA, points=3, checkpoint=tmp_path)
    for folder in (tmp_path / "runs").iterdir():
        (folder / "points.json").write_text("{}")
    again = plane(*THREE, DATA, points=3, checkpoint=tmp_path)
    assert again.to_json() == first.to_json()


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["plane", "directions", "trajectory"])
def test_workers_measure_the_same(kind, tmp_path, one_thread):
    """To the bit: jobs have one thread each, and here this process has one, too."""

    def measure(**how: Any) -> str:
        if kind == "plane":
            return plane(*THREE, DATA, **HOW, **how).to_json()
        if kind == "directions":
            return directions(THREE[0], DATA, count=2, points=4, **how).to_json()
        return trajectory_plane([*THREE, network(5)], DATA, points=4, **how).to_json()

    alone = measure()
    assert measure(workers=2, checkpoint=tmp_path) == alone
    assert measure(checkpoint=tmp_path) == alone
    assert kind != "directions" or measure(workers=1) == alone


def test_workers_need_what_can_be_sent_to_them():
    with pytest.raises(OptionError, match=r"workers= are other processes.*files"):
        plane(*THREE, DATA, workers=2, evaluate=evaluations()[0])
    for wrong in (-1, 1.5, True):
        with pytest.raises(OptionError, match="workers must be"):
            plane(*THREE, DATA, workers=wrong)


@pytest.mark.processes
def test_what_a_worker_raises_is_said(tmp_path):
    with pytest.raises(ModeconnError, match="Unlucky"):
        plane(*THREE, DATA, workers=1, evaluate=unlucky, points=2)


class Unlucky(Exception):
    """What fails in a worker and not here."""


def unlucky(net: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
    import multiprocessing

    if multiprocessing.current_process().name != "MainProcess":
        raise Unlucky
    return {"loss": (1.0, 1)}


def test_data_that_are_gone_through_only_for_points_that_lack(tmp_path):
    first, again = Counting(), Counting()
    found = plane(*THREE, first, points=3, checkpoint=tmp_path)
    assert np.array_equal(plane(*THREE, again, points=3, checkpoint=tmp_path).values["loss"], found.values["loss"])
