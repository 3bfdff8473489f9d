"""The options that measures between networks share are written once for error_barrier, and taken by all alike."""

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest

import modeconn
from direct import refused
from modeconn import error_barrier
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.errors import OptionError
from networks import by_name

PAIR, DATA = by_name("mlp").pair(), by_name("mlp").data
MEASURES = {
    "error_barrier": lambda **how: modeconn.error_barrier(*PAIR, DATA, alphas=3, **how),
    "barrier_matrix": lambda **how: modeconn.barrier_matrix(PAIR, DATA, alphas=3, **how),
    "layerwise_barrier": lambda **how: modeconn.layerwise_barrier(*PAIR, DATA, alphas=3, **how),
    "feature_connectivity": lambda **how: modeconn.feature_connectivity(*PAIR, DATA, **how),
    "soup": lambda **how: modeconn.soup(PAIR, DATA, alphas=3, **how),
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def test_error_barrier_and_the_shared_options_have_the_same_names_types_and_defaults():
    explicit = inspect.signature(error_barrier).parameters
    for field in fields(ComparisonOptions):
        assert (explicit[field.name].default, explicit[field.name].annotation) == (field.default, field.type)
    assert get_type_hints(OptionKeywords) == get_type_hints(ComparisonOptions)


@each_measure
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batchnorm": "recalibrat"}, "did you mean 'recalibrate'"),
        ({"precision": "bf16"}, "did you mean 'bfloat16'"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"calibration_batches": 0.5}, "calibration_batches must be a whole number"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"names": ["a", "a"]}, "2 different names"),
    ],
)
def test_every_measure_refuses_what_cannot_be_used(measure, how, message):
    with pytest.raises(OptionError, match=message):
        measure(**how)


@each_measure
def test_an_unknown_option_is_a_mistake_of_the_call(measure):
    with pytest.raises(TypeError, match="batchsize"):
        measure(batchsize=3)


@each_measure
def test_the_options_of_a_measure_are_in_its_result(measure):
    result = measure(precision="bfloat16", names=["one", "other"], calibration_batches=2, device="cpu")
    assert (result.settings["precision"], result.settings["calibration_batches"]) == ("bfloat16", 2)
    named = result.full.names if hasattr(result, "full") else getattr(result, "names", None) or sorted(result.values)
    assert list(named) == ["one", "other"]


def test_an_option_is_looked_at_before_the_networks_are():
    refused(OptionError, "unknown precision", precision="float8", a="nowhere.pt")
