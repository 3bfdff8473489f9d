"""What the tracer says of a network's tensors before anything is matched."""

import torch
from torch import Tensor, nn

from modeconn.analysis.alignment.trace import exported, trace

WORDS, WIDTH = 300, 8


class Tied(nn.Module):
    """Words in, words out, by one tensor that two modules have; the graph reads it by the second one's name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        """Logits [batch, length, words]."""
        return self.head(self.embedding(words).relu())


def test_a_tied_tensor_is_labelled_as_the_one_of_its_names_that_is_used() -> None:
    program = exported(Tied().eval(), (torch.zeros(2, 4, dtype=torch.long),))
    unused = [node for node in program.graph.nodes if node.op == "placeholder" and not node.users]
    assert len(unused) == 1  # as of GPT-2: read by itself it would be a stack of vectors, each with units of its own
    traced = trace(program)
    (first, second) = (traced.parameters[f"{name}.weight"] for name in ("embedding", "head"))
    assert first is second
    assert [part.atoms.size for part in first.parts] == [WORDS, WIDTH]
