"""Both studies around a PyTorch Lightning `Trainer`: instability, and lottery tickets.

    pip install lightning
    python examples/lightning_loop.py

`train` lets a Trainer do the iterations that it is asked for. The seed draws its data order and dropout, momentum is
carried on, the learning rate follows from the iteration, and a callback keeps the weights zero that a mask prunes.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn

import modeconn

ITERATIONS = 200


class Classifier(lightning.LightningModule):
    """A network, its loss, and its optimizer with a rate that falls to zero over all iterations of the study."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 10))
        self.start = 0  # the iteration at which the Trainer begins

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, [batch, 10]."""
        return self.layers(inputs)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch."""
        inputs, labels = batch
        return nn.functional.cross_entropy(self(inputs), labels)

    def configure_optimizers(self) -> Any:
        """SGD, whose schedule goes on from the iteration at which the Trainer begins."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - (self.start + step) / ITERATIONS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class GoOn(lightning.Callback):
    """Begins with the momentum of an earlier state, and applies a mask after every optimizer step."""

    def __init__(self, momentum: dict[str, torch.Tensor], mask: modeconn.Mask | None) -> None:
        self.momentum, self.mask = momentum, mask

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Hand the optimizer its momentum."""
        for name, parameter in module.named_parameters():
            if name in self.momentum:
                trainer.optimizers[0].state[parameter]["momentum_buffer"] = self.momentum[name].clone()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Keep the weights zero that the mask prunes."""
        if self.mask is not None:
            self.mask.apply(module)


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The 8x8 digits, one in five for testing."""
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16  # [1797, 64]
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    return {"test": (inputs[test], labels[test]), "train": (inputs[~test], labels[~test])}


def init(seed: int) -> Classifier:
    """The network at iteration 0."""
    torch.manual_seed(seed)
    return Classifier()


def train(state: dict, start: int, stop: int, seed: int, mask: modeconn.Mask | None = None) -> dict:
    """Let a Trainer do the iterations from `start` to `stop`."""
    network = init(0)
    network.load_state_dict(state["model"])
    network.start = start
    torch.manual_seed(seed)  # dropout
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data()["train"]),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),  # the data order
    )
    trainer = lightning.Trainer(
        max_steps=stop - start,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        callbacks=[GoOn(state.get("momentum", {}), mask)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(network, loader)
    slots = trainer.optimizers[0].state
    return {"model": network, "momentum": {name: slots[p]["momentum_buffer"] for name, p in network.named_parameters()}}


def main(out: Path) -> None:
    """Both studies; they share the dense networks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")  # of data in memory, which need no workers
    own = {"train": train, "init": init, "data": data(), "iterations": ITERATIONS, "replicates": 1}
    print(modeconn.instability("lightning", **own, rewind_iters=[0, 20, 60], out=out / "instability"))
    print(modeconn.lottery("lightning", **own, rewind_iter=20, levels=3, fraction=0.5, out=out / "lottery"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "modeconn-results/lightning"))
