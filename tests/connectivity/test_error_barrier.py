"""Laws of error_barrier, over the whole list of networks."""

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from direct import direct
from modeconn import Barrier, barrier_matrix, error_barrier, layerwise_barrier, soup
from modeconn.evaluation.batches import Batches
from networks import EXAMPLES, Network, by_name, each_network


@functools.cache
def _pair(case: Network) -> tuple[nn.Module, nn.Module]:
    return case.pair()


@functools.cache
def _walk(case: Network) -> Barrier:
    return error_barrier(*_pair(case), case.batches(), evaluate=case.evaluate, alphas=5)


# --- the curve is what plain code finds


@each_network
def test_the_ends_equal_direct_evaluation_exactly(case: Network) -> None:
    result = _walk(case)
    for end, network in ((0, _pair(case)[0]), (-1, _pair(case)[1])):
        expected = direct(case, network, case.batches())
        assert expected.keys() == {*result.metrics} - {"perplexity"}
        for name, (sums, counts) in expected.items():
            assert np.array_equal(result.samples[name].sums[end], sums)
            assert np.array_equal(result.samples[name].counts[end], np.broadcast_to(counts, len(sums)))
            assert result.values(name)[end] == sums.sum(dtype=np.float64) / result.samples[name].counts[end].sum()
            assert len(sums) == EXAMPLES
    if case.kind in ("tokens", "next-token"):
        assert np.array_equal(result.values("perplexity"), np.exp(result.loss))


@each_network
def test_points_between_equal_a_deep_copy_with_averaged_state_dicts(case: Network) -> None:
    result = _walk(case)
    for index, alpha in ((1, 0.25), (2, 0.5)):
        expected = direct(case, _mixed(case, alpha), case.batches())
        for name, (sums, _) in expected.items():
            found = result.samples[name].sums[index].astype(np.float64)
            rounding = 0 if name == "error" else 1e-5
            np.testing.assert_allclose(found, sums.astype(np.float64), rtol=rounding, atol=rounding)


@torch.no_grad()
def _mixed(case: Network, alpha: float) -> nn.Module:
    network = case.plain(_pair(case)[0])
    state, other = network.state_dict(), case.plain(_pair(case)[1]).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() or tensor.is_complex():
            state[name] = ((1 - alpha) * _double(tensor) + alpha * _double(other[name])).to(tensor.dtype)
    network.load_state_dict(state)
    return network


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


