"""Options that ask for what cannot be are refused before anything is planned, with what it would need."""

import pytest

from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.paths.alphas import grid
from modeconn.errors import OptionError
from modeconn.execution.engine import choose_engine
from modeconn.models import build_network
from modeconn.tasks import get_task, parse_iterations
from modeconn.tickets.options import LotteryOptions

REFUSED = {
    "alphas": (lambda: grid(10**9), "1,000,000,000 alphas are as many passes"),
    "a list of alphas": (lambda: grid([i / 20_000 for i in range(20_000)]), "at most 10,000"),
    "copies": (lambda: StudyOptions(copies=3000), "3 replicates of 3,000 copies would be 13,513,503 jobs"),
    "replicates": (lambda: StudyOptions(replicates=10**20), "at most 9,223,372,036,854,775,807"),
    "copies at many k": (lambda: StudyOptions(copies=50).require_room(1000, 2), "at 1,000 k would be"),
    "levels": (lambda: LotteryOptions(levels=10**6), "1,000,000 levels of 3 conditions"),
    "workers": (lambda: choose_engine(workers=10**11), "100,000,000,000 workers are as many processes"),
    "iterations": (lambda: get_task("digits-conv", iterations=10**20), "at most 1,000,000,000"),
    "a shortened task": (lambda: get_task("digits-conv").shortened(10**20), "at most 1,000,000,000"),
    "a batch": (lambda: get_task("digits-conv", batch_size=10**15), "at most 1,000,000,000"),
    "digits of an iteration": (lambda: parse_iterations("0." + "1" * 5000 + "%", 100, 1), "is not an iteration"),
}


@pytest.mark.parametrize(("ask", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_with_its_count(ask, words):
    with pytest.raises(OptionError, match=words):
        ask()


@pytest.mark.parametrize(
    ("model", "width", "words"),
    [
        ("conv-2", 10_000, "parameters would take .* GB in training, and this machine has"),
        ("conv-2", 1e300, "more weights than can be counted"),
        ("lenet-" + "9" * 20, 1, "more weights than can be counted"),
        ("lenet-99999999", 1e9, "more weights than can be counted|parameters would take"),
        ("lenet" + "-1" * 5000, 1, "at most 1,000 layers"),
        ("resnet-20000000002", 1, "at most 3,002 layers"),
        ("resnet-" + "1" * 5000, 1, "digits"),
    ],
)
def test_a_network_that_no_memory_holds_is_counted_and_not_built(model, width, words):
    with pytest.raises(OptionError, match=words):
        build_network(model, (3, 8, 8), 10, seed=0, width=width)


def test_what_can_be_is_let_be():
    assert len(grid(10_000)) == 10_000
    StudyOptions(replicates=10, copies=20).require_room(10, 2)
    assert choose_engine(workers=64).slots == 64
    wide = build_network("lenet-300-100", (1, 8, 8), 10, seed=0, width=2)
    assert sum(parameter.numel() for parameter in wide.parameters()) == 65 * 600 + 601 * 200 + 201 * 10
