"""Options from dataclass fields: every field has one, and what is given comes back in the dataclass's units."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from modeconn.analysis.instability.options import StudyOptions
from modeconn.cli.main import main
from modeconn.cli.options import KINDS, Kind, add_fields, given_fields, names_or_none
from modeconn.options import option
from modeconn.tasks import Task, get_task
from modeconn.tickets.options import LotteryOptions


@dataclasses.dataclass(frozen=True)
class Choices:
    """Fields of every sort."""

    count: int = option(3, "how many")
    some: int | None = option(None, "by default as it comes")
    names: Sequence[str] = option(("a", "b"), "which", ("a", "b", "c"))
    one: str = option("a", "one of them", ("a", "b"))
    part: str = option("10%", "how much")
    wide: bool = option(False, "more of it")
    deep: bool = option(True, "all of it")
    threshold: float = option(0.02, "where it ends")


def parser_of(options, **more) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_fields(parser, options, kinds={"names": Kind(names_or_none, "A,B")}, **more)
    return parser


def given(options, line: str, **more) -> dict:
    parsed = parser_of(options, **more).parse_args(shlex.split(line))
    return given_fields(parsed, Choices, more.get("prefix", ""))


def test_what_is_not_given_is_left_to_the_dataclass():
    assert given(Choices, "") == {}
    assert given(Choices, "--count 3 --some 4") == {"count": 3, "some": 4}


def test_switches_go_the_other_way_than_their_default():
    assert given(Choices, "--wide --no-deep") == {"wide": True, "deep": False}
    with pytest.raises(SystemExit, match="2"):
        given(Choices, "--no-wide")
    for values in (Choices(), Choices(wide=True, deep=False)):  # which may have been set either way
        assert given(values, "--no-wide --deep") == {"wide": False, "deep": True}


def test_points_of_error_become_fractions():
    assert given(Choices, "--threshold 2") == {"threshold": 0.02}


def test_a_prefix_keeps_options_of_the_same_name_apart():
    parser = parser_of(Choices, prefix="task.", besides=("some",))
    parser.add_argument("--count", type=int)
    parsed = parser.parse_args(["--task.count", "5", "--count", "7"])
    assert given_fields(parsed, Choices, "task.") == {"count": 5}
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--task.some", "1"])


@pytest.mark.parametrize(("text", "names"), [("none", ()), ("", ()), (" a ,b,", ("a", "b"))])
def test_names_are_a_list_with_commas_and_none_is_none_of_them(text, names):
    assert given(Choices, f"--names '{text}'") == {"names": names}


def test_help_says_choices_and_defaults_in_the_units_that_are_given(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    shown = parser_of(Choices, switches=("off", "on"), choices=True).format_help()
    for line in (
        "--count N          how many (default: 3)",
        "--some N           by default as it comes\n",
        "--names A,B        which; of a, b, c (default: a,b)",
        "--one TEXT         one of them: a, b (default: a)",
        "--part TEXT        how much (default: 10%)",
        "--wide             more of it (default: off)",
        "--deep, --no-deep  all of it (default: on)",
        "--threshold X      where it ends, in percentage points (default: 2.0)",
    ):
        assert line in shown
    plain = parser_of(Choices(count=8, names=()), prefix="x.").format_help()
    assert "how many (default: 8)" in plain
    assert "which; of a, b, c (default: none)" in plain
    assert "one of them (default: a)" in plain
    assert "more of it\n" in plain


@pytest.mark.parametrize("options", [StudyOptions, LotteryOptions, Task])
def test_every_field_has_a_kind_and_a_text(options):
    for field in dataclasses.fields(options):
        assert field.type is bool or field.type in KINDS
        assert field.metadata["help"]


@pytest.mark.parametrize(
    ("command", "options", "left_out"),
    [("instability", StudyOptions, set()), ("lottery", LotteryOptions, {"validation"})],
)
def test_help_has_every_option_of_a_study_and_of_its_task(command, options, left_out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    flags = [f"--{field.name}" for field in dataclasses.fields(options)]
    flags += [f"--task.{field.name}" for field in dataclasses.fields(Task)]
    for flag in flags:
        name = flag.removeprefix("--task.")
        offered = not flag.startswith("--task.") or name not in {"name", "source", "iterations", *left_out}
        assert (f"\n  {flag.replace('_', '-')}" in shown) == offered, flag


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        ("--rewind-iters 0,2ep,3% --search", StudyOptions, {"rewind_iters": "0,2ep,3%", "search": True}),
        ("--alphas 0,0.5,1 --splits test", StudyOptions, {"alphas": (0.0, 0.5, 1.0), "splits": ("test",)}),
        ("--alphas adaptive --seed 4", StudyOptions, {"alphas": "adaptive", "seed": 4}),
        ("--alphas 5 --threshold 3", StudyOptions, {"alphas": 5, "threshold": 0.03}),
        ("--rates output=0.5,4.weight=0", LotteryOptions, {"rates": (("output", 0.5), ("4.weight", 0.0))}),
        ("--prune-iter 3% --rewind-iter 20", LotteryOptions, {"prune_iter": "3%", "rewind_iter": "20"}),
        ("--no-fix --carry-optimizer", LotteryOptions, {"fix": False, "carry_optimizer": True}),
        ("--validation 7 --fraction .5", LotteryOptions, {"validation": 7, "fraction": 0.5}),
        ("--milestones 10,30 --nesterov", Task, {"milestones": (10, 30), "nesterov": True}),
        ("--learning-rate 1 --model resnet-20", Task, {"learning_rate": 1.0, "model": "resnet-20"}),
    ],
)
def test_types_follow_from_the_fields(line, kind, fields):
    parser = argparse.ArgumentParser()
    add_fields(parser, kind)
    assert given_fields(parser.parse_args(line.split()), kind) == fields


def test_help_shows_the_values_of_an_instance(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = argparse.ArgumentParser()
    add_fields(parser, get_task("cifar10-resnet20"), prefix="task.")
    assert "multiplies by gamma (default: 32000,48000)" in parser.format_help()


def test_messages_speak_of_options(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needing.py").write_text("def make(width): ...\n")
    torch.save({"weight": torch.ones(3, 5), "bias": torch.ones(3)}, "a.pt")
    np.savez("data.npz", x=np.ones((4, 5), np.float32), y=np.zeros(4, int))
    for model, says in (([], "give --model a module"), (["--model", "needing:make"], "that --model names failed")):
        assert main(["barrier", "a.pt", "a.pt", "--data", "data.npz", *model]) in (1, 2)
        message = capsys.readouterr().err
        assert says in message
        assert "model=" not in message
