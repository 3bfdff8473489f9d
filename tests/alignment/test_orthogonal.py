"""Rotations of the residual stream: what folding the norms and rotating leave as it is, and that they are found."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.folding import fold_norms
from modeconn.analysis.alignment.orthogonal import match_residual, residual_stream, rotate
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.analysis.alignment.trace import exported, trace


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return x + self.down(torch.nn.functional.gelu(self.up(self.ln2(x))))


class ViT(nn.Module):
    """Patches, a class token, positions, two blocks, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.blocks, self.norm, self.head = (
            nn.Sequential(Block(16, 4), Block(16, 4)),
            nn.LayerNorm(16),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Logits(nn.Module):
    """A language model of Hugging Face, as tensors in and out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        return self.network(ids).logits


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, mlp_bias=True, use_cache=False, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    return Logits(transformers.LlamaForCausalLM(config))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=8, n_embd=16, n_layer=2, n_head=4, use_cache=False, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    return Logits(transformers.GPT2LMHeadModel(config))


NETWORKS = {"llama": llama, "gpt2": gpt2, "vit": ViT}
SLOW = pytest.mark.slow
every = pytest.mark.parametrize("name", ["vit", pytest.param("llama", marks=SLOW), pytest.param("gpt2", marks=SLOW)])


@cache
def case(name, seed=0):
    """A network in float64 whose norms and biases are no defaults, an input, and the folded network."""
    torch.manual_seed(seed)
    network = NETWORKS[name]().double().eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.data = 1 + 0.5 * torch.randn_like(parameter)
    x = torch.randn(2, 3, 8, 8).double() if name == "vit" else torch.arange(10).reshape(2, 5)
    folded = fold_norms(network, (x,))
    program = exported(folded.network, (x,))
    return network, x, folded, residual_stream(symmetry_of(trace(program)), program)


def random_rotation(width, seed=0):
    return torch.from_numpy(ortho_group.rvs(width, random_state=seed))


def computed(network, state, x):
    return torch.func.functional_call(network, state, (x,))


# Hugging Face computes its own RMSNorm, and the rotary embedding, in float32.
TOLERANCE = {"llama": 1e-5, "gpt2": 1e-12, "vit": 1e-12}


@every
def test_folding_leaves_the_function_and_the_original(name):
    network, x, folded, stream = case(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert type(folded.network) is type(network)
    tolerance = TOLERANCE[name]
    torch.testing.assert_close(folded.network(x), network(x), rtol=tolerance, atol=tolerance)
    fold_norms(network, (x,))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert len(folded.norms) == 5
    assert all(not list(folded.network.get_submodule(path).parameters()) for path in folded.norms)
    assert stream.width == 16
    assert stream.scales == ()


@every
def test_a_rotation_leaves_the_function(name):
    _, x, folded, stream = case(name)
    state = folded.network.state_dict()
    turned = rotate(stream, state, random_rotation(16))
    moved = [key for key in state if not torch.equal(state[key], turned[key])]
    assert {key for key, _ in stream.axes} == set(moved)
    torch.testing.assert_close(
        computed(folded.network, turned, x), computed(folded.network, state, x), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("seed", range(3))
@every
def test_a_rotation_is_recovered(name, seed):
    _, _, folded, stream = case(name)
    a, q = folded.network.state_dict(), random_rotation(16, seed)
    b = rotate(stream, a, q)
    found = match_residual(stream, a, b)
    torch.testing.assert_close(found @ found.T, torch.eye(16).double(), rtol=0, atol=1e-12)
    for key, tensor in rotate(stream, b, found).items():
        torch.testing.assert_close(tensor, a[key], rtol=1e-10, atol=1e-10)
    if name == "llama":  # the others have nothing along the mean, so Q is not told there
        torch.testing.assert_close(found, q.T, rtol=1e-10, atol=1e-10)


@every
def test_the_best_rotation_is_not_worse_than_the_best_permutation(name):
    (_, _, one, stream), (_, _, two, _) = case(name), case(name, 1)
    a, b = one.network.state_dict(), two.network.state_dict()

    def score(q):
        return sum(float((a[key] * rotate(stream, b, q)[key]).sum()) for key, _ in stream.axes)

    gain = np.zeros((16, 16))
    for i in range(16):
        for j in range(16):
            gain[i, j] = sum(
                float((a[key].select(axis, i) * b[key].select(axis, j)).sum()) for key, axis in stream.axes
            )
    rows, columns = linear_sum_assignment(gain, maximize=True)
    places = next(
        axis.units[0][1].ravel() for axis in stream.symmetry.tensors[stream.axes[0][0]] if stream.group in axis.groups
    )
    permutation = torch.zeros(16, 16).double()
    permutation[places[rows], places[columns]] = 1
    assert score(permutation) == pytest.approx(gain[rows, columns].sum())
    best = score(match_residual(stream, a, b))
    assert best > score(permutation) > score(torch.eye(16))
    assert all(best >= score(random_rotation(16, seed)) for seed in range(3))


@pytest.mark.slow
def test_a_tied_output_layer_is_untied_in_the_copy():
    network, _, folded, _ = case("gpt2")
    assert folded.untied == ("network.lm_head.weight",)
    assert network.network.lm_head.weight is network.network.transformer.wte.weight
    assert folded.network.network.lm_head.weight is not folded.network.network.transformer.wte.weight
    assert not torch.equal(folded.network.network.lm_head.weight, folded.network.network.transformer.wte.weight)


@pytest.mark.slow
def test_hugging_face_is_told_that_the_copy_is_untied():
    transformers = pytest.importorskip("transformers")
    network, x = gpt2().network.eval(), torch.arange(10).reshape(2, 5)
    folded = fold_norms(network, (x,)).network
    assert isinstance(folded, transformers.GPT2LMHeadModel)
    assert (network.config.tie_word_embeddings, folded.config.tie_word_embeddings) == (True, False)
    torch.testing.assert_close(folded(x).logits, network(x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", pytest.param("llama", marks=SLOW)])
def test_a_stream_with_other_norms_is_refused(name):
    network, x, _, _ = case(name)
    program = exported(network, (x,))
    why = "layer_norm in blocks.0.ln1" if name == "vit" else "pow in network.model.layers.0.input_layernorm"
    with pytest.raises(SymmetryError, match=rf"{why}.*fold_norms"):
        residual_stream(symmetry_of(trace(program)), program)


class Stream(nn.Module):
    """A stream that one layer writes, with something on it."""

    def __init__(self, norm: nn.Module, on: nn.Module | None = None, inputs: int = 3) -> None:
        super().__init__()
        self.write, self.on, self.norm, self.read = nn.Linear(inputs, 8), on or nn.Identity(), norm, nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.on(self.write(x))
        return self.out(self.norm(x + self.read(self.norm(x))))


class Scale(nn.Module):
    """LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def stream_of(network, inputs=3):
    program = exported(network, (torch.randn(2, inputs),))
    return residual_stream(symmetry_of(trace(program)), program)


@pytest.mark.parametrize(
    ("on", "why"), [(nn.ReLU(), "relu in on"), (Scale(), "mul in on"), (nn.BatchNorm1d(8), "batch_norm in on")]
)
def test_what_is_elementwise_on_the_stream_is_named(on, why):
    network = Stream(nn.RMSNorm(8), on)
    with pytest.raises(SymmetryError, match=why):
        stream_of(network)
    with pytest.raises(SymmetryError, match=why):
        fold_norms(network, (torch.randn(2, 3),))


def test_a_norm_with_a_scale_is_refused_by_name():
    network = Stream(nn.RMSNorm(8))
    stream, q = stream_of(network), random_rotation(8)
    assert stream.scales == ("norm.weight",)
    x = torch.randn(2, 3)
    turned = rotate(stream, network.state_dict(), q)
    torch.testing.assert_close(computed(network, turned, x), network(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(SymmetryError, match=r"norm\.weight is not 1"):
        rotate(stream, network.state_dict() | {"norm.weight": torch.full((8,), 2.0)}, q)


class Flipped(nn.Module):
    """A stream that layers and a norm see in the reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.read, self.out = nn.Linear(3, 8), nn.Linear(8, 5), nn.Linear(8, 2)
        self.back = nn.Linear(5, 8)
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.write(x)
        x = x + self.back(self.read(self.one(x.flip(-1))))
        return self.out(self.two(x).flip(-1))


def test_a_stream_in_another_order_is_folded_rotated_and_matched():
    torch.manual_seed(0)
    network, x = Flipped().double(), torch.randn(4, 3).double()
    for norm in (network.one, network.two):
        norm.weight.data, norm.bias.data = torch.randn(8).double(), torch.randn(8).double()
    folded = fold_norms(network, (x,)).network
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    program = exported(folded, (x,))
    stream, a = residual_stream(symmetry_of(trace(program)), program), folded.state_dict()
    b = rotate(stream, a, random_rotation(8))
    torch.testing.assert_close(computed(folded, b, x), folded(x), rtol=1e-10, atol=1e-10)
    for key, tensor in rotate(stream, b, match_residual(stream, a, b)).items():
        torch.testing.assert_close(tensor, a[key], rtol=1e-10, atol=1e-10)


def test_a_weight_that_reads_and_writes_the_stream_does_not_mislead():
    """It is rotated on both sides: not linear in Q, so the others have to tell it."""
    network = Stream(nn.RMSNorm(8), inputs=12)
    stream, a = stream_of(network, 12), {key: one.double() for key, one in network.state_dict().items()}
    assert {("read.weight", 0), ("read.weight", 1)} <= set(stream.axes)
    b = rotate(stream, a, random_rotation(8))
    for key, tensor in rotate(stream, b, match_residual(stream, a, b)).items():
        torch.testing.assert_close(tensor, a[key], rtol=1e-10, atol=1e-10)


class Halved(nn.Module):
    """A stream of which one layer reads a half."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.part, self.out = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.write(x)
        return self.out(x) + self.out(self.part(x[:, :4]))


def test_a_stream_that_is_taken_apart_is_refused():
    with pytest.raises(SymmetryError, match="cannot be rotated"):
        stream_of(Halved())


class PostNorm(nn.Module):
    """What a norm gives is the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.norm, self.read, self.out = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.write(x))
        return self.out(x + self.read(x))


class Bare(nn.Module):
    """A layer that reads the stream without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.norm, self.read, self.out = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.write(x)
        return self.out(x + self.read(self.norm(x)))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (PostNorm(), "add"),
        (Bare(), r"out\.weight reads it without a norm"),
        (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), "tanh in 1"),
        (nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), "no norm on the residual stream"),
        (nn.Sequential(nn.Linear(3, 2)), "without groups"),
    ],
    ids=["post-norm", "bare", "tanh", "no norm", "no group"],
)
def test_norms_that_cannot_be_folded_are_refused(network, why):
    with pytest.raises(SymmetryError, match=why):
        fold_norms(network, (torch.randn(2, 3),))


