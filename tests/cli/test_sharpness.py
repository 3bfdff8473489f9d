"""`modeconn sharpness`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import modeconn
from modeconn.analysis.landscape.curvature.flatness import Flatness
from modeconn.analysis.landscape.curvature.sharpness_result import Sharpness
from modeconn.analysis.landscape.curvature.sharpness_series import SharpnessSeries
from modeconn.cli.main import main


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def half_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1]) / 2


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two networks and data in files, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for seed, name in enumerate("ab"):
        save_file(make_net(seed).state_dict(), f"{name}.safetensors")
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    np.savez("data.npz", inputs=inputs.numpy(), targets=(inputs[:, 0] > 0).long().numpy())
    return tmp_path


GIVEN = ["--model", "test_sharpness:make_net", "--data", "data.npz"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--adaptive", "-1"], "rho must be a positive radius"),
        (["--flatness", "0"], "the norm of noise must be positive"),
        (["--relative-to", "filtr"], "did you mean 'filter'"),
        (["--flatness", "0.1", "--evaluate", "absent:function"], "cannot import 'absent'"),
    ],
)
def test_what_else_is_asked_is_checked_before_eigenvalues(folder, capsys, more, said):
    assert main(["sharpness", "a.safetensors", *GIVEN, "--k", "1", *more, "--out", "out"]) in (1, 2)
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert not Path("out").exists()


def test_a_network_is_measured_and_everything_written(folder, capsys):
    more = ["--density", "--adaptive", "0.1", "--flatness", "0.1", "--relative-to", "filter", "--save-vectors"]
    command = ["sharpness", "a.safetensors", *GIVEN, "--k", "3", "--trace", "5", *more, "--out", "out"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("Hessian of cross-entropy on 60 examples, 44 parameters\n")
    for name in ("sharpness", "density", "adaptive", "flatness"):
        for ending in ("json", "csv", "png", "pdf"):
            assert Path(f"out/{name}.{ending}").stat().st_size
    found = Sharpness.from_json(Path("out/sharpness.json"))
    with np.load("data.npz") as data:
        given = torch.from_numpy(data["inputs"]), torch.from_numpy(data["targets"])
    direct = modeconn.sharpness(make_net(), given, 3, trace=5)
    np.testing.assert_allclose(found.eigenvalues, direct.eigenvalues, rtol=1e-4)
    assert found.trace == pytest.approx(direct.trace, rel=1e-4)
    vector = load_file("out/eigenvector-1.safetensors")
    assert sum(float(part.square().sum()) for part in vector.values()) == pytest.approx(1, rel=1e-5)
    assert Flatness.from_json(Path("out/flatness.json")).relative_to == "filter"


def test_two_networks_are_measured_along_their_path(folder, capsys):
    assert main(["sharpness", "a.safetensors", "b.safetensors", *GIVEN, "--k", "1", "--alphas", "0,0.5,1"]) == 0
    (file,) = Path("modeconn-results").glob("sharpness-*/sharpness.json")
    found = SharpnessSeries.from_json(file)
    assert found.places == (0.0, 0.5, 1.0)
    assert "\nalpha    eigenvalue" in capsys.readouterr().out


def test_an_own_loss_is_imported(folder, capsys):
    for loss, out in (([], "whole"), (["--loss", "test_sharpness:half_loss"], "half")):
        assert main(["sharpness", "a.safetensors", *GIVEN, "--k", "1", *loss, "--out", out]) == 0
    whole, half = (Sharpness.from_json(Path(f"{out}/sharpness.json")) for out in ("whole", "half"))
    assert half.largest == pytest.approx(whole.largest / 2, rel=1e-3)
    assert half.measured_as == "loss=half_loss on 60 examples"


def test_a_stored_training_is_measured_at_its_states(folder, capsys):
    task = modeconn.get_task("digits-conv", width=0.25).shortened(4)
    run = modeconn.train(task, save_at=[0], store="store", workers=0)
    command = ["sharpness", str(run.folders[4]), "--over-training", "--k", "1", "--examples", "30", "--out", "out"]
    assert main(command) == 0
    assert SharpnessSeries.from_json(Path("out/sharpness.json")).places == (0.0, 4.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a.safetensors", "--k", "100"], "k=100 eigenvalues of a network with 44 parameters"),
        (["a.safetensors", "b.safetensors", "--density"], "--density, --flatness and --adaptive are of one network"),
        (["a.safetensors", "b.safetensors", "--save-vectors"], "--save-vectors is for one network"),
        (["a.safetensors", "b.safetensors", "a.safetensors"], "give one network, or two"),
        (["a.safetensors", "b.safetensors", "--over-training"], "--over-training takes one stored state"),
        (["a.safetensors", "--over-training"], "give the folder of a stored state"),
        (["a.safetensors", "--kind", "gn"], "unknown kind of curvature"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(folder, capsys, given, said):
    assert main(["sharpness", *given, *GIVEN]) != 0
    err = capsys.readouterr().err
    assert said in err.replace("--k 100", "k=100")
    assert "Traceback" not in err
