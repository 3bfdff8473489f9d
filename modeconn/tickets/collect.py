"""The result of a lottery-ticket study, collected from the store once all of its jobs are done."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeconn.analysis.instability.curves import mean_barrier
from modeconn.analysis.instability.measurement import COUNTS, read_counts
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.files import write_atomically, writing
from modeconn.pruning.masks import Mask
from modeconn.result import Row, jsonable
from modeconn.tickets.details import curve_rows, path_rows
from modeconn.tickets.distances import read_distances
from modeconn.tickets.matching import with_matching
from modeconn.tickets.plan import FIXED, PLAIN, LotteryStudy, Subnetwork
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.rewind import Choice
from modeconn.tickets.signs import read_sign_flips
from modeconn.tickets.tables import row_columns
from modeconn.training.jobs import read_metrics
from modeconn.training.runner import summarize
from modeconn.training.state import early_stop
from modeconn.weights.masks import MASK, mask_from_bytes


def collect(
    study: LotteryStudy, chosen: Choice, subnetworks: Sequence[Subnetwork], store: Store, command: str
) -> LotteryResult:
    """Collect the result of a study whose jobs are all in the store."""
    options, several = study.options, len(study.rewind_iters) > 1
    parts = {
        k: _collect_one([found for found in subnetworks if found.rewind_iter == k], store, several, options.asked())
        for k in study.rewind_iters
    }
    rows, layers = ([row for part in parts.values() for row in getattr(part, name)] for name in ("rows", "layers"))
    of_each = [part.summary for part in parts.values()]
    summary = summarize(study.prepared, command) | {
        **{name: value for name, value in options.asked().items() if name not in ("rewind_iter", "rewind_iters")},
        "rewind_iter": None if several else study.rewind_iters[0],
        "rewind_iter_because": chosen.why,
        "rewind_study": chosen.facts,
        "prune_iter": options.prune_iter if study.prune_iter is None else study.prune_iter,
        "statistics_fix": study.fix,
        "validation": study.prepared.about["options"].get("validation", 0),
        "sparsest_matching": {} if several else of_each[0]["sparsest_matching"],
        **{name: [entry for one in of_each for entry in one[name]] for name in ("emptied_layers", "diverged")},
        "not_trained": sum(one["not_trained"] for one in of_each),
        **({"trained": _trained(subnetworks)} if study.together else {}),
        **({"by_rewind_iter": {str(k): part.summary for k, part in parts.items()}} if several else {}),
    }
    paths = list(path_rows(subnetworks, store)) if "paths" in options.details else []
    curves = list(curve_rows(subnetworks, store)) if "curves" in options.details else []
    return LotteryResult(rows, layers, jsonable(summary), paths=paths, curves=curves)


def _trained(subnetworks: Iterable[Subnetwork]) -> dict[str, str]:
    """The run of each ticket's first copy: where networks train together, its name says which, as no ticket does."""
    return {job_name(found.start): job_name(found.copies[0]) for found in subnetworks}


def _collect_one(
    subnetworks: Sequence[Subnetwork], store: Store, several: bool, asked: Mapping[str, Any]
) -> LotteryResult:
    """The result of one rewinding iteration, with the part of the summary that is about it.

    Args:
        subnetworks: all of that k.
        store: which all jobs are in.
        several: whether there are other k, so that places need theirs.
        asked: the options of the study.
    """
    rows, layers = [], []
    not_trained = 0  # as the training that their mask or weights were to come from diverged
    for found in subnetworks:
        row, its_layers = _row(found, store)
        if found.mask and store.require(found.start).facts["diverged_at"] is not None:
            not_trained += 1
            row["diverged_at"] = None
        rows.append(row)
        layers += its_layers
    rows = [{name: row[name] for name in row_columns(asked)} for row in with_matching(rows)]
    place = ("replicate", "level", "condition", *(["rewind_iter"] if several else []))
    about = {
        "sparsest_matching": LotteryResult(rows, layers, {}).sparsest_matching(),
        "emptied_layers": [{name: row[name] for name in (*place, "layer")} for row in layers if not row["kept"]],
        "diverged": [
            {name: row[name] for name in (*place, "diverged_at")} for row in rows if row["diverged_at"] is not None
        ],
        "not_trained": not_trained,
    }
    return LotteryResult(rows, layers, about)


