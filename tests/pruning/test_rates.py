import pytest
from torch import nn

from cases import NAMED
from modeconn.errors import OptionError
from modeconn.models import build_network
from modeconn.pruning.rates import layer_rates

CONV = next(case for case in NAMED if case.model == "conv-2")


def network() -> nn.Module:
    return build_network(CONV.model, CONV.shape, CONV.classes, seed=0, norm="none")


def test_conv_2_as_the_paper_prunes_it() -> None:
    """Convolutions 10 %, linear layers 20 %, the output layer 10 % (Frankle & Carbin 2019, Figure 2)."""
    rates = layer_rates(network(), [("conv", 0.5), ("output", 0.5)])
    *convolutions, _, _, output = [name for name, _ in network().named_parameters() if name.endswith("weight")]
    assert rates == dict.fromkeys((*convolutions, output), 0.5)


def test_names_say_more_than_first_and_output_and_these_more_than_kinds() -> None:
    one, two, three, four, five = [name for name, _ in network().named_parameters() if name.endswith("weight")]
    in_any_order = [(five, 3.0), ("output", 2.0), ("linear", 1.5), ("first", 0.0), ("conv", 0.5)]
    for given in (in_any_order, in_any_order[::-1]):
        assert layer_rates(network(), given) == {one: 0.0, two: 0.5, three: 1.5, four: 1.5, five: 3.0}


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([("0.wait", 0.5)], "did you mean '0.weight'"),
        ([("0.bias", 0.5)], "unknown layer"),
        ([("conv", 0.5), ("conv", 0.1)], "two rates"),
    ],
)
def test_what_there_is_not_is_refused(rates: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        layer_rates(network(), rates)


def test_a_kind_that_the_network_lacks_is_refused() -> None:
    with pytest.raises(OptionError, match="conv layers, but the network has none"):
        layer_rates(nn.Linear(2, 2), [("conv", 0.5)])
