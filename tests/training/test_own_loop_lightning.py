"""The example around PyTorch Lightning: its loop is that of plain PyTorch, and both studies run."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modeconn import Mask, load_result

pytest.importorskip("lightning", reason="lightning is not installed: pip install lightning")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::lightning"),  # of data in memory, which need no workers
    pytest.mark.filterwarnings("ignore:::pytorch_lightning"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_loop.py"
ITERATIONS = 200  # of the schedule


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def plainly(example: dict[str, Any], state: dict, start: int, stop: int, seed: int, mask: Any = None) -> nn.Module:
    """The iterations from `start` to `stop` by plain PyTorch; the momentum by hand."""
    network = example["init"](0)
    network.load_state_dict(state["model"])
    momentum = {name: value.clone() for name, value in state.get("momentum", {}).items()}
    torch.manual_seed(seed)
    data = torch.utils.data.TensorDataset(*example["data"]()["train"])
    order = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(data, 64, shuffle=True, generator=order)
    done = start
    while done < stop:
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(network(inputs), labels)
            found = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for (name, weight), gradient in zip(network.named_parameters(), found, strict=True):
                    momentum[name] = 0.9 * momentum[name] + gradient if name in momentum else gradient.clone()
                    weight -= 0.1 * (1 - done / ITERATIONS) * momentum[name]
                    if mask and name in mask:
                        weight[~mask[name]] = 0
            done += 1
            if done == stop:
                break
    return network


def compare(a: nn.Module, b: nn.Module) -> None:
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pruned", [False, True])
def test_the_loop_is_that_of_plain_pytorch_from_any_iteration(example, pruned):
    train, begin = example["train"], {"model": example["init"](3).state_dict()}
    first = train(begin, 0, 30, seed=5)
    compare(first["model"], plainly(example, begin, 0, 30, 5))
    state = {"model": first["model"].state_dict(), "momentum": first["momentum"]}
    kept = first["model"].layers[0].weight.abs() > 0.1
    mask = Mask({"layers.0.weight": kept}) if pruned else None
    later = train(state, 30, 75, seed=6, mask=mask)  # over the end of an epoch of 23 iterations
    compare(later["model"], plainly(example, state, 30, 75, 6, mask))
    assert (mask is None) or not later["model"].layers[0].weight[~kept].any()


def test_equal_seeds_give_equal_bits_and_others_do_not(example):
    train, begin = example["train"], {"model": example["init"](3).state_dict()}
    one, again, other = (train(begin, 0, 20, seed=seed)["model"].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["layers.0.weight"], other["layers.0.weight"])


def test_both_studies_run(tmp_path, monkeypatch):
    source = EXAMPLE.read_text()
    for old, new in (
        ("ITERATIONS = 200", "ITERATIONS = 24"),
        ("[0, 20, 60]", "[0, 12]"),
        ("rewind_iter=20, levels=3", "rewind_iter=12, levels=1"),
        ('"replicates": 1', '"replicates": 1, "alphas": 3'),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    short = tmp_path / "lightning_loop.py"
    short.write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning_loop", str(tmp_path / "out")])
    runpy.run_path(str(short), run_name="__main__")
    assert load_result(tmp_path / "out" / "instability").rewind_iters.tolist() == [0, 12]
    assert load_result(tmp_path / "out" / "lottery").conditions == ["imp", "random", "reinit"]
