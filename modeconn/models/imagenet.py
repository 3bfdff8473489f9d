"""torchvision's ResNet-50 and Inception-v3, without pretrained weights."""

from torch import nn

from modeconn.models.layers import Architecture


def build(name: str, wanted: Architecture) -> nn.Module:
    """The network as torchvision defines it; Inception-v3 with its auxiliary classifier."""
    import torchvision  # seconds, which other networks need not wait for

    if wanted.width != 1 or wanted.norm != "batch":
        raise ValueError("torchvision defines this network; width and norm cannot be changed")
    if name == "resnet50":
        return torchvision.models.resnet50(num_classes=wanted.classes)
    if min(wanted.input_shape[1:]) < 75:
        raise ValueError(f"images must be at least 75 pixels wide and high; got {wanted.image_size}")
    return torchvision.models.inception_v3(num_classes=wanted.classes, init_weights=True, transform_input=False)
