"""Verdicts of the papers' figures on results made by hand: each can come out either way, or cannot be told."""

import math
from dataclasses import replace

import pytest
from made_results import ABOUT, instability

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.reproduce.scripts import load_figure
from modeconn.reproduce.tickets import mean_at, over_k
from modeconn.tickets.matching import with_matching
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.sweep_result import SweepResult

NAN = math.nan
LENET, RESNET = {"task": "mnist-lenet"}, {"task": "cifar10-resnet20"}


def dense(barriers, about, **columns):
    """Barriers and other columns of one pair of copies by k, or of several where a k has a tuple."""
    rows = []
    for k, heights in barriers.items():
        for replicate, height in enumerate(heights if isinstance(heights, tuple) else (heights,)):
            place = {"replicate": replicate, "rewind_iter": k, "copy_a": 1, "copy_b": 2, "split": "test"}
            more = {name: of[k] for name, of in columns.items()}
            rows.append(place | {"batchnorm": "none", "barrier": height, "error_a": 0.1, "error_b": 0.1} | more)
    return InstabilityResult(rows, [], ABOUT | about)


def sparse(about, ks=(0, 10), **columns):
    """Columns of conditions, a value for each k, at one level of pruning; the dense network's at level 0."""
    rows = []
    for place, k in enumerate(ks):
        of_k = [
            {"replicate": 0, "level": int(condition != "dense"), "condition": condition, "rewind_iter": k}
            | {"density": 1.0 if condition == "dense" else 0.2, "test_error": 0.1}
            | {name: of[condition][place] for name, of in columns.items() if condition in of}
            for condition in (
                "dense",
                *dict.fromkeys(name for of in columns.values() for name in of if name != "dense"),
            )
        ]
        rows += with_matching(of_k)
    several = {"by_rewind_iter": {str(k): {} for k in ks}}
    return LotteryResult(rows, [], ABOUT | {"replicates": 1, "statistics_fix": "none"} | several | about)


def tickets(densities, **columns):
    """Columns of conditions, a value for each density; the dense network's the first."""
    conditions = dict.fromkeys(name for of in columns.values() for name in of)
    rows = [
        {"replicate": 0, "level": level, "condition": condition, "rewind_iter": 0, "density": density}
        | {name: of[condition][level - (condition != "dense")] for name, of in columns.items()}
        for condition in conditions
        for level, density in ([(0, 1.0)] if condition == "dense" else enumerate(densities, start=1))
    ]
    return LotteryResult(rows, [], ABOUT | {"replicates": 1, "iterations": 100, "statistics_fix": "none"})


def sweep(**medians):
    """k from which IMP and random masks are (stable, matching), by density; infinite where at no measured k."""
    rows = [
        {"condition": condition, "level": level, "density": density, "replicate": 0, "property": name, "measured": 2}
        | {"rewind_iter": None if math.isinf(k) else k}
        for condition, of in medians.items()
        for level, (density, pair) in enumerate(of.items())
        for name, k in zip(("stable", "matching"), pair, strict=True)
    ]
    return SweepResult(rows, ABOUT | RESNET | {"replicates": 1, "candidates": [0, 6, 60]})


NEVER = (math.inf, math.inf)
ABLATED = ("magnitude", "snip", "grasp", "synflow", "oneshot")


def ablations(early, after, **other):
    """The cost of shuffling and of new weights for early methods and after training, in points."""
    costs = {method: after if method == "oneshot" else early for method in ABLATED}
    errors = {"dense": [0.1]}
    for method, cost in costs.items():
        errors |= {method: [0.2], f"{method}-invert": [0.3]}
        errors |= {f"{method}-{control}": [0.2 + cost / 100] for control in ("shuffle", "reinit")}
    return {"ablations": tickets((0.2,), test_error=errors | other)}


def pruned(early, after, uniform):
    names = ("magnitude", "snip", "grasp", "synflow", "erk", "balanced")
    errors = {name: [early] for name in names} | {"uniform": [uniform], "oneshot": [after], "imp": [0.1]}
    return {"early": tickets((0.2,), test_error={"dense": [0.1], **errors})}