@each_network
def test_every_parameter_and_buffer_moves_in_proportion_to_alpha(case: Network) -> None:
    """A measure that is linear in the weights, whatever their names: its curve is a straight line."""

    def weigh(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        moving = [t for _, t in sorted(network.state_dict().items()) if t.is_floating_point() or t.is_complex()]
        sums = torch.stack([(_double(t) * (1 + 2j if t.is_complex() else 1)).sum().real for t in moving])
        return {"weight": (sums.nan_to_num(neginf=0), 1)}  # causal masks hold infinities

    a, b = (weigh(case.plain(network), None)["weight"][0].numpy() for network in _pair(case))
    result = error_barrier(*_pair(case), case.batches()[:1], evaluate=weigh, alphas=[0, 0.3, 0.5, 1])
    for alpha, sums in zip(result.alphas, result.samples["weight"].sums, strict=True):
        np.testing.assert_allclose(sums, (1 - alpha) * a + alpha * b, atol=20 * case.batchwise)
    assert result.chord_barrier <= case.batchwise


def test_one_parameter_gives_the_curve_that_it_was_made_for() -> None:
    """Ends 0.10 and 0.40: a straight line between them, and one that passes 0.38 halfway."""
    a, b = (nn.ParameterDict({"w": torch.tensor(value)}) for value in (0.0, 1.0))

    def straight(network: Any, batch: Any) -> dict[str, tuple[float, int]]:
        return {"error": (0.10 + 0.30 * float(network["w"]), 1)}

    def bent(network: Any, batch: Any) -> dict[str, tuple[float, int]]:
        return {"error": (float(np.interp(float(network["w"]), [0, 0.5, 1], [0.10, 0.38, 0.40])), 1)}

    line, curve = (error_barrier(a, b, [0], evaluate=measure, alphas=11) for measure in (straight, bent))
    assert (line.barrier, line.chord_barrier) == (pytest.approx(0.15), pytest.approx(0, abs=1e-8))
    assert (curve.barrier, curve.chord_barrier) == (pytest.approx(0.15), pytest.approx(0.13))
    assert curve.alpha_at_max == 1


# --- identities


@each_network
def test_a_path_between_equal_networks_is_flat_and_said_to_be(case: Network) -> None:
    a, _ = _pair(case)
    result = error_barrier(a, case.network(1), case.batches(), evaluate=case.evaluate, alphas=3)
    for name in result.metrics:
        assert len(set(result.values(name))) == 1
        assert (result.heights(name).barrier, result.heights(name).chord_barrier) == (0, 0)
    assert (result.ends.l2, result.ends.loss_l2) == (0, 0 if case.kind != "own" else pytest.approx(np.nan, nan_ok=True))
    assert result.ends.disagreement == 0 or case.kind in ("own", "regression")
    assert any("all weights and buffers are equal" in note for note in result.notes)


@each_network
def test_swapping_the_ends_mirrors_the_curve(case: Network) -> None:
    a, b = _pair(case)
    there, back = _walk(case), error_barrier(b, a, case.batches(), evaluate=case.evaluate, alphas=5)
    for name in there.metrics:
        rounding = 0 if name == "error" else case.batchwise
        np.testing.assert_allclose(there.values(name), back.values(name)[::-1], rtol=rounding)
        assert (there.values(name)[[0, -1]] == back.values(name)[[-1, 0]]).all()
    ends = (there.ends.l2, there.ends.cosine, there.ends.disagreement, there.ends.loss_l2)
    assert ends == pytest.approx(
        (back.ends.l2, back.ends.cosine, back.ends.disagreement, back.ends.loss_l2), nan_ok=True
    )


@each_network
@pytest.mark.parametrize("size", [1, EXAMPLES])
def test_the_batch_size_does_not_matter(case: Network, size: int) -> None:
    """The list's batches are of 7."""
    result = error_barrier(*_pair(case), case.data, evaluate=case.evaluate, alphas=3, batch_size=size)
    expected = _walk(case)
    for name in set(result.metrics) - {"perplexity"}:
        found, other = (r.samples[name].sums.astype(np.float64) for r in (result, expected))
        rounding = 0 if name == "error" else case.batchwise
        np.testing.assert_allclose(found.sum(1), other[[0, 2, 4]].sum(1), rtol=rounding)
        assert np.array_equal(result.samples[name].counts[0], expected.samples[name].counts[0])


@each_network
def test_a_constant_added_to_the_loss_leaves_its_barrier_alone(case: Network) -> None:
    def measure(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        output = case.call(network, batch)
        losses = output.double().flatten(1).square().mean(1)
        one = torch.ones_like(losses)
        return {"loss": (losses, one), "raised": (losses + 100, one)}

    result = error_barrier(*_pair(case), case.batches(), evaluate=measure, alphas=5)
    loss, raised = result.heights("loss"), result.heights("raised")
    np.testing.assert_allclose(result.values("raised"), result.values("loss") + 100, rtol=1e-12)
    assert raised.barrier == pytest.approx(loss.barrier, abs=1e-11)
    assert raised.chord_barrier == pytest.approx(loss.chord_barrier, abs=1e-11)


def test_the_distance_counts_tied_weights_once() -> None:
    case = by_name("tied")
    a, b = _pair(case)
    squares = [(p - q).square().sum() for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    assert _walk(case).ends.l2 == pytest.approx(float(torch.stack(squares).detach().sum().sqrt()), rel=1e-6)


def test_whatever_the_path_is_asked_its_points_end_at_one_and_have_a_half() -> None:
    for alphas in (3, 31, "adaptive", [0.5]):
        found = error_barrier(*_pair(by_name("mlp")), by_name("mlp").data, alphas=alphas).alphas
        assert (found[0], found[-1], 0.5 in found) == (0, 1, True)
    paper = error_barrier(*_pair(by_name("mlp")), by_name("mlp").data, alphas="paper").alphas
    assert paper.tolist() == [index / 29 for index in range(30)]


def test_a_dip_of_an_accuracy_is_the_barrier_of_the_error() -> None:
    case = by_name("mlp")

    def measure(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        wrong = (network(batch[0]).argmax(1) != batch[1]).double()
        return {"accuracy": (1 - wrong, 1), "error": (wrong, 1)}

    result = error_barrier(*_pair(case), case.batches(), evaluate=measure, higher_is_better=["accuracy"], alphas=5)
    dip, rise = result.heights("accuracy"), result.heights("error")
    assert (dip.barrier, dip.chord_barrier) == (pytest.approx(rise.barrier), pytest.approx(rise.chord_barrier))
    assert dip.alpha_at_max == rise.alpha_at_max
    assert result.worst("accuracy") == pytest.approx(1 - result.worst("error"))


def test_a_metric_whose_name_says_that_higher_is_better_is_taken_for_such_with_a_note() -> None:
    """The barrier of an accuracy that falls 13 points was 0.01, over its ends."""
    case = by_name("mlp")

    def measure(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        right = (network(batch[0]).argmax(1) == batch[1]).double()
        return {"top-1 accuracy": (right, 1), "distance": (right, 1)}

    how: dict[str, Any] = {"evaluate": measure, "alphas": 5}
    said = error_barrier(*_pair(case), case.batches(), higher_is_better=True, **how)
    found = error_barrier(*_pair(case), case.batches(), **how)
    assert found.barrier == said.barrier > 0
    assert found.higher_is_better == {"top-1 accuracy"}
    assert [note for note in found.notes if note.startswith("higher top-1 accuracy is taken to be better")]
    assert not [note for note in said.notes if "taken to be better" in note]
    denied = error_barrier(*_pair(case), case.batches(), higher_is_better=False, **how)
    assert denied.higher_is_better == set()
    assert denied.chord_barrier != found.chord_barrier
    matrix = barrier_matrix([*_pair(case)], case.batches(), **how)
    assert (matrix.barrier[0, 1], matrix.higher_is_better) == (found.barrier, {"top-1 accuracy"})


def test_metrics_that_look_like_mistakes_are_noted() -> None:
    case = by_name("mlp")

    def measure(network: nn.Module, batch: Any) -> dict[str, Any]:
        wrong = (network(batch[0]).argmax(1) != batch[1]).double()
        return {"error": (wrong.mean(), 1), "always": (1.0, len(wrong)), "summed": (wrong.sum(), len(wrong))}

    notes = error_barrier(*_pair(case), case.batches(), evaluate=measure, alphas=3).notes
    assert [note.split()[0] for note in notes if "is a mean over batches" in note] == ["error"]
    assert [note.split()[0] for note in notes if "is the same at every alpha" in note] == ["always"]


def test_the_first_line_says_what_was_measured() -> None:
    case = by_name("mlp")
    result = error_barrier(*_pair(case), case.batches(), alphas=3)
    first = f"path from a to b, 3 alphas: error and cross-entropy of each example, from 4 logits; {EXAMPLES} examples"
    assert str(result).startswith(first + "\n")
    assert str(Barrier.from_json(result.to_json())).startswith(first)
    matrix, average = barrier_matrix([*_pair(case)], case.batches(), alphas=3), soup([*_pair(case)], case.batches())
    for text in map(str, (matrix, average, layerwise_barrier(*_pair(case), case.batches(), alphas=3))):
        assert "error and cross-entropy of each example, from 4 logits" in text.splitlines()[0]


# --- chance


class Noisy(nn.Linear):
    """Draws noise in evaluation mode too, as a variational autoencoder does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), self.out_features)


@pytest.mark.parametrize("keep", [2**31, 0], ids=["in memory", "read again"])
def test_a_network_that_draws_noise_sees_the_same_noise_at_every_point(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else noise is taken for a barrier."""
    monkeypatch.setitem(Batches.__init__.__kwdefaults__, "keep", keep)
    case = by_name("mlp")
    with torch.random.fork_rng(devices=[]):
        a, b = Noisy(6, 4), Noisy(6, 4)
    flat = error_barrier(a, copy.deepcopy(a), case.batches(), alphas=5)
    assert len(set(flat.loss)) == 1
    there, back = error_barrier(a, b, case.batches(), alphas=3), error_barrier(b, a, case.batches(), alphas=3)
    np.testing.assert_allclose(there.loss, back.loss[::-1], rtol=1e-5)


@pytest.mark.slow
def test_two_calls_give_the_same_bits_and_so_does_another_random_state() -> None:
    for name in ("dropout", "recurrent", "bert"):
        case = by_name(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            again = error_barrier(*_pair(case), case.batches(), alphas=5)
        assert np.array_equal(again.samples["loss"].sums, _walk(case).samples["loss"].sums)