def test_a_network_that_reads_its_norms_itself_is_refused():
    """PyTorch's encoder layer gives the parameters of its norms to a kernel of its own."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(8), enable_nested_tensor=False)
    with pytest.raises(SymmetryError, match="in other ways than to call them"):
        fold_norms(nn.Sequential(nn.Linear(3, 8), encoder, nn.Linear(8, 2)), (torch.randn(2, 4, 3),))


def test_a_norm_that_is_none_is_not_folded():
    """Of a class that has the name of one, and computes something else (as Gemma's, which adds 1 to its weight)."""

    class OtherRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.randn(8)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    with pytest.raises(SymmetryError, match="square in norm"):
        fold_norms(Stream(OtherRMSNorm()), (torch.randn(2, 3),))


def test_bad_matrices_and_tensors_are_named():
    network = Stream(nn.RMSNorm(8))
    stream, state = stream_of(network), network.state_dict()
    with pytest.raises(SymmetryError, match="orthogonal"):
        rotate(stream, state, torch.ones(8, 8))
    with pytest.raises(SymmetryError, match="orthogonal"):
        rotate(stream, state, torch.eye(7))
    with pytest.raises(SymmetryError, match=r"read\.bias is not finite"):
        match_residual(stream, state, state | {"read.bias": state["read.bias"] * torch.nan})
    with pytest.raises(SymmetryError, match=r"write\.bias is missing"):
        match_residual(stream, {key: state[key] for key in state if key != "write.bias"}, state)