def later(early, after):
    errors = dict.fromkeys(("magnitude", "snip", "grasp", "synflow"), early) | {"oneshot": after}
    return {"later": sparse({}, ks=(0, 5, 10), test_error={"dense": (0.1,) * 3, **errors})}


def errors_at(imp, random, reinit, dense=(0.1, 0.1)):
    return {"test_error": {"dense": dense, "imp": imp, "random": random, "reinit": reinit}}


def heights(imp, random, reinit):
    return {"instability_test": {"dense": (0.0, 0.0), "imp": imp, "random": random, "reinit": reinit}}


def stops(iterations, errors, densities=(0.2,)):
    return {"tickets": tickets(densities, early_stop_iter=iterations, early_stop_error=errors)}


def learning(means):
    """Validation errors early in training when dense, at 21.1 and at 3.6 % of the weights."""
    levels = list(zip((1.0, 0.211, 0.036), ("dense", "imp", "imp"), means, strict=True))
    rows = [{"level": n, "density": d, "condition": c, "replicate": 0} for n, (d, c, _) in enumerate(levels)]
    curves = [row | {"split": "validation", "iteration": 10, "error": levels[row["level"]][2]} for row in rows]
    return {"tickets": replace(tickets((0.211,), test_error={}), rows=rows, curves=curves)}


def better_tickets(error):
    """Tickets that stop sooner than the dense network and reinitialised ones, and err so much."""
    iterations = {"dense": [50], "imp": [20, 20], "reinit": [60, 60]}
    return stops(iterations, {"dense": [0.2], "imp": [error, error], "reinit": [0.3, 0.3]}, (0.211, 0.135))


def with_dropout(*, dense, best):
    """Errors with dropout when dense, and of the best ticket, where the dense network errs 30 % without."""
    errors = {"without": {"dense": [0.3], "imp": [0.3]}, "with": {"dense": [dense], "imp": [best]}}
    return {title: tickets((0.2,), early_stop_error=of) for title, of in errors.items()}


def accuracies(*percent):
    names = ("dense", "imp", "random", "reinit")
    return {"sparse": sparse(LENET, test_error={n: (1 - p / 100,) * 2 for n, p in zip(names, percent, strict=True)})}


def at_ends(barriers, task, error=0.9):
    """Two copies forked at k = 0: their barrier and the error in the middle of the path."""
    found = dense({0: barriers}, task)
    place = {
        "replicate": 0,
        "rewind_iter": 0,
        "copy_a": 1,
        "copy_b": 2,
        "split": "test",
        "batchnorm": "none",
        "loss": 1.0,
    }
    return {
        "dense": replace(found, paths=[place | {"alpha": a, "error": error if a == 0.5 else 0.1} for a in (0, 0.5, 1)])
    }


