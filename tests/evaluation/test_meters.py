import math

import numpy as np
import pytest
import torch
from torch import nn

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.measure import MetricSums, measure
from modeconn.evaluation.meters import choose_meter
from modeconn.evaluation.scores import IGNORED


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def batches(*tensors: torch.Tensor, size: int = 4) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def found(network: nn.Module, data: list, evaluate="auto") -> MetricSums:
    network.eval()
    return measure(network, data, choose_meter(evaluate, network, data[0]))


class Passing(nn.Module):
    """Gives its input back as logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Table(nn.Module):
    """Logits for the next token, from the present one alone."""

    def __init__(self, vocabulary: int = 7) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.table(input_ids)}


class TableForCausalLM(Table):
    pass


class SomebodysModel(TableForCausalLM):
    pass


def cross_entropy(logits: np.ndarray, label: int) -> float:
    """Of one example, in double precision."""
    logits = logits.astype(np.float64)
    top = logits.max()
    return float(top + math.log(np.exp(logits - top).sum()) - logits[label])


def token_sums(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, float, int]]:
    """Errors, cross-entropy and count of each sequence, one position at a time."""
    rows = []
    for sequence, wanted in zip(logits.detach().numpy(), labels.tolist(), strict=True):
        places = [(row, label) for row, label in zip(sequence, wanted, strict=True) if label != IGNORED]
        errors = sum(int(row.argmax()) != label for row, label in places)
        rows.append((errors, sum(cross_entropy(row, label) for row, label in places), len(places)))
    return rows


def test_classification_counts_errors_and_cross_entropy():
    network, x, y = nn.Linear(5, 3), normal(10, 5), whole(3, 10)
    result = found(network, batches(x, y))
    logits = network(x).detach().numpy()
    losses = [cross_entropy(row, label) for row, label in zip(logits, y.tolist(), strict=True)]
    assert result.predictions.tolist() == logits.argmax(1).tolist()
    assert result.sums["error"].tolist() == [int(row.argmax()) != label for row, label in zip(logits, y, strict=True)]
    np.testing.assert_allclose(result.sums["loss"], losses, rtol=1e-5)
    assert result.mean("error") == pytest.approx(result.sums["error"].mean())
    assert result.mean("loss") == pytest.approx(np.mean(losses), rel=1e-6)
    assert result.whole == frozenset()


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_a_short_last_batch_counts_by_its_examples(size):
    """Means of batch means would weigh the last examples up."""
    x, y = torch.eye(2).repeat(5, 1), torch.tensor([0, 1] * 4 + [1, 0])  # the last two are wrong
    result = found(Passing(), batches(x, y, size=size), "classification")
    assert result.mean("error") == 0.2
    loss = math.log(1 + math.e)
    assert result.mean("loss") == pytest.approx(loss - 0.8, rel=1e-6)


@pytest.mark.parametrize("logits", [[math.nan, 5, 0], [0, math.nan, 0], [math.inf, 0, 0], [-math.inf] * 3])
def test_outputs_that_are_not_finite_are_errors(logits):
    """Whatever the label is."""
    x = torch.tensor([logits] * 3 + [[9.0, 0, 0]])
    result = found(Passing(), [(x, torch.tensor([0, 1, 2, 0]))])
    assert result.sums["error"].tolist() == [1, 1, 1, 0]
    sequences = found(Passing(), [(x[None], torch.tensor([[0, 1, 2, 0]]))])
    assert sequences.sums["error"].tolist() == [3]


def test_a_masked_class_is_no_error():
    assert found(Passing(), [(torch.tensor([[1.0, -math.inf]]), torch.tensor([0]))]).mean("error") == 0


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_labels_of_any_integer_type_and_of_one_column(kind, shape):
    x, y = normal(6, 3), whole(3, 6)
    expected = found(Passing(), [(x, y)])
    result = found(Passing(), [(x, y.to(kind).view(shape))])
    assert np.array_equal(result.sums["loss"], expected.sums["loss"])


@pytest.mark.parametrize(("label", "shown"), [(3, 3), (-1, -1), (-100, -100), (255, 255)])
@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_labels_out_of_range_are_refused_before_a_device_fails(label, shown, kind):
    if (kind, label) == ("tokens", IGNORED):
        return
    x, y = normal(2, 3), torch.tensor([0, label])
    data = [(x, y)] if kind == "classification" else [(x[None], y[None])]
    with pytest.raises(DataError, match=rf"a label is {shown}, but the network gives 3 classes"):
        found(Passing(), data, kind)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision_take_the_same_data(kind):
    """Losses of half-precision logits are summed in single precision."""
    torch.manual_seed(0)
    network, x, y = nn.Linear(5, 3), normal(300, 5), whole(3, 300)
    network.to(kind)
    result = found(network, [(x, y)])
    logits = network(x.to(kind)).detach().double().numpy()
    losses = [cross_entropy(row, label) for row, label in zip(logits, y.tolist(), strict=True)]
    assert result.mean("loss") == pytest.approx(np.mean(losses), rel=1e-13 if kind == torch.float64 else 1e-6)
    assert result.sums["loss"].dtype == (np.float64 if kind == torch.float64 else np.float32)


@pytest.mark.parametrize(
    ("outputs", "targets"), [((9, 4), (9, 4)), ((9, 1), (9,)), ((9,), (9, 1)), ((9, 2, 3), (9, 6))]
)
def test_regression_is_the_squared_error_averaged_over_outputs_and_examples(outputs, targets):
    x, y = normal(*outputs), normal(*targets, seed=1)
    result = found(Passing(), batches(x, y))
    squares = (x.double().flatten() - y.double().flatten()).numpy() ** 2
    assert result.mean("loss") == pytest.approx(squares.mean(), rel=1e-6)
    np.testing.assert_allclose(result.sums["loss"], squares.reshape(9, -1).sum(1), rtol=1e-5)
    assert result.counts["loss"].tolist() == [len(squares) / 9] * 9


def test_a_network_that_squeezes_its_output_may_see_a_batch_of_one():
    x, y = normal(5), normal(5, seed=1)
    squeezing = Passing()
    squeezing.forward = lambda x: x.squeeze()
    result = found(squeezing, batches(x[:, None], y))  # the last batch is one example
    assert result.mean("loss") == pytest.approx(float((x - y).square().mean()), rel=1e-6)


def test_tokens_are_counted_where_they_are_labelled():
    logits, labels = normal(7, 6, 5), whole(5, 7, 6)
    labels[whole(2, 7, 6, seed=1) == 0] = IGNORED
    labels[2] = IGNORED  # a whole sequence
    logits[labels == IGNORED] = math.nan  # whatever is there does not count
    result = found(Passing(), batches(logits, labels, size=3))
    errors, losses, counts = (list(column) for column in zip(*token_sums(logits, labels), strict=True))
    assert result.sums["error"].tolist() == errors
    np.testing.assert_allclose(result.sums["loss"], losses, rtol=1e-5)
    assert result.counts["error"].tolist() == result.counts["loss"].tolist() == counts
    assert result.mean("loss") == pytest.approx(sum(losses) / sum(counts), rel=1e-6)
    assert result.mean("error") == sum(errors) / sum(counts)
    assert result.predictions.tolist() == logits.argmax(2)[labels != IGNORED].tolist()


@pytest.mark.parametrize("form", ["labels", "ignored labels", "a text alone", "a padded text"])
def test_the_next_token_is_predicted_from_those_before_it(form):
    network, ids = TableForCausalLM(), whole(7, 5, 8)
    lengths = torch.tensor([8, 3, 1, 6, 8])
    mask = torch.arange(8) < lengths[:, None]
    batch, wanted = {"input_ids": ids}, ids.clone()
    if form == "a padded text":
        batch["attention_mask"] = mask.long()
        wanted[~mask] = IGNORED
    elif form == "ignored labels":
        wanted[whole(2, 5, 8, seed=1) == 0] = IGNORED
    if "labels" in form:
        batch["labels"] = wanted
    result = found(network, [batch], "next-token")
    logits = network.table.weight[ids].detach()
    rows = token_sums(logits[:, :-1], wanted[:, 1:])
    np.testing.assert_allclose(result.sums["loss"], [row[1] for row in rows], rtol=1e-5)
    assert result.sums["error"].tolist() == [row[0] for row in rows]
    assert result.counts["loss"].tolist() == [row[2] for row in rows]


def test_hugging_faces_own_loss_is_the_one_measured():
    from transformers import BertConfig, BertForTokenClassification, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=12))
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
    bert = BertForTokenClassification(BertConfig(**small, vocab_size=11, num_labels=11))
    for network, kind in ((gpt.eval(), "next-token"), (bert.eval(), "tokens")):
        ids, labels = whole(11, 3, 9), whole(11, 3, 9, seed=1)
        labels[:, ::4] = IGNORED
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        assert choose_meter("auto", network, batch).name == kind
        with torch.no_grad():
            assert found(network, [batch]).mean("loss") == pytest.approx(float(network(**batch).loss), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "batch", "kind"),
    [
        (Passing(), (normal(4, 3), whole(3, 4)), "classification"),
        (Passing(), (normal(4, 3), whole(3, 4, 1)), "classification"),
        (Passing(), {"x": normal(4, 3), "label": whole(3, 4)}, "classification"),
        (Passing(), (normal(4, 3), normal(4, 3)), "regression"),
        (Passing(), {"anything": normal(4), "y": normal(4)}, "regression"),
        (Passing(), (normal(4, 5, 3), whole(3, 4, 5)), "tokens"),
        (Table(), {"input_ids": whole(7, 4, 5), "labels": whole(7, 4, 5)}, "tokens"),
        (TableForCausalLM(), {"input_ids": whole(7, 4, 5), "labels": whole(7, 4, 5)}, "next-token"),
        (SomebodysModel(), {"input_ids": whole(7, 4, 5), "labels": whole(7, 4, 5)}, "next-token"),
    ],
)
def test_auto_sees_what_there_is_to_measure(network, batch, kind):
    assert choose_meter("auto", network, batch).name == kind


MULTI_HOT = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize(
    ("output", "target"),
    [
        (normal(4, 3), MULTI_HOT),
        (normal(3, 1), MULTI_HOT[0]),
        (normal(3), MULTI_HOT[:1].T),
        (normal(3), MULTI_HOT[0]),
        (normal(2, 1, 2, 3), MULTI_HOT.view(2, 2, 3)),  # a mask of an image
    ],
)
def test_labels_of_0_and_1_are_measured_by_binary_cross_entropy(output, target, kind):
    """And not by the squared error of the logits; one logit for each example has no cross-entropy of classes."""
    network, batch = Passing(), (output, target.to(kind))
    meter = choose_meter("auto", network, batch)
    result = measure(network, [batch], meter)
    assert (meter.name, meter.about[:40]) == ("multi-label", "error and binary cross-entropy of each l")
    z, t = output.double().numpy().ravel(), target.numpy().ravel()
    expected = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * t
    assert result.mean("loss") == pytest.approx(expected.mean(), rel=1e-6)
    assert result.mean("error") == pytest.approx(((z > 0) != t).mean())
    assert result.counts["error"].tolist() == [len(z) / len(output)] * len(output)
    assert result.predictions.tolist() == (z > 0).tolist()


def test_labels_that_are_not_0_and_1_after_all_are_refused_in_a_later_batch():
    data = [(normal(3, 2), torch.zeros(3, 2)), (normal(3, 2), torch.full((3, 2), 2.5))]
    with pytest.raises(DataError, match=r"labels of 0 and 1.*from 2.5 to 2.5.*\"regression\""):
        found(Passing(), data)
    assert found(Passing(), data, "regression").counts["loss"].sum() == 12


@pytest.mark.parametrize("soft", [False, True])
def test_one_hot_and_soft_labels_are_measured_by_cross_entropy(soft):
    x, y = normal(9, 4), whole(4, 9)
    target = nn.functional.one_hot(y, 4).float()
    if soft:
        target = 0.7 * target + 0.3 * target.roll(1, 0)  # mixup
    result = found(Passing(), batches(x, target))
    losses = [
        sum(weight * cross_entropy(row, label) for label, weight in enumerate(weights))
        for row, weights in zip(x.numpy(), target.tolist(), strict=True)
    ]
    np.testing.assert_allclose(result.sums["loss"], losses, rtol=1e-5)
    assert result.sums["error"].tolist() == (x.argmax(1) != y).tolist()
    hard = found(Passing(), batches(x, y))
    assert soft or np.allclose(result.sums["loss"], hard.sums["loss"], rtol=1e-6)


@pytest.mark.parametrize("evaluate", ["auto", "classification", "probabilities"])
@pytest.mark.parametrize("labels", ["whole numbers", "one-hot"])
def test_outputs_that_sum_to_1_are_probabilities_and_no_logits(evaluate, labels):
    x, y = normal(10, 3), whole(3, 10)
    target = y if labels == "whole numbers" else nn.functional.one_hot(y, 3)
    meter = choose_meter(evaluate, nn.Softmax(1), (x, target))
    assert "3 probabilities" in meter.about
    result = measure(nn.Softmax(1).eval(), batches(x, target), meter)
    expected = found(Passing(), batches(x, y))
    np.testing.assert_allclose(result.sums["loss"], expected.sums["loss"], rtol=1e-5)
    assert np.array_equal(result.sums["error"], expected.sums["error"])
    # Logarithms of probabilities are logits.
    assert found(nn.LogSoftmax(1), batches(x, y)).mean("loss") == pytest.approx(expected.mean("loss"), rel=1e-5)


def test_outputs_between_0_and_1_may_be_probabilities_or_logits_which_is_asked():
    x, batch = normal(6), (normal(6), MULTI_HOT[:2].flatten())
    with pytest.raises(OptionError, match="cannot tell logits from probabilities"):
        choose_meter("auto", nn.Sigmoid(), batch)
    probable = found(nn.Sigmoid(), [batch], "probabilities")
    assert probable.mean("loss") == pytest.approx(found(Passing(), [batch]).mean("loss"), rel=1e-5)
    sure = found(Passing(), [(torch.tensor([0.0, 1, 1]), torch.tensor([0.0, 1, 0]))], "probabilities")
    assert sure.sums["loss"].tolist() == [0, 0, 100]  # as PyTorch's BCELoss has it
    logits = found(nn.Sigmoid(), [batch], "multi-label").mean("loss")
    assert logits == pytest.approx(found(Passing(), [(x.sigmoid(), batch[1])], "multi-label").mean("loss"))


def test_an_output_that_is_not_finite_is_wrong_whatever_the_label():
    z, t = torch.tensor([math.nan, math.nan, math.inf, -math.inf]), torch.tensor([0.0, 1, 0, 0])
    result = found(Passing(), [(z, t)], "multi-label")
    assert result.sums["error"].tolist() == [1, 1, 1, 1]
    assert [math.isfinite(loss) for loss in result.sums["loss"]] == [False, False, False, True]


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([x, x], 1), x


def test_one_of_several_outputs_is_chosen_by_its_place():
    data = batches(normal(10, 3), whole(3, 10))
    with pytest.raises(OptionError, match=r'evaluate="classification\[0\]"'):
        choose_meter("auto", Two(), data[0])
    for evaluate in ("auto[1]", "classification[1]"):
        assert "entry 1 of the network's output" in choose_meter(evaluate, Two(), data[0]).about
        assert found(Two(), data, evaluate).mean("loss") == found(Passing(), data).mean("loss")
    with pytest.raises(OptionError, match="unknown evaluation"):
        choose_meter("classification[1", Two(), data[0])


@pytest.mark.parametrize("index", [torch.arange(8, 16), torch.randperm(200)[:40]])
def test_an_index_after_the_label_is_not_taken_for_it(index):
    """Two inputs and a label look the same, but labels do not count up, and not all of them are different."""
    adding = Passing()
    adding.forward = lambda x, extra: x + extra.float()[:, None]
    n = len(index)
    with pytest.raises(OptionError, match="looks like an index"):
        choose_meter("auto", adding, (normal(n, 3).repeat(1, 9), whole(3, n), index))
    assert choose_meter("auto", adding, (normal(n, 3), normal(n), whole(3, n))).name == "classification"


@pytest.mark.parametrize(
    "batch",
    [normal(4, 3), (normal(4, 3),), (normal(4, 3), normal(4)), (normal(4, 3, 2), whole(3, 4)), {"x": normal(4, 3)}],
)
def test_auto_says_what_it_cannot_tell(batch):
    with pytest.raises(OptionError, match=r"cannot tell what to measure: the network gives float32\[4, 3.*evaluate="):
        choose_meter("auto", Passing(), batch)


def test_an_unknown_evaluation_suggests_a_known_one():
    with pytest.raises(OptionError, match="did you mean 'classification'"):
        choose_meter("clasification", Passing(), ())


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        ("classification", (normal(4, 3), normal(4))),
        ("classification", (normal(4, 3), whole(3, 5))),
        ("regression", (normal(4, 3), normal(4))),
        ("tokens", (normal(4, 3), whole(3, 4))),
        ("next-token", (normal(4, 5, 3), whole(3, 4, 6))),
    ],
)
def test_what_does_not_go_together_is_shown_with_shapes(kind, batch):
    with pytest.raises(DataError, match=r"float32\[4, "):
        found(Passing(), [batch], kind)


def test_a_batch_without_a_target_is_shown():
    with pytest.raises(DataError, match=r"no target: \(float32\[4, 3\]\)"):
        found(Passing(), [(normal(4, 3),)], "classification")
    with pytest.raises(DataError, match="neither labels nor input_ids"):
        found(Passing(), [(normal(4, 3, 2),)], "next-token")
