"""The one list of anyone's networks that measurements between networks run over."""

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from modeconn.models import build_network

EXAMPLES = 16  # batches of 7 leave 2
CLASSES = 4
IGNORED = -100

Batch = tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Network:
    """Somebody's architecture, with data for it.

    Attributes:
        build: makes one from PyTorch's random state.
        data: EXAMPLES examples, as a tuple or a dict of tensors.
        kind: what error_barrier measures if it is not told: classification, regression, tokens, next-token; or own.
        evaluate: what error_barrier is told.
        call: the network's output on a batch, as its author would write it.
        plain: a network of the same function, without masks and parametrizations.
        batchwise: how far sums may depend on the batch size, relatively; more for half precision.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Batch
    kind: str = "classification"
    evaluate: str | Callable[..., Any] = "auto"
    call: Callable[[nn.Module, Any], Tensor] = lambda network, batch: network(*batch[:-1])
    plain: Callable[[nn.Module], nn.Module] = copy.deepcopy
    batchwise: float = 1e-5

    def network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def pair(self) -> tuple[nn.Module, nn.Module]:
        return self.network(1), self.network(2)

    def batches(self, size: int = 7) -> list[Batch]:
        return [at(self.data, torch.arange(EXAMPLES)[start : start + size]) for start in range(0, EXAMPLES, size)]


def at(batch: Batch, where: Any) -> Batch:
    """Some examples of a batch; by indices it is a copy, whose place in memory is that of any new tensor."""
    if isinstance(batch, dict):
        return {name: tensor[where] for name, tensor in batch.items()}
    return tuple(tensor[where] for tensor in batch)


# --- networks


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def with_statistics(network: nn.Module) -> nn.Module:
    """Running statistics of BatchNorm as if it had been trained."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            layer.num_batches_tracked.fill_(int(torch.randint(1, 99, ())))
    return network


def _batchnorm() -> nn.Module:
    return with_statistics(
        nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
        )
    )


def _resnet20() -> nn.Module:
    seed = int(torch.randint(2**31, ()))
    return with_statistics(build_network("resnet-20", (3, 8, 8), CLASSES, seed=seed))


class Attention(nn.Module):
    """A transformer's layer, which PyTorch evaluates by code of its own, and a class token: a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.layer(x)[:, 0]))


class Tied(nn.Module):
    """A language model whose output matrix is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)))