CASES = {
    "lmc2020-figure-2": [
        ("agrees", at_ends(0.009, LENET)),
        ("disagrees", at_ends(0.011, LENET)),
        ("not reached", at_ends(NAN, LENET)),
        ("agrees", at_ends(0.8, RESNET)),
        ("disagrees", at_ends(0.7, RESNET, error=0.8)),
        ("not reached", at_ends(NAN, RESNET)),
    ],
    "lmc2020-figure-3": [
        ("agrees", {"dense": dense({0: 0.01, 10: 0.0}, LENET)}),
        ("disagrees", {"dense": dense({0: 0.3, 10: 0.0}, LENET)}),  # measured where the paper's is stable
        ("agrees", {"dense": dense({0: 0.3, 3: 0.1, 10: 0.0}, RESNET)}),
        ("disagrees", {"dense": dense({0: 0.3, 10: 0.1, 30: 0.0}, RESNET)}),
        ("not reached", {"dense": dense({0: 0.3, 50: 0.0}, RESNET)}),
        ("disagrees", {"dense": dense({0: 0.3, 50: NAN}, RESNET)}),
    ],
    "lmc2020-figure-4": [
        ("agrees", {"dense": dense({0: 0.3, 10: 0.09}, RESNET), "whole": dense({0: 0.3, 10: 0.1}, RESNET)}),
        # One pair on each side of no threshold tells no scatter from a difference; one on either side does.
        ("not reached", {"dense": dense({0: 0.3, 10: 0.09}, RESNET), "whole": dense({0: 0.3, 10: 0.4}, RESNET)}),
        ("disagrees", {"dense": dense({0: 0.3, 10: 0.01}, RESNET), "whole": dense({0: 0.3, 10: 0.4}, RESNET)}),
        (
            "disagrees",
            {"dense": dense({0: 0.3, 10: (0.09, 0.1)}, RESNET), "whole": dense({0: 0.3, 10: (0.4, 0.41)}, RESNET)},
        ),
        (
            "agrees",
            {"dense": dense({0: 0.3, 10: (0.05, 0.25)}, RESNET), "whole": dense({0: 0.3, 10: (0.1, 0.4)}, RESNET)},
        ),
        ("not reached", {"dense": dense({0: 0.3, 10: NAN}, RESNET), "whole": dense({0: 0.3, 10: NAN}, RESNET)}),
    ],
    "lmc2020-figure-5": [
        ("agrees", {"sparse": sparse(LENET, **heights((0.01, 0), (0.01, 0), (0, 0)))}),
        ("disagrees", {"sparse": sparse(LENET, **heights((0.01, 0), (0.03, 0), (0, 0)))}),
        ("agrees", {"sparse": sparse(RESNET, **heights((0.6, 0), (0.6, 0), (0.5, 0)))}),
        ("disagrees", {"sparse": sparse(RESNET, **heights((0.03, 0), (0.6, 0), (0.5, 0)))}),
        ("not reached", {"sparse": sparse(RESNET, **heights((NAN, 0), (0.6, 0), (0.5, 0)))}),
    ],
    "lmc2020-figure-6": [
        ("agrees", {"sparse": sparse(LENET, **heights((0.01, 0), (0.01, 0), (0, 0)))}),
        ("disagrees", {"sparse": sparse(LENET, **heights((0.01, 0.1), (0.01, 0), (0, 0)))}),
        ("agrees", {"sparse": sparse(RESNET, **heights((0.3, 0), (0.3, 0.3), (0.3, 0.2)))}),
        ("disagrees", {"sparse": sparse(RESNET, **heights((0.01, 0), (0.3, 0.3), (0.3, 0.2)))}),
        ("disagrees", {"sparse": sparse(RESNET, **heights((0.3, 0), (0.3, 0.01), (0.3, 0.2)))}),
        ("not reached", {"sparse": sparse(RESNET, **heights((0.3, NAN), (0.3, 0.3), (0.3, 0.2)))}),
    ],
    "lmc2020-figure-7": [
        ("agrees", {"sparse": sparse(LENET, **errors_at((0.1, 0.1), (0.2, 0.2), (0.2, 0.2)))}),
        ("disagrees", {"sparse": sparse(LENET, **errors_at((0.102, 0.1), (0.2, 0.2), (0.2, 0.2)))}),  # 0.2 points more
        ("agrees", {"sparse": sparse(RESNET, **errors_at((0.2, 0.1), (0.2, 0.2), (0.2, 0.2)))}),
        ("disagrees", {"sparse": sparse(RESNET, **errors_at((0.2, 0.09), (0.08, 0.08), (0.2, 0.2)))}),
        ("not reached", {"sparse": sparse(RESNET, **errors_at((0.2, NAN), (0.2, 0.2), (0.2, 0.2)))}),
    ],
    "lmc2020-figure-9": [
        ("agrees", {"sweep": sweep(imp={0.8: (0, 0), 0.4: (6, 6)}, random={0.8: (6, 6), 0.4: NEVER})}),
        ("disagrees", {"sweep": sweep(imp={0.4: (60, 6)}, random={0.4: NEVER})}),  # matches before it is stable
        ("disagrees", {"sweep": sweep(imp={0.4: (6, 6)}, random={0.4: (math.inf, 0)})}),
        ("disagrees", {"sweep": sweep(imp={0.4: NEVER}, random={0.4: NEVER})}),
        ("disagrees", {"sweep": sweep(imp={0.4: (6, 6), 0.1: (6, 6)}, random={0.4: NEVER, 0.1: NEVER})}),
        ("disagrees", {"sweep": sweep(imp={0.9: (0, 0), 0.4: (6, 6)}, random={0.9: NEVER, 0.4: NEVER})}),
        ("not reached", {"sweep": sweep(imp={0.8: NEVER}, random={0.8: NEVER})}),
    ],
    "lth2019-figure-1": [
        (
            "agrees",
            stops({"dense": [50], "imp": [20], "random": [60]}, {"dense": [0.1], "imp": [0.05], "random": [0.2]}),
        ),
        (
            "disagrees",
            stops({"dense": [50], "imp": [20], "random": [60]}, {"dense": [0.1], "imp": [0.2], "random": [0.3]}),
        ),
        (
            "not reached",
            stops({"dense": [50], "imp": [20], "random": [None]}, {"dense": [0.1], "imp": [0.05], "random": [NAN]}),
        ),
    ],
    "lth2019-figure-5": [
        ("agrees", stops({"dense": [50], "imp": [20, 5]}, {"dense": [0.2], "imp": [0.1, 0.9]}, (0.5, 0.1))),
        ("disagrees", stops({"dense": [50], "imp": [40, 5]}, {"dense": [0.2], "imp": [0.1, 0.9]}, (0.5, 0.1))),
        ("disagrees", stops({"dense": [50], "imp": [5, 5]}, {"dense": [0.2], "imp": [0.9, 0.9]}, (0.5, 0.1))),
        ("not reached", stops({"dense": [50], "imp": [20, 5]}, {"dense": [0.2], "imp": [0.1, NAN]}, (0.5, 0.1))),
    ],
    "lth2019-figure-3": [
        ("agrees", learning((0.04, 0.02, 0.035))),
        ("disagrees", learning((0.04, 0.02, 0.3))),  # the sparsest learns much more slowly than the dense network
        ("disagrees", learning((0.04, 0.05, 0.03))),
        ("not reached", learning((0.04, NAN, 0.035))),
    ],
    "lth2019-figure-4": [
        ("agrees", better_tickets(0.1)),
        ("disagrees", better_tickets(0.25)),
        ("not reached", better_tickets(NAN)),
    ],
    "lth2019-figure-6": [
        ("agrees", with_dropout(dense=0.2, best=0.1)),
        ("disagrees", with_dropout(dense=0.4, best=0.1)),
        ("disagrees", with_dropout(dense=0.2, best=0.25)),
        ("not reached", with_dropout(dense=0.2, best=NAN)),
    ],
    "lmc2020-table-2": [
        ("agrees", accuracies(98.3, 98.2, 96.7, 97.5)),
        ("disagrees", accuracies(97.7, 98.2, 96.7, 97.5)),
        ("disagrees", accuracies(98.3, 98.2, 97.6, 97.5)),
        ("not reached", accuracies(98.3, 98.2, NAN, 97.5)),
    ],
    "lmc2020-table-1": [
        ("agrees", {"dense": dense({0: 0.0}, LENET, error_a={0: 0.017}, error_b={0: 0.017})}),
        ("disagrees", {"dense": dense({0: 0.0}, LENET, error_a={0: 0.03}, error_b={0: 0.03})}),
        ("not reached", {"dense": dense({0: 0.0}, LENET, error_a={0: 0.017}, error_b={0: NAN})}),
    ],
    "pai2021-ablations": [
        ("agrees", ablations(0, 6)),
        ("disagrees", ablations(5, 6)),  # early methods lose as well
        ("disagrees", ablations(-5, -1)),  # nothing costs anything
        ("not reached", ablations(0, 6, **{"snip-shuffle": [NAN]})),
        ("not reached", ablations(0, 6, **{"oneshot-reinit": [NAN]})),
    ],
    "pai2021-main": [
        ("agrees", pruned(0.3, 0.2, 0.4)),
        ("disagrees", pruned(0.3, 0.6, 0.4)),  # pruning after training is worst
        ("disagrees", pruned(0.5, 0.2, 0.4)),
        ("not reached", pruned(0.3, NAN, 0.4)),
    ],
    "pai2021-later": [
        ("agrees", later((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))),
        ("disagrees", later((0.3, 0.5, 0.25), (0.2, 0.2, 0.2))),
        ("disagrees", later((0.5, 0.4, 0.3), (0.2, 0.45, 0.2))),
        ("not reached", later((0.5, NAN, 0.3), (0.2, 0.2, 0.2))),
    ],
    "beyond-butterfly": [
        ("agrees", {"one weight": dense({0: 0.3, 1: 0.1, 30: 0.01}, {})}),
        ("disagrees", {"one weight": dense({0: 0.3, 1: 0.29, 30: 0.01}, {})}),
        ("disagrees", {"one weight": dense({0: 0.01, 1: 0.0, 30: 0.0}, {})}),
        ("not reached", {"one weight": dense({0: 0.3, 1: 0.1, 30: NAN}, {})}),
    ],
}


