"""Instability analysis around the Hugging Face `Trainer`, on a tiny language model.

    pip install transformers accelerate
    python examples/hf_trainer.py

A GPT-2 of two layers learns to continue sequences that count upwards modulo 17 with a random step. `train` runs a
Trainer for the iterations it is asked for; the optimizer is handed to it and carried on in the state, and so is the
place in the learning-rate schedule.
"""

import sys
import tempfile

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import modeconn

ITERATIONS = 120
LENGTH = 12


def sequences(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Examples as the Trainer takes them: token ids, which are their own labels."""
    draw = torch.Generator().manual_seed(seed)
    first, step = torch.randint(17, (2, count, 1), generator=draw)
    ids = (first + step * torch.arange(LENGTH)) % 17  # [count, length]
    return [{"input_ids": row, "labels": row} for row in ids]


def init(seed: int) -> nn.Module:
    """The network at iteration 0."""
    torch.manual_seed(seed)
    size = {"vocab_size": 17, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM"))


def train(state: dict, start: int, stop: int, seed: int) -> dict:
    """Let a Trainer do the iterations from `start` to `stop`; `seed` draws its data order and dropout."""
    network = init(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - (start + t) / ITERATIONS)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=stop - start,
            per_device_train_batch_size=32,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(network, arguments, train_dataset=sequences(512, 0), optimizers=(optimizer, schedule)).train()
    return {"model": network, "optimizer": optimizer.state_dict()}


if __name__ == "__main__":
    result = modeconn.instability(
        "hf-trainer",
        train=train,
        init=init,
        data=torch.utils.data.DataLoader(sequences(256, 1), batch_size=64),
        iterations=ITERATIONS,
        rewind_iters=[0, 20, 60],
        replicates=1,
        out=sys.argv[1] if len(sys.argv) > 1 else "modeconn-results/hf-trainer",
    )
    print(result)
