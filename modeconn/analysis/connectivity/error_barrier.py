"""`error_barrier(a, b, data)`: how high the error rises on the linear path between two networks, anyone's."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.connectivity.aligning import aligned_comparison, check_method
from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison, open_comparison
from modeconn.analysis.connectivity.curve import MeasuredPath, measure_path, report_points
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.connectivity.predictions import check_predictions, measure_predictions
from modeconn.analysis.paths.alphas import Alphas, choose_alphas
from modeconn.analysis.paths.linear import Line
from modeconn.analysis.paths.threshold import check_decide, decide_by_sampling
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.metric_objects import Metric
from modeconn.progress import Progress, Report, silent, with_progress


@with_progress
def error_barrier(
    a: Source,
    b: Source,
    data: Any = None,
    *,
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    evaluate: str | Callable[..., Any] | Metric = "auto",
    higher_is_better: bool | Collection[str] = (),
    alphas: int | str | Sequence[float] = 31,
    tolerance: float = 0.001,
    extrapolate: bool = False,
    decide: float | None = None,
    error_probability: float = 0.001,
    predictions: bool = False,
    align: str | Alignment | None = None,
    batchnorm: str = "interpolate",
    calibration: Any = None,
    calibration_batches: int | None = None,
    repair_layers: str | Sequence[str] = "auto",
    device: str | torch.device = "auto",
    precision: str = "float32",
    batch_size: int = BATCH,
    data_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
    checkpoint_key: str | None = None,
    adapter: str = "products",
    report: Report = silent,
    progress: bool = False,
) -> Barrier:
    """Interpolate linearly between two networks' weights and measure how high the error rises on the way.

    With e(alpha) the error of the weights (1 - alpha) a + alpha b, the result holds both definitions: the barrier, max
    over alpha of e(alpha) - (e(0) + e(1)) / 2 (Frankle et al. 2020, section 2), and the chord barrier, max over alpha
    of e(alpha) - (1 - alpha) e(0) - alpha e(1) (Entezari et al. 2022, definition 3.1). The ends are `a` and `b`
    themselves, evaluated once. Nothing of the caller's changes: weights, modes, gradients, buffers, random generators.
    The networks are read by their effective weights where they are pruned (`torch.nn.utils.prune`) or parametrized, and
    tensors are interpolated in at least float32.

    Args:
        a, b: networks: modules; state dicts; files (`.safetensors`, `.pt`, `.pth`, `.ckpt`), Hugging Face folders or
            folders of LoRA adapters, which are read tensor by tensor and never unpickled; or stored runs of
            `modeconn.train`, or their folders.
        data: what errors are measured on: a `DataLoader`, a `Dataset`, a tuple of tensors `(inputs, targets)`, any
            iterable of batches (tuples, mappings), or what `modeconn.load_data` gives or its name: of a data set the
            test split, or a split itself. None, `"test"` or `"train"` for stored runs, which know their own.
        model: the architecture, if neither `a` nor `b` is a module: a module, or a function that makes one. For folders
            of stored runs whose network is imported, its `"package.module:function"`, which is your word that this code
            may be run.
        evaluate: `"classification"` (error, cross-entropy in nats; labels may be one-hot or soft), `"multi-label"`
            (error and binary cross-entropy per label of 0 or 1; also of a single logit), `"probabilities"` (the same
            two for outputs that are no logits), `"regression"` (squared error), `"tokens"` or `"next-token"` (error
            and cross-entropy per token, perplexity; positions labelled -100 do not count), `"auto"` for what output
            and target suggest, or a function of `(network, batch)` that gives `{name: (sum, count)}`: numbers, or
            vectors with one entry per example. `"classification[1]"` is that of entry 1 of the network's output. An
            object with `update(output, target)`, `compute` and `reset`, such as those of torchmetrics, for metrics
            that are no means over examples (F1, AUROC): it is given all batches, and has no interval.
        higher_is_better: which of your own metrics fall where the path is bad: True for all, or their names. Those
            called accuracy, F1, AUC and the like are taken for such, with a note; False for none.
        alphas: how many points, ends included; a list of them; `"paper"` for the 30 of Frankle et al. 2020; or
            `"adaptive"`: those among the default's 31 where the first metric may be highest, for less than 12 passes
            over the data instead of 31. An eighth of the examples, drawn at random, screens the 31; at most 8 are
            counted, over all examples, and only they are in the result. Its barrier is never above that of
            all 31, and mostly within `tolerance` of it: a flat or jagged top, or a bump of a few examples, can be
            missed by more, and where the 8 did not suffice a note says so. Barriers of other metrics are of
            these alphas alone. They are chosen by a quarter of the examples, and the interval and the cross-fitted
            barrier are of the others. Fewer than 1,000 examples are counted at all 31.
        tolerance: of adaptive alphas, in the unit of the first metric (0.001 is 0.1 points of error): what is not worth
            counting another alpha.
        extrapolate: allow alphas outside [0, 1]; barriers are of [0, 1] alone.
        decide: a threshold: ask only whether the error barrier is above it (0.02 is 2 points). Examples are drawn in a
            fixed random order until a sequential test (`modeconn.analysis.paths.sequential`) has decided, and the
            result's `decided` says what, and from how many; its `barrier` and all other values are then estimates.
            None for the full count.
        error_probability: of that decision: how probably the full count would say the other, at most.
        predictions: also compare what is predicted along the path, of classes or tokens: the loss with the best
            temperature, the expected calibration error, the Kullback-Leibler divergence from each end's predictions and
            the disagreement with them, and error and loss of the *ensemble* of the ends, their averaged probabilities,
            at every alpha; see `modeconn.analysis.connectivity.predictions_result.Predictions`. Both ends are then in
            memory beside the network between, with their predictions: of batches beyond 1 GiB of these they are
            computed anew at every alpha. Not with adaptive alphas or `decide`.
        align: also measure the path from `a` to `b` with its units permuted so that it is most like `a`: the result is
            about that path, and its `unaligned` is what the plain path gives. The method of `modeconn.align`
            (`"weights"`, `"activations"`, `"straight-through"`), or what `modeconn.align` gave. Methods that look at
            data take `calibration`, or else the data that errors are measured on, with a note. Running statistics of
            BatchNorm do not fit after alignment: take `batchnorm="recalibrate"` or `"repair"`.
        batchnorm: what happens to BatchNorm's running statistics on the path: `"interpolate"` them like weights,
            `"recalibrate"` them on `calibration` data at every alpha, ends included; or `"repair"`: between the ends,
            rescale every channel of `repair_layers`, with or without BatchNorm, to the interpolated mean and standard
            deviation of the ends' (Jordan et al. 2022).
        calibration: training data for that, in the form of `data`, of a data set the training split; targets are not
            looked at. Stored runs have theirs, and a data set in `data` has its training split.
        calibration_batches: how many of its batches to take; all if None.
        repair_layers: what REPAIR rescales, as a list: `"layers"`, hidden convolution, linear and BatchNorm layers;
            `"blocks"`, the outputs of residual blocks, modules that add two tensors of one shape; `"output"`, the
            output layer. `"auto"` for what its authors do: with residual blocks of convolutions (ResNet) layers and
            blocks, in networks of linear layers alone (MLP) layers and output, in all others layers.
            A note counts them.
        device: where to compute; `"auto"` for where the first module is, or a GPU for files, if there is one.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        batch_size: for data that are not in batches.
        data_dir: folder of data sets, for names of them and for folders of stored runs.
        names: what to call the two.
        checkpoint_key: where checkpoints have several state dicts, which to read: `"state_dict_ema"`, `"model_ema"`.
        adapter: of LoRA adapters, what is interpolated: `"products"`, W0 + scale B A, which is the path between the
            merged networks; or `"factors"`, A and B apart. The paths have the same ends.
        report: called after every point with how far the path is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is measured; it is named.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> labels = (inputs[:, 0] > 0).long()
    >>> net_a, net_b = nn.Linear(4, 2), nn.Linear(4, 2)
    >>> result = error_barrier(net_a, net_b, (inputs, labels))
    >>> result.alphas.shape, result.error.shape, min(result.barrier, result.chord_barrier) >= 0
    ((31,), (31,), True)

    Two networks that differ by the order of their hidden units alone:

    >>> net_a, net_b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    >>> order = torch.randperm(8)
    >>> with torch.no_grad():
    ...     for name in ("0.weight", "0.bias"):
    ...         _ = net_b.get_parameter(name).copy_(net_a.get_parameter(name)[order])
    ...     _ = net_b[2].weight.copy_(net_a[2].weight[:, order])
    ...     _ = net_b[2].bias.copy_(net_a[2].bias)
    >>> result = error_barrier(net_a, net_b, (inputs, labels), align="weights")
    >>> result.barrier, result.unaligned.heights("loss").barrier > 0
    (0.0, True)
    """
    chosen = choose_alphas(alphas, tolerance, extrapolate=extrapolate)
    if decide is not None:
        check_decide(decide, error_probability, chosen, batchnorm, higher_is_better)
    if predictions:
        check_predictions(chosen, decide)
    check_method(align, Alignment, "modeconn.align")
    options = ComparisonOptions(
        model=model, evaluate=evaluate, batchnorm=batchnorm, calibration=calibration,
        calibration_batches=calibration_batches, repair_layers=repair_layers, device=device, precision=precision,
        batch_size=batch_size, data_dir=data_dir, names=names, checkpoint_key=checkpoint_key, adapter=adapter,
    )  # fmt: skip
    if align is not None:
        refuse_factors(adapter, "alignment")
    points = len(chosen.points) if align is None else 2 * len(chosen.points)
    point_done = report_points(report, points)

    def measure(comparison: Comparison) -> Barrier:
        line = comparison.line(0, 1)
        if decide is not None:
            return _decide(comparison, line, chosen, decide, error_probability, report)
        if predictions:
            return measure_predictions(comparison, line, chosen, higher_is_better, point_done)
        return measure_path(comparison, line, chosen, higher_is_better, point_done).barrier()

    with open_comparison([a, b], data, options) as comparison:
        if align is None:
            return measure(comparison)
        aligned = aligned_comparison(comparison, align, options)  # first, so that what does not fit is said at once
        unaligned = measure(comparison)
        return replace(measure(aligned), unaligned=unaligned)


def _decide(
    comparison: Comparison, line: Line, alphas: Alphas, threshold: float, error_probability: float, report: Report
) -> Barrier:
    """Decide whether the barrier is above a threshold, from as few examples as that takes."""
    measured, decided = decide_by_sampling(
        comparison.evaluator,
        line,
        SPLIT,
        alphas.points,
        threshold,
        error_probability,
        lambda drawn, examples: report(Progress.counted(drawn, examples, "examples")),
    )
    estimates = "it was only asked whether the barrier is above a threshold: all values are estimates"
    path = MeasuredPath(comparison.noting(estimates, **alphas.settings), line, measured)
    result = path.barrier()
    # A sum over the examples that were drawn stands for one over all.
    of_all = result.ends.loss_l2 * math.sqrt(decided.examples / decided.drawn)
    return replace(result, decided=decided, ends=replace(result.ends, loss_l2=of_all))