def save_masks(subnetworks: Iterable[Subnetwork], store: Store, folder: Path) -> None:
    """Write every mask as `replicate-R-level-N-CONDITION.safetensors`, in the place of those of an earlier study.

    With several rewinding iterations, `rewind-K-` stands before each name.

    Raises:
        StoreError: the folder cannot be written.
    """
    subnetworks = list(subnetworks)
    several = len({found.rewind_iter for found in subnetworks}) > 1
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*replicate-*-level-*.safetensors"):
            old.unlink()
    for found in subnetworks:
        artifact = found.mask and not found.draw and store.require(found.mask)
        if artifact and MASK in artifact.hashes:
            name = f"replicate-{found.replicate}-level-{found.level}-{found.condition}.safetensors"
            name = f"rewind-{found.rewind_iter}-{name}" if several else name
            with writing(folder):
                write_atomically(folder / name, artifact.read(MASK))


def _row(found: Subnetwork, store: Store) -> tuple[Row, list[Row]]:
    """The row of a subnetwork, and those of its layers."""
    place = {"replicate": found.replicate, "level": found.level, "condition": found.condition}
    artifact = store.require(found.ends)
    diverged_at = artifact.facts["diverged_at"]
    counts = {} if diverged_at is not None else read_counts(artifact.json(COUNTS))
    mask = _mask(found, store)
    row = place | {
        "density": 1.0 if found.mask is None else math.nan if mask is None else mask.density,
        "rewind_iter": found.start.iteration,
        **{f"{split}_error": counts[split].error if split in counts else math.nan for split in ("test", "train")},
        **_early_stop(found, store, diverged_at is not None),
        "diverged_at": diverged_at,
        "weights": 0 if mask is None else mask.kept,
        "draw": found.draw,
        "sign_flips": read_sign_flips(store, found.sign_flips),
        "ticket": job_name(found.start),
        "mask": "" if found.mask is None else job_name(found.mask),
    }
    for way in (PLAIN, FIXED):
        for split in ("test", "train"):
            row[f"instability_{split}{way}"] = mean_barrier(store, found.instability.get(way, ()), split)
        for name, paths in (("previous", found.previous), ("dense", found.dense)):
            path = [paths[way]] if way in paths else ()
            row[f"barrier_to_{name}{way}"] = mean_barrier(store, path, "test")
            row[f"chord_barrier_to_{name}{way}"] = mean_barrier(store, path, "test", "chord_barrier")
    row |= read_distances(store, found.distances)
    layers = [
        place
        | {"layer": layer.name, "weights": layer.weights, "kept": layer.kept, "density": layer.density}
        | {"rewind_iter": found.rewind_iter}
        for layer in (mask.layers() if mask is not None and found.mask and not found.draw else ())
    ]
    return row, layers


def _mask(found: Subnetwork, store: Store) -> Mask | None:
    """The mask of a subnetwork; of all weights for the dense one; None if there is none, as a training diverged."""
    if found.mask is None:
        training = found.start.training
        with training.computing():
            return Mask.of(training.network())
    artifact = store.require(found.mask)
    return Mask(mask_from_bytes(artifact.read(MASK))) if MASK in artifact.hashes else None


def _early_stop(found: Subnetwork, store: Store, diverged: bool) -> Row:
    """The iteration of lowest validation loss (of the dense network from 0 on, of others from k on); its test error."""
    rows = read_metrics(store, found.copies[0])
    lowest = early_stop(rows)
    if diverged or lowest is None:
        return {"early_stop_iter": None, "early_stop_error": math.nan}
    at = lowest["iteration"]
    error = next((row["error"] for row in rows if row["split"] == "test" and row["iteration"] == at), math.nan)
    return {"early_stop_iter": at, "early_stop_error": error}
