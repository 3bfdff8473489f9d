"""Where the time of a training step goes on a CPU: by kind of operator, and what part of its floor each reaches.

    python -m benchmarks.profile_step cifar10-resnet20 --precision float32 --data-dir DIR

One thread. The seconds of a step are CPU time, without the profiler; PyTorch's profiler says how they are divided, by
what an operator takes outside of those that it calls. The floor is what a part's multiplications and additions take at
the rate of square matrix products in the same precision, measured in the same run.
"""

import argparse
import time
from collections.abc import Mapping, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import floor, ours

FORWARD, BACKWARD = "products, forward", "products, backward"
_KINDS = {
    FORWARD: "mkldnn_convolution thnn_conv2d _slow_conv2d_forward addmm",
    BACKWARD: "convolution_backward mkldnn_convolution_backward _slow_conv2d_backward mm",
    "BatchNorm": "native_batch_norm native_batch_norm_backward",
    "ReLU": "relu relu_ clamp_min clamp_min_ threshold_backward",
    "addition": "add add_",
    "pooling": "mean div max_pool2d_with_indices max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward",
    "loss": "_log_softmax _log_softmax_backward_data nll_loss_forward nll_loss_backward",
    "optimizer": "_fused_sgd_ _fused_adam_ _fused_adamw_ _foreach_add_ _foreach_mul_",
    "batch": "index index_select addcmul where",
    "copies and conversions": "copy_ _to_copy clone contiguous",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_OTHER = "other"
_SIZE, _SECONDS = 1024, 2.0  # of the matrix products whose rate is the floor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_step", description="Where a step's time goes.")
    parser.add_argument("task", help="cifar10-resnet20 or mnist-lenet")
    parser.add_argument("--precision", default="float32", help="float32 (the default) or bfloat16")
    parser.add_argument("--iterations", type=int, default=20, metavar="N", help="that are measured (default: 20)")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="folder with cifar10.npz and mnist.npz")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rate = rate_of_products(options.precision, _SECONDS)
    seconds, images = seconds_by_operator(options.task, options.precision, options.iterations, options.data_dir)
    per_image = floor.operations_by_operator(options.task, options.precision, batch=2)
    print(f"{options.task}, {options.precision}, {images:,.0f} images; products at {rate / 1e9:.1f} GFLOP/s")
    print(markdown(seconds, {name: count * images for name, count in per_image.items()}, rate, options.iterations))


def rate_of_products(precision: str, seconds: float) -> float:
    """Operations of square matrix products in a second of CPU time."""
    measure = floor.matrix_products(0, precision, _SIZE, seconds)
    begin = time.process_time()
    work: float = measure()["work"]
    return work / (time.process_time() - begin)


def seconds_by_operator(task: str, precision: str, iterations: int, data_dir: str) -> tuple[dict[str, float], float]:
    """CPU time of so many iterations, divided among operators by their names; and how many images these are."""
    measure = ours.train(0, task, iterations, data_dir, precision)
    begin = time.process_time()
    images: float = measure()["work"]
    took = time.process_time() - begin
    with profile(activities=[ProfilerActivity.CPU]) as found:
        measure()
    own: dict[str, float] = {}
    for event in found.key_averages():
        name = event.key.removeprefix("aten::")
        own[name] = own.get(name, 0.0) + event.self_cpu_time_total
    total = sum(own.values())
    return {name: took * part / total for name, part in own.items()}, images


def markdown(seconds: Mapping[str, float], operations: Mapping[str, float], rate: float, iterations: int) -> str:
    """The table, from the seconds and the operations of multiplying by operator.

    Args:
        seconds: of all iterations, by operator.
        operations: multiplications and additions of all iterations, by operator.
        rate: operations in a second at the floor.
        iterations: how many there were.
    """
    of_kind, floors = _sums(seconds), {kind: count / rate for kind, count in _sums(operations).items()}
    total = sum(of_kind.values())
    lines = ["| part | ms a step | of the step | of matrix products |", "| --- | --- | --- | --- |"]
    for kind in (*_KINDS, _OTHER):
        if took := of_kind.get(kind, 0.0):
            reached = f"{floors[kind] / took:.0%}" if kind in floors else ""
            lines.append(f"| {kind} | {1e3 * took / iterations:.2f} | {took / total:.1%} | {reached} |")
    whole = sum(floors.values()) / total
    return "\n".join([*lines, f"| all | {1e3 * total / iterations:.2f} | 100.0% | {whole:.0%} |"])


def _sums(values: Mapping[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, value in values.items():
        kind = _KIND_OF.get(name, _OTHER)
        sums[kind] = sums.get(kind, 0.0) + value
    return sums


if __name__ == "__main__":
    main()
