"""Compute a figure of a paper: its studies, the picture, the table, and what was found."""

import os
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeconn.analysis.instability.instability import instability
from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.instability.plan import jobs_of, plan_pairs, plan_study
from modeconn.errors import DataError, OptionError
from modeconn.execution import Job, Store
from modeconn.execution.engine import choose_engine
from modeconn.files import writing
from modeconn.progress import Report, silent
from modeconn.reproduce.alignments import compare_initialisations, planned_trainings
from modeconn.reproduce.cost import lottery_options
from modeconn.reproduce.curves import connect_initialisations, planned_ends
from modeconn.reproduce.descents import descend, planned_descents
from modeconn.reproduce.durations import average_durations, planned_runs
from modeconn.reproduce.ensembles import compare_groups, planned_members
from modeconn.reproduce.figure import CITED, PAPERS, SOURCES, Figure, Results, Study, Verdict
from modeconn.reproduce.forecast import forecast, has_states
from modeconn.reproduce.planes import fork_planes, planned_forks
from modeconn.result import Row, json_text, study_title, write_csv, write_text
from modeconn.saved import load_result
from modeconn.style import caption, save_figure
from modeconn.tasks import Task, get_task
from modeconn.tickets.lottery import lottery, with_early_stopping
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate, resolve_rewind_iters
from modeconn.tickets.sweep import sweep
from modeconn.training.task_training import prepare

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Say = Callable[[str], None]
_COMPUTE: dict[str, Callable[..., Any]] = {
    "instability": instability,
    "lottery": lottery,
    "sweep": sweep,
    "alignment": compare_initialisations,
    "average": average_durations,
    "descent": descend,
    "plane": fork_planes,
    "curve": connect_initialisations,
    "ensemble": compare_groups,
}
# The trainings of studies that are measured outside the store.
_PLANNED: dict[str, Callable[..., list[Job]]] = {
    "alignment": planned_trainings,
    "average": planned_runs,
    "descent": planned_descents,
    "plane": planned_forks,
    "curve": planned_ends,
    "ensemble": planned_members,
}


def reproduce(
    figure: Figure,
    name: str,
    *,
    network: str | None = None,
    protocol: str = "short",
    precision: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    saved: str | Path | None = None,
    command: str = "",
    report: Report = silent,
    say: Say = lambda text: None,
) -> Path:
    """Compute a figure, and write `NETWORK-PROTOCOL.png`, `.pdf`, `.csv` and `.json`.

    What the store holds is not computed again, so a figure of studies that another one needed is drawn at once, and an
    interrupted one goes on.

    Args:
        figure: of a paper.
        name: its own, for the folder.
        network: one of the figure's; the first with this protocol if None.
        protocol: `"paper"`, `"short"` or `"smoke"`.
        precision: `"float32"` or `"bfloat16"` in place of the protocol's, as where a processor emulates bfloat16; noted
            in the JSON file and the ledger, since results are others.
        workers, device, store, data_dir, report: as in `modeconn.instability`.
        out: folder to write; `figures/NAME` if None.
        saved: the folder of a finished study to draw, of a figure that needs one alone; nothing is computed then.
        command: noted in the JSON file, with the seconds it took, and of each study how many trainings it needed, and
            how many of these the store had before.
        say: called with what it will take, before anything is computed.

    Returns:
        The path of the JSON file.

    Raises:
        ModeconnError: a protocol or network that the figure does not have, data that are not there, a folder that
            cannot be written, a saved study without what the figure shows; or jobs that failed, when the rest is done.
    """
    network = figure.default_network(protocol) if network is None else network
    studies = figure.studies(network, protocol, precision)
    where: dict[str, Any] = {"device": device, "data_dir": data_dir}
    began = time.monotonic()
    results: dict[str, Any] = {}
    trainings: dict[str, dict[str, int]] = {}
    if saved is not None and precision is not None:
        raise OptionError("a saved study was computed in its own precision; leave precision out")
    path = (Path("figures") / name if out is None else Path(out)) / f"{network}-{protocol}"
    if saved is not None:
        results[_only(studies)] = load_result(saved)
    else:
        choose_engine(None, workers)  # refuses what is no number of workers
        jobs = {title: planned_jobs(study, where) for title, study in studies.items()}  # refuses before a store is made
        _make_folder(path.parent)
        kept, processes = Store(store), (os.cpu_count() or 1) if workers is None else max(1, workers)
        for title, study in studies.items():
            most = "at most " if study.kind == "sweep" else ""
            found = forecast(jobs[title], kept, processes)
            say(f"{title}: {most}{found}")
            trainings[title] = {"needed": found.trainings, "stored": found.stored}
            if not found.stored and kept.names():
                _say_precision(study, where, kept, say)
        for title, study in studies.items():
            how = where | {"store": store, "workers": workers, "command": command, "report": report}
            results[title] = _COMPUTE[study.kind](_task(study), **_options(study), **how)
    try:
        made = figure.judge(results), figure.rows(results), figure.draw(results)
    except (LookupError, ValueError) as error:
        if saved is None:
            raise
        asked = ", ".join(f"{title}={value!r}" for title, value in studies[_only(studies)].options.items())
        raise DataError(f"{saved} has not all that this figure shows; its study is one with {asked}") from error
    about = {"figure": name, "network": network, "protocol": protocol, "precision": precision, "command": command}
    _write(figure, results, made, path, about | {"seconds": round(time.monotonic() - began, 1), "trainings": trainings})
    return path.with_name(f"{path.name}.json")


