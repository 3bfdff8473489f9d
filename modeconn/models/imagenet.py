"""torchvision's ResNet-50 and Inception-v3, without pretrained weights."""

from collections.abc import Callable

from torch import nn

from modeconn.models.layers import NORMS


def build(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    norm: Callable[[int], nn.Module],
    dropout: float,
) -> nn.Module:
    """The network as torchvision defines it; Inception-v3 with its auxiliary classifier."""
    import torchvision  # seconds, which other networks need not wait for

    if width != 1 or norm is not NORMS["batch"]:
        raise ValueError("torchvision defines this network; width and norm cannot be changed")
    if name == "resnet50":
        return torchvision.models.resnet50(num_classes=classes)
    if min(input_shape[1:]) < 75:
        raise ValueError(f"images must be at least 75 pixels wide and high; got {input_shape[1]}x{input_shape[2]}")
    return torchvision.models.inception_v3(num_classes=classes, init_weights=True, transform_input=False)
