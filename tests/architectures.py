"""Small networks of many architectures, each with an input and the groups of units that it has by a look at it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from modeconn.models import build_network


@dataclass(frozen=True)
class Architecture:
    """A network, what it is called with, and its groups.

    Attributes:
        make: builds it.
        example: what it is called with.
        groups: of each the number of units and how many are in one block, sorted; None where nobody counted them.
        rough: whether it computes in float32 inside, so that orders of sums show in its output.
    """

    make: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    groups: tuple[tuple[int, int], ...] | None = None
    rough: bool = False


class Residual(nn.Module):
    """Two residual blocks of linear layers on one stream, with a skip by concatenation at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.inner = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))
        self.outer = nn.ModuleList(nn.Linear(6, 8) for _ in range(2))
        self.head = nn.Linear(8 + 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [batch, 5]."""
        stream = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            stream = stream + outer(torch.tanh(inner(stream)))
        return self.head(torch.cat([stream, x], dim=1))


class Experts(nn.Module):
    """A dense mixture of experts whose weights are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 3)
        self.up, self.bias = nn.Parameter(torch.randn(4, 12, 10)), nn.Parameter(torch.randn(4, 10))
        self.down = nn.Parameter(torch.randn(4, 10, 12))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [batch, 6]."""
        x = torch.tanh(self.stem(x))
        share = self.router(x).softmax(-1)
        hidden = torch.relu(torch.einsum("bd,edf->bef", x, self.up) + self.bias)
        given = torch.einsum("bef,efd->bed", hidden, self.down)
        return self.head(x + (share[..., None] * given).sum(1))


class Grouped(nn.Module):
    """Groups of a norm inside the groups of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.second, self.head = nn.Conv2d(16, 8, 3, groups=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [batch, 3, height, width]."""
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


class Halves(nn.Module):
    """Two halves of one layer that go through different nonlinearities: they may not be mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [batch, 4]."""
        one, other = self.wide(x).chunk(2, dim=1)
        return self.head(torch.cat([torch.relu(one), torch.tanh(other)], dim=1))


class Tied(nn.Module):
    """A language model of one layer whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.back = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens [batch, length]."""
        x = self.embedding(tokens)
        return self.out(x + self.back(torch.relu(self.hidden(x))))


class Logits(nn.Module):
    """A Hugging Face network with its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """Logits of tokens or images."""
        return self.network(x).logits


def mlp() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3))


def flattened() -> nn.Module:
    """Channels that are flattened with the pixels before a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 3)
    )


def _features(many: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(4, many)


def _images(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, size, size)


def _tokens() -> Tensor:
    return torch.randint(0, 50, (2, 7))


def _hugging_face(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    small = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if "ViT" in kind:
        small = {}
    return lambda: Logits(getattr(transformers, kind)(getattr(transformers, config)(**small, **options)))


_BERT = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 40}
_HEADS = ((3, 3), (24, 8), (24, 8), (24, 24), (40, 40))  # heads, what is inside them twice, the stream, the MLP

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(mlp, lambda: torch.randn(4, 3, 4), ((8, 8), (9, 9))),
    "flattened": Architecture(flattened, _images(8), ((6, 6),)),
    "residual": Architecture(Residual, _features(5), ((6, 6), (6, 6), (8, 8))),
    "experts": Architecture(Experts, _features(6), ((4, 4), (12, 12), (40, 10))),
    "grouped": Architecture(Grouped, _images(8), ((2, 2), (4, 2), (8, 4), (16, 4))),
    "halves": Architecture(Halves, _features(4), ((6, 6), (6, 6))),
    "tied": Architecture(Tied, lambda: torch.randint(0, 20, (2, 5)), ((8, 8), (16, 16))),
    "bert": Architecture(
        _hugging_face("BertForSequenceClassification", "BertConfig", **_BERT),
        _tokens,
        (*_HEADS[:3], (24, 24), (24, 24), (40, 40)),  # the pooler is the further one
    ),
    "vit": Architecture(
        _hugging_face("ViTForImageClassification", "ViTConfig", image_size=16, patch_size=8, **_BERT),
        _images(16),
        _HEADS,
    ),
    "gpt2": Architecture(
        _hugging_face("GPT2LMHeadModel", "GPT2Config", n_embd=24, n_head=3, n_layer=1, n_inner=40, n_positions=16),
        _tokens,
        _HEADS,
    ),
    # Rotary embeddings pin what is inside the heads of queries and keys; values stay free there.
    "llama": Architecture(
        _hugging_face("LlamaForCausalLM", "LlamaConfig", **{**_BERT, "num_attention_heads": 6}, num_key_value_heads=2),
        _tokens,
        ((2, 2), (6, 3), (8, 4), (24, 24), (40, 40)),
        rough=True,
    ),
    "encoder": Architecture(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1, enable_nested_tensor=False
        ),
        lambda: torch.randn(2, 5, 16),
        ((4, 4), (16, 4), (16, 4), (32, 32)),
    ),
    "resnet10": Architecture(
        lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
        _images(32),
        ((64, 64), (64, 64), (128, 128), (128, 128), (256, 256), (256, 256), (512, 512), (512, 512)),
    ),
    "resnet20": Architecture(
        lambda: build_network("resnet-20", (3, 16, 16), 10, seed=0, width=0.5),
        _images(16),
        ((8, 8),) * 4 + ((16, 16),) * 4 + ((32, 32),) * 4,  # the stream, and inside three blocks
    ),
    "vgg": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 10),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(10, 3),
        ),
        _images(8),
        ((8, 8), (10, 10), (12, 12)),
    ),
    "mobilenetv3": Architecture(lambda: timm.create_model("mobilenetv3_small_050", num_classes=3), _images(32)),
    "convnext": Architecture(lambda: timm.create_model("convnext_atto", num_classes=3), _images(32)),
}
# Larger ones, whose weights are only permuted.
LARGE: dict[str, Architecture] = {
    "torchvision resnet18": Architecture(torchvision.models.resnet18, _images(32)),
    "torchvision mobilenet_v3_small": Architecture(torchvision.models.mobilenet_v3_small, _images(32)),
    "torchvision resnext50": Architecture(torchvision.models.resnext50_32x4d, _images(32)),
    "torchvision densenet121": Architecture(torchvision.models.densenet121, _images(32)),
    "torchvision shufflenet": Architecture(torchvision.models.shufflenet_v2_x0_5, _images(32)),
    "torchvision convnext_tiny": Architecture(torchvision.models.convnext_tiny, _images(32)),
    "torchvision vit_b_16": Architecture(lambda: torchvision.models.vit_b_16(image_size=32), _images(32)),
    "torchvision swin_t": Architecture(torchvision.models.swin_t, _images(32)),
    "timm vit_tiny": Architecture(lambda: timm.create_model("vit_tiny_patch16_224", img_size=32), _images(32)),
}


def randomized(network: nn.Module) -> nn.Module:
    """A network in double precision and evaluation mode with nothing at its initial value: no norm is the identity."""
    network = network.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.parameters():
            scale = float(tensor.std()) if tensor.numel() > 1 and float(tensor.std()) > 0 else 0.3
            tensor += 0.5 * scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in network.named_buffers():
            if name.endswith("running_mean"):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            elif name.endswith("running_var"):
                tensor *= 1 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    return network