def _say_precision(study: Study, where: Mapping[str, Any], store: Store, say: Say) -> None:
    """Say it if the store has a study's trainings in another precision, which are other results and are not used."""
    asked = study.options.get("precision", "float32")
    other = "bfloat16" if asked == "float32" else "float32"
    jobs = planned_jobs(replace(study, options={**study.options, "precision": other}), where)
    if has_states(jobs, store):
        say(f"the store has states of these trainings in {other}, which are other results; here they are in {asked}")


def _only(studies: Mapping[str, Study]) -> str:
    """The title of the only study.

    Raises:
        OptionError: there are others.
    """
    if len(studies) > 1:
        raise OptionError(f"this figure is drawn from {len(studies)} studies, so that no saved one stands for them all")
    return next(iter(studies))


def _task(study: Study) -> Task:
    """The task of a study, shortened first, so that its options have the last word."""
    task = get_task(study.task)
    if "iterations" in study.options:
        task = task.shortened(study.options["iterations"])
    fields = {name[len("task.") :]: value for name, value in study.options.items() if name.startswith("task.")}
    return get_task(task, **fields)


def _options(study: Study) -> dict[str, Any]:
    return {
        name: value for name, value in study.options.items() if name != "iterations" and not name.startswith("task.")
    }


def planned_jobs(study: Study, where: Mapping[str, Any]) -> list[Job]:
    """The jobs of a study, none of which is computed.

    Raises:
        ModeconnError: as its function does, before it computes anything.
    """
    options = _options(study)
    machine_options = {"precision": options.pop("precision", "float32"), "checkpoint_every": 60.0, **where}
    if study.kind in _PLANNED:
        return _PLANNED[study.kind](_task(study), _options(study), where)
    if study.kind == "instability":
        prepared = prepare(_task(study), **machine_options)
        return jobs_of(plan_pairs(plan_study(prepared, StudyOptions(**options))))
    asked = LotteryOptions(**lottery_options(study))
    task = with_early_stopping(_task(study), where["data_dir"], asked.validation)
    prepared = prepare(task, **machine_options)
    ks = resolve_rewind_iters(asked.rewind_iter, task.iterations, prepared.per_epoch)
    planned = plan_lottery(prepared, asked, *ks)
    return [
        job
        for replicate in range(asked.replicates)
        for subnetwork in plan_replicate(planned, replicate)
        for job in subnetwork.jobs
    ]


def _make_folder(folder: Path) -> None:
    """Make a folder, and see that files can be written there: better now than after hours.

    Raises:
        StoreError: they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _write(
    figure: Figure, results: Results, made: "tuple[Verdict, list[Row], Drawing]", path: Path, about: Mapping[str, Any]
) -> None:
    """Write the picture, the table, and what both are made of and say."""
    network, (verdict, rows, drawing) = figure.networks[about["network"]], made
    notes = list(dict.fromkeys(filter(None, (result.summary["data_note"] for result in results.values()))))
    item = ", ".join(filter(None, (CITED[figure.paper], figure.item)))
    samples = "; ".join(dict.fromkeys(map(_samples, results.values())))
    wide = int(14 * drawing.get_figwidth())  # letters of a title
    above = textwrap.wrap(f"{item}: {samples}", wide, break_on_hyphens=False)
    above += textwrap.wrap(f"paper: {network.claim}", wide, break_on_hyphens=False) if network.claim else []
    caption(drawing, "\n".join(above), notes)
    _make_folder(path.parent)
    save_figure(drawing, path)
    write_csv(path.with_name(f"{path.name}.csv"), rows)
    content = {
        **about,
        "paper": PAPERS[figure.paper],
        "item": figure.item,
        "shows": figure.shows,
        "claim": network.claim,
        "claim_source": SOURCES[network.source],
        "verdict": verdict.word if network.claim else "new",
        "found": verdict.found,
        "n": {title: _samples(result) for title, result in results.items()},
        "data_note": notes,
        "studies": {title: result.summary for title, result in results.items()},
        **{name: _computed_with(results, name) for name in ("versions", "machine")},
    }
    write_text(json_text(content, indent=1), path.with_name(f"{path.name}.json"))


def _computed_with(results: Results, name: str) -> list[Any]:
    """What the studies say of the software and the machines that they were computed with, each once."""
    found = [result.summary[name] for result in results.values() if name in result.summary]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _samples(result: Any) -> str:
    """How many networks a result is of, and of which task."""
    return f"{result.samples} of {study_title(result.summary)}"
