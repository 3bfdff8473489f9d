"""`modeconn barrier` and `modeconn soup`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import modeconn
from modeconn import Barrier, error_barrier
from modeconn.cli.main import main
from modeconn.errors import ModeconnError

pytestmark = pytest.mark.slow  # whole trainings and commands


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def batches():
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return [(inputs, (inputs[:, 0] > 0).long())]


def accuracy(network, batch):
    inputs, labels = batch
    return {"accuracy": ((network(inputs).argmax(1) == labels).float(), 1)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three networks in files, data in an .npz, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        save_file(network.state_dict(), f"{name}.safetensors")
    torch.save(load_file("b.safetensors"), "b.pt")
    inputs, labels = batches()[0]
    np.savez("test.npz", inputs=inputs.numpy(), targets=labels.numpy())
    return tmp_path


MODEL = ["--model", "test_networks:make_net"]
DATA = ["--data", "test.npz"]


def test_two_files_give_a_table_and_files(folder, capsys):
    assert main(["barrier", "a.safetensors", "b.pt", *MODEL, *DATA, "--alphas", "5", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "path from a.safetensors to b.pt, 5 alphas" in out
    assert "95 % interval" in out
    result = Barrier.from_json(folder / "out" / "barrier.json")
    a, b = (load_file(f"{name}.safetensors") for name in "ab")
    assert np.array_equal(result.loss, error_barrier(a, b, batches(), model=make_net, alphas=5).loss)
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv("out/barrier.csv").columns.tolist() == ["alpha", "error", "loss"]
    assert {file.suffix for file in (folder / "out").iterdir()} == {".json", ".csv", ".png", ".pdf"}


def test_data_and_measures_may_be_functions(folder, capsys):
    functions = ["--data", "test_networks:batches", "--evaluate", "test_networks:accuracy"]
    command = ["barrier", "a.safetensors", "b.safetensors", *MODEL, *functions, "--higher-is-better", "accuracy"]
    assert main([*command, "--alphas", "adaptive"]) == 0
    assert "accuracy" in capsys.readouterr().out
    (file,) = folder.glob("modeconn-results/barrier-*/barrier.json")
    assert json.loads(file.read_text())["higher_is_better"] == ["accuracy"]


def test_a_barrier_is_only_compared_with_a_threshold_on_demand(folder, capsys):
    command = ["barrier", "a.safetensors", "b.pt", *MODEL, *DATA, "--alphas", "5", "--out", "out"]
    assert main([*command, "--decide", "99", "--error-probability", "0.01"]) == 0
    assert "The error barrier is below 99 points, decided from " in capsys.readouterr().out
    decided = Barrier.from_json(folder / "out" / "barrier.json").decided
    assert (decided.threshold, decided.error_probability) == (0.99, 0.01)
    assert main([*command[:2], "a.safetensors", *command[2:], "--decide", "2"]) == 2
    assert "--decide compare two networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/b.pt"], "barrier-a-b-5de804/barrier"),
        (["/b.pt", "--decide", "2"], "barrier-a-b-00f1eb/barrier"),
        (["/b.pt", "/c.pt", "--alphas", "0,0.5,1"], "barrier-a-b-and-1-more-f4b881/matrix"),
    ],
)
def test_a_folder_is_named_after_what_was_measured(folder, monkeypatch, capsys, arguments, name):
    """With the same hash as ever, or the same measurement would leave a second folder."""

    class Result:
        def to_json(self, path: Path) -> None:
            raise ModeconnError(f"written to {path}")

    monkeypatch.setattr("modeconn.models.import_function", lambda text: lambda: None)
    for function in ("error_barrier", "barrier_matrix"):
        monkeypatch.setattr(f"modeconn.{function}", lambda *_, **__: Result())
    named = ["--model", "mymod:make_net", "--data", "mymod:batches"]
    assert main(["barrier", "/a.safetensors", *arguments, *named]) == 1
    assert f"written to modeconn-results/{name}.json" in capsys.readouterr().err


@pytest.mark.slow
def test_layers_features_and_predictions_are_measured_on_demand(folder, capsys):
    more = ["--layerwise", "--features", "--predictions", "--alphas", "3", "--out", "out"]
    assert main(["barrier", "a.safetensors", "b.pt", *MODEL, *DATA, *more]) == 0
    assert "the ensemble of the ends on" in capsys.readouterr().out
    assert (folder / "out" / "barrier.csv").read_text().startswith("alpha,error,loss,temperature,calibrated_loss,")
    assert (folder / "out" / "predictions.png").stat().st_size > 50
    for name in ("barrier", "layerwise", "features"):
        for ending in ("json", "csv", "png", "pdf"):
            assert (folder / "out" / f"{name}.{ending}").stat().st_size > 50


def make_conv(input_shape, classes) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * 25, classes))


@pytest.mark.parametrize(
    ("normalize", "mean", "std"),
    [
        (None, None, None),
        ("none", 0.0, 1.0),
        ("0.5,0.25", 0.5, 0.25),
        ("0.1,0.2,0.3,1,2,4", [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]),
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
)
@pytest.mark.slow
def test_images_reach_networks_as_is_said_and_as_is_chosen(folder, capsys, normalize, mean, std):
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (30, 5, 5, 3), dtype=np.uint8) for split in ("train", "test")}
    arrays = {f"{split}_images": pixels for split, pixels in images.items()}
    np.savez("images.npz", **arrays, train_labels=np.arange(30) % 2, test_labels=np.arange(30) % 2)
    for seed, name in enumerate("de"):
        torch.manual_seed(seed)
        save_file(nn.Sequential(nn.Flatten(), nn.Linear(75, 2)).state_dict(), f"{name}.safetensors")
    command = ["barrier", "d.safetensors", "e.safetensors", "--model", "test_networks:make_conv", "--alphas", "3"]
    chosen = [] if normalize is None else ["--normalize", normalize]
    assert main([*command, "--data", "images.npz", "--out", "out", *chosen]) == 0
    if normalize is None:
        mean, std = (images["train"] / 255).mean((0, 1, 2)), (images["train"] / 255).std((0, 1, 2))
    inputs = torch.as_tensor((images["test"] / 255 - np.array(mean)) / np.array(std)).permute(0, 3, 1, 2).float()
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(75, 2)) for _ in "de"]
    for network, name in zip(networks, "de", strict=True):
        network.load_state_dict(load_file(f"{name}.safetensors"))
    expected = error_barrier(*networks, (inputs, torch.arange(30) % 2), alphas=3)
    assert Barrier.from_json(folder / "out" / "barrier.json").loss == pytest.approx(expected.loss, rel=1e-5)
    first, *others = capsys.readouterr().out.splitlines()
    assert "; 30 examples; inputs (pixel / 255 - " in first
    assert any(line.startswith("Note: images reach the networks as (pixel / 255 - ") for line in others)


@pytest.mark.parametrize(
    ("data", "normalize", "said"),
    [
        ("test.npz", "none", "--normalize is for images"),
        ("test_networks:batches", "none", "--normalize is for images"),
        ("digits", "imagenet", "imagenet (3 channels)"),
        ("digits", "0.5", "two numbers such as 0.5,0.5"),
        ("digits", "0.5,0", "two numbers"),
        ("digits", "0.5,x", "got '0.5,x'"),
    ],
)
def test_images_are_not_normalized_otherwise(folder, capsys, data, normalize, said):
    assert main(["barrier", "a.safetensors", "b.pt", *MODEL, "--data", data, "--normalize", normalize]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_more_networks_give_a_matrix(folder, capsys):
    files = [f"{name}.safetensors" for name in "abc"]
    assert main(["barrier", *files, *MODEL, *DATA, "--alphas", "3", "--out", "out"]) == 0
    assert "a.safetensors" in capsys.readouterr().out
    assert len((folder / "out" / "matrix.csv").read_text().splitlines()) == 1 + 3
    assert (folder / "out" / "matrix.png").is_file()


def test_a_soup_is_written_as_safetensors(folder, capsys):
    files = [f"{name}.safetensors" for name in "abc"]
    assert main(["soup", *files, *MODEL, *DATA, "--kind", "uniform", "--gate", "none", "--out", "s.safetensors"]) == 0
    soup = load_file("s.safetensors")
    networks = [load_file(file) for file in files]
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, sum(network[name] for network in networks) / 3)
    assert main(["soup", *files, *MODEL, *DATA, "--kind", "greedy"]) == 0
    assert "chosen on the test split" in capsys.readouterr().out


@pytest.mark.slow
def test_stored_runs_know_their_data_and_named_sets_their_shapes(tmp_path, monkeypatch, data_dir, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"iterations": 10, "workers": 0, "store": "store", "data_dir": data_dir}
    runs = [modeconn.train("digits-conv", seed=seed, **options) for seed in (0, 1)]
    folders = [str(run.folders[10]) for run in runs]
    for seed, run in enumerate(runs):
        save_file(run.weights(), f"{seed}.safetensors")
    common = ["--alphas", "3", "--data-dir", str(data_dir)]
    assert main(["barrier", *folders, *common, "--out", "stored"]) == 0
    named = ["0.safetensors", "1.safetensors", "--model", "digits-conv", "--data", "digits"]
    assert main(["barrier", *named, *common, "--out", "named"]) == 0
    both = [Barrier.from_json(tmp_path / out / "barrier.json") for out in ("stored", "named")]
    assert np.array_equal(both[0].loss, both[1].loss)
    recalibrated = ["--batchnorm", "recalibrate", "--calibration-batches", "2"]
    assert main(["barrier", *named, *common, *recalibrated, "--split", "train", "--out", "train"]) == 0
    assert Barrier.from_json(tmp_path / "train" / "barrier.json").batchnorm == "recalibrate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.safetensors", *MODEL, *DATA], "at least two networks"),
        (["a.safetensors", "nowhere.pt", *MODEL, *DATA], "nowhere.pt"),
        (["a.safetensors", "b.pt", *DATA], "give --model"),
        (["a.safetensors", "b.pt", *MODEL], "give --data: a data set (digits, mnist, ...)"),
        (["a.safetensors", "b.pt", *MODEL, "--data", "nowhere.npz"], "nowhere.npz"),
        (["a.safetensors", "b.pt", *MODEL, "--data", "a.npz"], "it should hold inputs"),
        (["a.safetensors", "b.pt", "--model", "resnet-20", *DATA], "shape of network resnet-20"),
        (["a.safetensors", "b.pt", "--model", "nowhere:make", *DATA], "nowhere"),
        (["a.safetensors", "b.pt", *MODEL, *DATA, "--batchnorm", "repare"], "repair"),
        (["a.safetensors", "b.pt", *MODEL, *DATA, "--evaluate", "clasification"], "classification"),
        (["a.safetensors", "b.pt", *MODEL, *DATA, "--alphas", "0,2"], "extrapolate"),
        (["a.safetensors", "b.pt", "c.safetensors", *MODEL, *DATA, "--layerwise"], "compare two networks"),
        (["a.safetensors", "b.pt", "c.safetensors", *MODEL, *DATA, "--predictions"], "compare two networks"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(folder, capsys, arguments, message):
    np.savez("a.npz", other=np.zeros(3))
    assert main(["barrier", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("modeconn: ")
    assert len(error.splitlines()) == 1