@pytest.mark.parametrize(
    ("name", "word", "results"), [(name, word, results) for name, cases in CASES.items() for word, results in cases]
)
def test_a_verdict_is_what_the_paper_claims_and_nothing_where_networks_diverged(name, word, results):
    assert load_figure(name).judge(results).word == word


def test_appendix_g_has_every_k_its_place_where_copies_diverged():
    measures = ("l2_distance", "cosine_distance", "disagreement", "loss_l2", "possible_disagreement")
    judge = load_figure("lmc2020-appendix-g").judge

    def found(about, **measured):
        columns = {name: measured.get(name, {0: 1.0, 1: 1.2, 2: 1.1, 3: 1.3}) for name in measures[:-1]}
        columns["possible_disagreement"] = dict.fromkeys((0, 1, 2, 3), 2.0)
        return judge({"dense": dense({0: NAN, 1: 0.2, 2: 0.1, 3: 0.0}, about, **columns)})

    assert found(LENET).word == "agrees"
    assert found(LENET, cosine_distance={0: 1.0, 1: 1.2, 2: 1.1, 3: 0.05}).word == "disagrees"
    assert found(LENET, l2_distance={0: NAN, 1: 1.2, 2: 1.1, 3: 1.3}).word == "not reached"  # the first k has no value


def test_appendix_c_says_nothing_of_a_study_that_was_measured_at_its_end():
    assert load_figure("lmc2020-appendix-c").judge({"dense": instability(scale=0.01)}).word == "not reached"


def test_a_mean_of_which_a_replicate_diverged_is_not_that_of_the_others():
    rows = [
        {"replicate": replicate, "level": level, "condition": name, "density": density, "rewind_iter": k}
        | {
            "test_error": NAN if (replicate, level, k) == (1, 1, 10) else 0.1,
            "early_stop_iter": 20 if replicate else None,
        }
        for replicate in (0, 1)
        for k in (0, 10)
        for level, name, density in ((0, "dense", 1.0), (1, "imp", 0.5))
    ]
    result = LotteryResult(rows, [], ABOUT | {"by_rewind_iter": {"0": {}, "10": {}}})
    means = over_k(result, "test_error", "imp")
    assert means[0] == pytest.approx(0.1)
    assert math.isnan(means[10])
    assert math.isnan(mean_at(result.at(0), "early_stop_iter", "imp", 0.5))
    assert mean_at(result.at(0), "test_error", "imp", 0.5) == pytest.approx(0.1)
