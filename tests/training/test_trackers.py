import subprocess
import sys
import types

import pytest

from modeconn import get_task, instability, train
from modeconn.errors import ModeconnError, OptionError
from modeconn.training.trackers import tracker

pytestmark = pytest.mark.slow  # whole trainings and commands


@pytest.fixture
def places(tmp_path, data_dir):
    return {"store": tmp_path / "store", "data_dir": data_dir, "workers": 0}


def test_log_is_told_every_row_once_even_of_a_finished_run(places):
    task = get_task("digits-conv", evaluate_every=20).shortened(60)
    for _ in range(2):
        told = []
        run = train(task, **places, log=lambda metrics, step, told=told: told.append((step, dict(metrics))))
        assert [step for step, _ in told] == [20, 20, 40, 40, 60, 60]
        values = [value for _, metrics in told for name, value in metrics.items() if name.endswith("/error")]
        assert values == [row["error"] for row in run.metrics]


def test_log_is_told_the_instability_at_each_k(places):
    told = {}
    task = get_task("digits-conv").shortened(30)

    def log(metrics, step):
        told.update({(name, step): value for name, value in metrics.items()})

    result = instability(task, [0, 10], replicates=1, alphas=3, log=log, **places)
    for split, choice in result.choices:
        for k, height in zip((0, 10), result.mean[split][choice], strict=True):
            assert told[f"instability/{split}/{choice}", k] == height


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_library_gets_metrics_with_their_iteration(name, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=calls.append)
    library = types.SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, name, library)
    tracker(name, "mine", {"batch_size": 8})({"a/loss": 0.5}, 7)
    assert calls == [{"project": "mine", "config": {"batch_size": 8}}, {"a/loss": 0.5, "iteration": 7}]


def test_tensorboard_gets_scalars(monkeypatch):
    calls = []
    writer = types.SimpleNamespace(add_scalar=lambda *scalar: calls.append(scalar), close=lambda: None)
    library = types.SimpleNamespace(SummaryWriter=lambda folder: calls.append(folder) or writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    tracker("tensorboard", "folder", {})({"a/loss": 0.5}, 7)
    assert calls == ["folder", ("a/loss", 0.5, 7)]


@pytest.mark.processes
def test_what_tensorboard_is_told_is_on_disk_when_the_process_ends(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install 'modeconn[tensorboard]' to test it for real")
    told = f"tracker('tensorboard', {str(tmp_path)!r}, {{}})({{'a': 0.5}}, 7)"
    code = f"from modeconn.training.trackers import tracker; {told}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(7, 0.5)]


def test_a_tracker_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(OptionError, match="did you mean 'wandb'"):
        tracker("wand", "mine", {})
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ModeconnError, match=r"pip install 'modeconn\[trackio\]'"):
        tracker("trackio", "mine", {})
