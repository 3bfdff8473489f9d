"""Data sets, their splits and their names as data of any measurement: the test split, or else train."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn import align, barrier_matrix, error_barrier, load_data, prune, recalibrate, soup
from modeconn.data import DataSet, MemoryImages, Split, normalize, normalized_by
from modeconn.data.batches import SplitBatches, as_batches
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.batches import Batches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(data_dir) -> DataSet:
    return load_data("digits", data_dir)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
        net[1].running_mean.uniform_(-0.1, 0.1)
        return net


def pixels(part: Split, data: DataSet) -> tuple[Tensor, Tensor]:
    """Images as the text says that they are scaled, by another formula than the package's."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    return (part.images.read(torch.arange(len(part))).float() / 255 - mean) / std, part.labels


@pytest.mark.parametrize("form", ["name", "data set", "test split", "batches"])
def test_a_barrier_is_the_same_however_the_data_set_is_given(digits, data_dir, form):
    given = {
        "name": "digits",
        "data set": digits,
        "test split": digits.test,
        "batches": SplitBatches(digits, "test"),
    }[form]
    where = {"data_dir": data_dir}
    found = error_barrier(network(0), network(1), given, alphas=3, **where)
    images, labels = pixels(digits.test, digits)
    expected = error_barrier(network(0), network(1), (images, labels), alphas=3, batch_size=2000)
    np.testing.assert_allclose(found.error, expected.error)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert found.settings["examples"] == 360
    assert "images reach the networks as (pixel / 255 - 0.3053) / 0.3762" in " ".join(found.notes)


def test_a_data_set_is_calibrated_on_its_training_split(digits, data_dir):
    how = {"alphas": 3, "batchnorm": "recalibrate"}
    plain = error_barrier(network(0), network(1), digits.test, calibration=digits.train, **how)
    assert np.array_equal(error_barrier(network(0), network(1), digits, **how).loss, plain.loss)
    named = error_barrier(network(0), network(1), "digits", calibration="digits", data_dir=data_dir, **how)
    assert np.array_equal(named.loss, plain.loss)
    other = error_barrier(network(0), network(1), digits, calibration=digits.test, **how)
    assert not np.array_equal(other.loss, plain.loss)
    with pytest.raises(OptionError, match="needs calibration= data"):
        error_barrier(network(0), network(1), digits.test, **how)


@pytest.mark.slow
def test_other_measures_take_them_too(digits, data_dir):
    networks = [network(seed) for seed in range(3)]
    assert barrier_matrix(networks, digits, alphas=3).settings["examples"] == 360
    assert soup(networks, digits, "uniform", gate=None).settings["examples"] == 360
    batches = list(SplitBatches(digits, "train"))
    assert torch.equal(recalibrate(networks[0], digits).network[1].running_mean, statistics(networks[0], batches))
    assert len(align(*networks[:2], digits, method="activations", tries=1).groups) == 1
    snip = [prune(networks[0], "snip", density=0.5, data=given) for given in (digits, digits.train)]
    assert all(torch.equal(snip[0][name], snip[1][name]) for name in snip[0])


def statistics(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    return recalibrate(net, batches).network[1].running_mean


def test_a_split_keeps_the_scaling_of_its_data_set(digits):
    assert (digits.test.mean, digits.test.std) == (digits.mean, digits.std)
    other = normalized_by(digits, "0.5,0.25")
    assert as_batches(other.test, "train").scaling == "(pixel / 255 - 0.5) / 0.25"
    assert as_batches(digits.test, "train").scaling == digits.scaling
    few = digits.train.take(torch.tensor([3, 1]))
    images, labels = next(iter(as_batches(few, "test")))
    assert torch.equal(labels, digits.train.labels[[3, 1]])
    assert torch.equal(images, normalize(digits.train.images.read(torch.tensor([3, 1])), digits))
    assert few.to(CPU).mean == digits.mean


def test_a_split_of_no_data_set_and_unknown_names_are_refused(data_dir):
    alone = Split(MemoryImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match="a Split says how its pixels are scaled when a DataSet has it"):
        Batches(alone, CPU)
    for given, said in (("digit", "did you mean 'digits'"), ("test", "give data=: a DataLoader, .* or its name")):
        with pytest.raises(OptionError, match=said):
            error_barrier(network(0), network(1), given, data_dir=data_dir)


def test_underscores_stand_for_hyphens(tmp_path):
    with pytest.raises(DataError, match="FashionMNIST is not in"):
        load_data("fashion_mnist", tmp_path)


def test_the_note_on_the_data_is_a_note_of_the_batches(digits):
    noted = replace(digits, note="drawn by hand")
    assert Batches(noted, CPU).notes == ("drawn by hand",)
    assert Batches(digits, CPU).notes == ()


def test_other_data_are_left_as_they_are():
    for data in ([(torch.zeros(2, 3), torch.zeros(2))], (torch.zeros(2, 3), torch.zeros(2)), iter([])):
        assert as_batches(data, "test") is data
