"""Code that a stored run names is imported at the user's word alone: a store may come from anybody."""

import sys

import pytest
from torch import nn

from modeconn import error_barrier, get_task, train
from modeconn.cli.main import main
from modeconn.errors import NetworkError, OptionError

CODE = """
from torch import nn
def note(text):
    with open({canary!r}, "a") as file:
        file.write(text)
note("imported ")
def make(classes):
    note("called ")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, data_dir):
    """Two stored runs of a network in `shop/nets.py`, whose code leaves word in a file when it is run."""
    (tmp_path / "shop").mkdir()
    canary, code = tmp_path / "canary", tmp_path / "shop" / "nets.py"
    code.write_text(CODE.format(canary=str(canary)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODECONN_DATA", str(data_dir))
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = get_task("digits-conv", model="shop.nets:make")
    runs = [
        train(task, iterations=2, workers=0, store=tmp_path / "store", data_dir=data_dir, device="cpu", seed=seed)
        for seed in (0, 1)
    ]
    canary.unlink()
    for name in ("shop.nets", "shop"):
        sys.modules.pop(name, None)
    yield runs, [run.folders[2] for run in runs], canary, code
    for name in ("shop.nets", "shop"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_no_code_is_imported_unless_the_user_says_so(shop, data_dir, capsys):
    runs, folders, canary, code = shop
    said = f"of the network shop.nets:make, .* imported from {code}.* at your word: if you trust it, name it by model="
    with pytest.raises(NetworkError, match=said):
        error_barrier(*folders, data_dir=data_dir, alphas=3)
    assert main(["barrier", *map(str, folders), "--alphas", "3"]) == 1
    assert "if you trust it, name it by --model as well" in capsys.readouterr().err
    # Weights and data need none of it.
    given = error_barrier(
        *folders, data_dir=data_dir, alphas=3, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    )
    assert not canary.exists()

    trusted = error_barrier(*folders, data_dir=data_dir, alphas=3, model="shop.nets:make")
    assert "called" in canary.read_text()
    assert main(["barrier", *map(str, folders), "--alphas", "3", "--model", "shop.nets:make"]) == 0
    assert main(["soup", *map(str, folders), "--gate", "none", "--model", "shop.nets:make"]) == 0
    ours = error_barrier(*runs, alphas=3)  # trained here, by the user
    for result in (given, trusted):
        assert list(result.error) == list(ours.error)


@pytest.mark.slow
def test_other_code_is_refused_before_it_is_run(shop, data_dir):
    _, folders, canary, code = shop
    code.write_text(code.read_text() + "\n# changed\n")
    with pytest.raises(NetworkError, match=rf"with other code of shop\.nets:make than what is in {code}"):
        error_barrier(*folders, data_dir=data_dir, alphas=3, model="shop.nets:make")
    assert not canary.exists()
    # Under another name it is the user's own.
    code.rename(code.with_name("moved.py"))
    with pytest.raises(NetworkError, match="imported from nowhere that it could be found"):
        error_barrier(*folders, data_dir=data_dir, alphas=3)
    assert len(error_barrier(*folders, data_dir=data_dir, alphas=3, model="shop.moved:make").error) == 3


def test_an_import_path_is_no_word_for_a_network_of_ours(runs, data_dir):
    folders = [run.folders[8] for run in runs]
    with pytest.raises(OptionError, match=r"is of the network digits-conv; leave out the model shop\.nets:make"):
        error_barrier(*folders, data_dir=data_dir, alphas=3, model="shop.nets:make")
