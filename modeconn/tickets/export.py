"""A lottery ticket as files that plain PyTorch reads: weights at k, mask, trained weights, and what builds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from modeconn.errors import DataError, OptionError
from modeconn.execution import Store
from modeconn.files import write_atomically, writing
from modeconn.pruning.masks import Mask
from modeconn.result import json_text, write_text
from modeconn.tickets.network_file import NETWORK, network_text
from modeconn.tickets.options import DENSE
from modeconn.tickets.result import LotteryResult, load_lottery
from modeconn.tickets.trained import read_trained
from modeconn.training.state import WEIGHTS
from modeconn.weights.masks import MASK, mask_from_bytes

TORCH_PRUNE = "torch_prune.safetensors"
TRAINED = "trained.safetensors"


@dataclass(frozen=True)
class Ticket:
    """An exported ticket.

    Attributes:
        folder: of `weights.safetensors` (a state dict, pruned weights zero), `mask.safetensors` (booleans by
            parameter name), `trained.safetensors` (the state dict at the end of training, if the store has it) and
            `ticket.json`; and `network.py`, which builds the network and loads them, if the study tells what builds it.
        about: the content of `ticket.json`.
        mask: which weights remain.
    """

    folder: Path
    about: dict[str, Any]
    mask: Mask

    def __str__(self) -> str:
        files = self.about["files"]
        lines = [_title(self.about), "", str(self.mask), ""]
        if NETWORK in files:
            lines += [
                f"Files: {self.folder}/ ({', '.join(files)}). In PyTorch, with that folder on the path of modules:",
                "",
                "    from network import load, load_mask" + (", scale" if self.about["mean"] else ""),
                "    network, mask = load(), load_mask()  # keep what the mask prunes zero",
            ]
        else:
            lines += [
                f"Files: {self.folder}/ ({', '.join(files)}). In plain PyTorch:",
                "",
                "    from safetensors.torch import load_file",
                f'    network.load_state_dict(load_file("{self.folder}/{WEIGHTS}"))',
                f'    mask = load_file("{self.folder}/{MASK}")  # booleans; keep the others zero',
            ]
        if TRAINED in files:
            how = f'load("{TRAINED}")' if NETWORK in files else TRAINED
            lines += ["", f"Test error after training: {100 * self.about['test_error']:.2f} %, that of {how}."]
        return "\n".join(lines)


def export_ticket(
    folder: str | Path,
    out: str | Path,
    *,
    level: int | None = None,
    replicate: int = 0,
    condition: str = "imp",
    rewind_iter: int | None = None,
    store: str | Path = "modeconn-store",
    torch_prune: bool = False,
) -> Ticket:
    """Write a ticket of a lottery-ticket study: the weights that its training began with and those it gave, its mask.

    `network.py` needs PyTorch, safetensors, and the module whose function builds the network: `modeconn.models`, or,
    for a network of your own, yours. `ticket.json` has the function under `builder`, and the input scaling.

    Args:
        folder: of the study's results.
        out: folder to write.
        level: of pruning; None for the sparsest that loses less than 0.2 points, or the last if none does.
        replicate, condition: which of the study's subnetworks.
        rewind_iter: which k, of a study with several.
        store: the store that the study computed in.
        torch_prune: also write `torch_prune.safetensors`: the state dict of a network under `torch.nn.utils.prune`,
            with `NAME_orig` and `NAME_mask` for every pruned `NAME`.

    Raises:
        DataError: no such study, or the store does not hold the ticket.
        OptionError: the study has no such level, replicate, condition or k; or several k, and none was chosen.
        StoreError: the folder cannot be written.
    """
    result = _of_one(load_lottery(folder), rewind_iter)
    level = _sparsest(result, condition) if level is None else level
    row = _row(result, level, replicate, condition)
    opened = Store(store, create=False)
    state, found = opened.finished(row["ticket"]), opened.finished(row["mask"])
    if state is None or found is None:
        raise DataError(
            f"the store {opened.root} does not hold the ticket {row['ticket']}; point store= to the one that the "
            "study computed in, or run the study again"
        )
    if MASK not in found.hashes:
        raise DataError(f"there is no such mask: the training it was to be found on diverged ({found.facts['label']})")
    weights, mask = safetensors.torch.load(state.read(WEIGHTS)), mask_from_bytes(found.read(MASK))
    files = {WEIGHTS: state.read(WEIGHTS), MASK: found.read(MASK)}
    trained = read_trained(opened, row, result.summary)
    if trained is not None and trained.facts["diverged_at"] is None:
        files[TRAINED] = trained.read(WEIGHTS)
    if torch_prune:
        files[TORCH_PRUNE] = safetensors.torch.save(_as_torch_prune(weights, mask))
    about = {name: row[name] for name in ("replicate", "level", "condition", "density", "rewind_iter", "weights")} | {
        "task": result.title,
        "options": result.summary["options"],
        "data_fingerprint": result.summary["data_fingerprint"],
        # The network takes images as (pixel / 255 - mean) / std; studies of version 0.1.0 do not tell.
        "mean": result.summary.get("data_mean"),
        "std": result.summary.get("data_std"),
        "layers": {layer.name: {"weights": layer.weights, "kept": layer.kept} for layer in Mask(mask).layers()},
        "state": row["ticket"],
        "mask": row["mask"],
        "command": result.summary["command"],
        "test_error": row["test_error"],
        "builder": result.summary.get("builder"),
    }
    if about["builder"]:
        files[NETWORK] = network_text(
            about["builder"],
            title=_title(about),
            iteration=about["rewind_iter"],
            weights=WEIGHTS,
            mask=MASK,
            trained=TRAINED if TRAINED in files else None,
            test_error=row["test_error"],
            mean=about["mean"],
            std=about["std"],
        ).encode()
    about["files"] = [*files, "ticket.json"]
    with writing(Path(out)):
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(Path(out) / name, content)
        write_text(json_text(about, indent=2), Path(out) / "ticket.json")
    return Ticket(Path(out), about, Mask(mask))


def _title(about: dict[str, Any]) -> str:
    return (
        f"Ticket of {about['task']}: {about['condition']}, level {about['level']}, replicate {about['replicate']}, "
        f"at iteration {about['rewind_iter']}"
    )


def _of_one(result: LotteryResult, rewind_iter: int | None) -> LotteryResult:
    ks = result.rewind_iters
    if rewind_iter is None and len(ks) > 1:
        raise OptionError(f"choose one of the study's rewinding iterations by rewind_iter=: {', '.join(map(str, ks))}")
    return result if rewind_iter is None else result.at(rewind_iter)


def _sparsest(result: LotteryResult, condition: str) -> int:
    found = (result.sparsest_matching().get(condition) or {}).get("matching_02")
    return found["level"] if found else max(row["level"] for row in result.rows)


def _row(result: LotteryResult, level: int, replicate: int, condition: str) -> dict[str, Any]:
    wanted = {"level": level, "replicate": replicate, "condition": condition}
    for row in result.rows:
        if row["condition"] != DENSE and all(row[name] == value for name, value in wanted.items()):
            return row
    has = {name: sorted({row[name] for row in result.rows if row["condition"] != DENSE}) for name in wanted}
    raise OptionError(
        f"the study has no ticket of level {level}, replicate {replicate}, condition {condition!r}; it has levels "
        f"{has['level']}, replicates {has['replicate']}, conditions {', '.join(has['condition'])}"
    )


def _as_torch_prune(weights: dict[str, Any], mask: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in weights.items() if name not in mask}
    for name, kept in mask.items():
        plain |= {f"{name}_orig": weights[name], f"{name}_mask": kept.to(weights[name].dtype)}
    return plain
