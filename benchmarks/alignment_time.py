"""How long alignment takes on the shapes of large networks: the graph, the groups, one order of weight matching.

    python -m benchmarks.alignment_time [NAME ...]

Networks are initialised at random, on one thread. Seconds by the clock, beside those of one product of two square
matrices of 4096, so that machines can be compared.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.analysis.alignment.weight_matching import match_weights


def _gpt2() -> tuple[nn.Module, Tensor]:
    import transformers

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.network(tokens).logits

    return Logits(), torch.zeros(2, 8, dtype=torch.long)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp 3 x 512": lambda: (
        nn.Sequential(
            *(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
        ),
        torch.zeros(2, 784),
    ),
    "resnet50": lambda: (torchvision.models.resnet50(), torch.zeros(2, 3, 64, 64)),
    "gpt2 small": _gpt2,
}


def measure(name: str) -> dict[str, Any]:
    """Seconds of each step for one network."""
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    other, _ = NETWORKS[name]()
    marks = [time.perf_counter()]
    program = exported(network, (example,))
    marks.append(time.perf_counter())
    symmetry = symmetry_of(trace(program))
    marks.append(time.perf_counter())
    a, b = ({key: tensor.detach() for key, tensor in one.named_parameters()} for one in (network, other))
    match = match_weights(symmetry, a, b, tries=1)
    marks.append(time.perf_counter())
    one = torch.randn(4096, 4096)
    one @ one
    begun = time.perf_counter()
    one @ one
    product = time.perf_counter() - begun
    export, groups, matching = (round(end - start, 2) for start, end in pairwise(marks))
    return {
        "network": name,
        "parameters": sum(tensor.numel() for tensor in a.values()),
        "groups": len(symmetry.groups),
        "units": sum(group.size for group in symmetry.groups),
        "export": export,
        "find groups": groups,
        "match, one order": matching,
        "passes": match.passes,
        "product of 4096": round(product, 2),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for asked in sys.argv[1:] or NETWORKS:
        print(json.dumps(measure(asked)), flush=True)