class Complex(nn.Module):
    """Complex parameters, and complex, integer, boolean and unsaved buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, CLASSES, dtype=torch.complex64))
        self.bare = nn.Parameter(torch.randn(()))
        self.register_buffer("phase", torch.randn(CLASSES, dtype=torch.complex64))
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("on", torch.tensor([True, True, False, True, True, True]))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))  # as causal masks are
        self.register_buffer("factor", torch.tensor(0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return ((x * self.on).to(self.weight.dtype) @ self.weight * self.phase)[:, self.order].abs() * self.factor + (
            self.bare * x[:, :1]
        )


class Named(nn.Module):
    """Takes a dict's entries by name and gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _mlp()

    def forward(self, *, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.layers(image * scale[:, None])
        return {"hidden": hidden[:1], "logits": hidden}


class Two(nn.Module):
    """Compares two inputs by one network that it calls twice, and writes to the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Bilinear(8, 8, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.body(x.sub_(1)), self.body(y))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, CLASSES))


def _channels_last() -> nn.Module:
    return _batchnorm().to(memory_format=torch.channels_last)


def _pruned() -> nn.Module:
    network = _mlp()
    prune.l1_unstructured(network[0], "weight", amount=0.5)
    prune.random_unstructured(network[2], "weight", amount=0.3)
    prune.l1_unstructured(network[2], "weight", amount=0.3)
    prune.random_unstructured(network[2], "bias", amount=0.3)
    return network


def _unpruned(network: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        plain = _mlp()
    state = network.state_dict()
    for name in plain.state_dict():
        if f"{name}_orig" in state:
            state[name] = state.pop(f"{name}_orig") * state.pop(f"{name}_mask")
    plain.load_state_dict(state)
    return plain


def _weight_norm() -> nn.Module:
    network = _mlp()
    for layer in (network[0], network[2]):
        nn.init.normal_(parametrizations.weight_norm(layer).parametrizations.weight.original0)
    return network


def _without_weight_norm(network: nn.Module) -> nn.Module:
    plain: Any = copy.deepcopy(network)
    for layer in (plain[0], plain[2]):
        with torch.no_grad():
            weight = layer.weight.clone()
        layer.__class__ = nn.Linear  # torch's own removal would also break the network that was copied
        del layer._modules["parametrizations"]
        layer.weight = nn.Parameter(weight)
    assert not any(map(parametrize.is_parametrized, plain.modules()))
    return plain


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def _bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=13,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=CLASSES,
    )


def _bert() -> nn.Module:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(_bert_config())


def _masked_bert() -> nn.Module:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(_bert_config())


def _timm() -> nn.Module:
    import timm

    network = timm.create_model("test_vit", img_size=32, num_classes=CLASSES)
    nn.init.normal_(network.pos_embed)
    return network


def _torchvision() -> nn.Module:
    import torchvision

    return torchvision.models.squeezenet1_1(num_classes=CLASSES)


def quantised() -> nn.Module:
    """Not in the list: there is no path between its weights."""
    dynamic = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch means to move it to another package
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), dynamic.Linear(12, CLASSES))


# --- data


def _draw(*shape: int) -> Tensor:
    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def _below(high: int, *shape: int) -> Tensor:
    return torch.randint(high, (EXAMPLES, *shape), generator=torch.Generator().manual_seed(high))


def _text() -> dict[str, Tensor]:
    """Sequences of 4 to 8 of 13 tokens, padded."""
    tokens = _below(13, 8)
    mask = (torch.arange(8) < 4 + torch.arange(EXAMPLES)[:, None] % 5).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


def _next_tokens() -> dict[str, Tensor]:
    text = _text()
    return text | {"labels": text["input_ids"].masked_fill(text["attention_mask"] == 0, IGNORED)}


def _masked_tokens() -> dict[str, Tensor]:
    text = _text()
    hidden = (_below(3, 8) == 0) & (text["attention_mask"] == 1)
    hidden[5] = False  # nothing counts in this example
    return text | {
        "input_ids": text["input_ids"].masked_fill(hidden, 1),
        "labels": text["input_ids"].masked_fill(~hidden, IGNORED),
    }


def _of_huggingface(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def reconstruction(network: nn.Module, batch: tuple[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What an autoencoder's author measures: an error per example, and a norm over everything."""
    found = network(batch[0])
    squares = (found - batch[0]).square().sum(1)
    return {"reconstruction": (squares, torch.full_like(squares, 6)), "size": (found.abs().sum(1), 1)}


_VECTORS = (_draw(6), _below(CLASSES))
_IMAGES = (_draw(3, 8, 8), _below(CLASSES))
_LARGE_IMAGES = (_draw(3, 32, 32), _below(CLASSES))

NETWORKS = (
    Network("mlp", _mlp, _VECTORS),
    Network("batchnorm", _batchnorm, _IMAGES),
    Network("channels last", _channels_last, _IMAGES),
    Network("resnet-20", _resnet20, _IMAGES),
    Network("layernorm", Attention, (_draw(5, 8), _below(CLASSES))),
    Network("tied", Tied, (_below(11, 5), _below(11, 5).flip(1)), kind="tokens"),
    Network("complex", Complex, _VECTORS),
    Network("float16", lambda: _mlp().half(), (_VECTORS[0].half(), _VECTORS[1]), batchwise=3e-3),
    Network(
        "bfloat16",
        lambda: _mlp().bfloat16(),
        _VECTORS,
        call=lambda network, batch: network(batch[0].bfloat16()),
        batchwise=3e-2,
    ),
    Network("float64", lambda: _mlp().double(), (_VECTORS[0].double(), _VECTORS[1])),
    Network("dropout", _dropout, _VECTORS),
    Network("recurrent", Recurrent, (_draw(5, 8), _below(CLASSES))),
    Network(
        "dict batches",
        Named,
        {"image": _draw(6), "scale": _draw().abs(), "label": _below(CLASSES)},
        call=lambda network, batch: network(image=batch["image"], scale=batch["scale"])["logits"],
    ),
    Network("two inputs", Two, (_draw(6), _draw(6).flip(0), _below(CLASSES))),
    Network("regression", _mlp, (_draw(6), _draw(CLASSES)), kind="regression"),
    Network(
        "own measure",
        lambda: nn.Linear(6, 6),
        (_draw(6),),
        kind="own",
        evaluate=reconstruction,
        call=lambda network, batch: network(batch[0]),
    ),
    Network("pruned", _pruned, _VECTORS, plain=_unpruned),
    Network("weight norm", _weight_norm, _VECTORS, plain=_without_weight_norm),
    Network("gpt-2", _gpt2, _next_tokens(), kind="next-token", call=_of_huggingface),
    Network("bert", _bert, _text() | {"labels": _below(CLASSES)}, call=_of_huggingface),
    Network("masked bert", _masked_bert, _masked_tokens(), kind="tokens", call=_of_huggingface),
    Network("timm", _timm, _LARGE_IMAGES),
    Network("torchvision", _torchvision, _LARGE_IMAGES),
)
CORE = ("mlp", "batchnorm", "tied", "dict batches")  # in the inner loop; all others are in the full suite
each_network = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.name in CORE else pytest.mark.slow) for case in NETWORKS],
)
by_name = functools.cache(lambda name: next(case for case in NETWORKS if case.name == name))
