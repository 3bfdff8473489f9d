"""Every kind of result that is written is read from its folder and drawn again by the command."""

import shutil
from pathlib import Path

import pytest
from made_results import measured
from PIL import Image

from modeconn import load_result
from modeconn.cli.main import main
from modeconn.errors import DataError
from modeconn.result import JsonResult
from modeconn.saved import KINDS, load_measurements

MEASURED = ("barrier", "barrier, aligned", "matrix", "layerwise", "features", "durations", "compare")
OLD = Path(__file__).parent / "compatibility" / "made_by_0.1.0" / "json"


@pytest.mark.parametrize("name", MEASURED)
def test_a_measurement_is_read_from_its_folder_and_from_its_file(name: str, tmp_path: Path) -> None:
    result = measured()[name]
    text = result.to_json(tmp_path / "whatever.json")
    for place in (tmp_path, tmp_path / "whatever.json"):
        again = load_result(place)
        assert type(again) is type(result)
        assert again.to_json() == text


def test_the_main_one_of_several_is_the_result_of_the_folder(tmp_path: Path) -> None:
    for name in ("features", "layerwise", "barrier"):
        measured()[name].to_json(tmp_path / f"{name}.json")
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "broken.json").write_text("{")
    assert list(load_measurements(tmp_path)) == ["barrier", "layerwise", "features"]
    assert load_result(tmp_path).metric == "error"


def test_results_of_the_first_version_are_read(tmp_path: Path) -> None:
    for file in OLD.glob("*.json"):
        if not file.name.endswith(".rows.json"):
            shutil.copy(file, tmp_path / "result.json")
            assert str(load_result(tmp_path)) == str(load_result(file))


def _written() -> list[type[JsonResult]]:
    kinds, waiting = [], [JsonResult]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        kinds += [kind] if hasattr(kind, "_FORMAT") and kind.__module__.startswith("modeconn.") else []
    return kinds


def test_no_kind_of_result_is_forgotten() -> None:
    assert set(_written()) == set(KINDS)
    assert len({kind._FORMAT for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": "modeconn barrier 9"}', "is no result that modeconn wrote; its format is 'modeconn barrier 9'"),
        ("[1]", "its format is None"),
        ("{", "cannot be read"),
        ('{"format": "modeconn barrier 1"}', "not a barrier"),
    ],
)
def test_what_is_no_result_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "barrier.json").write_text(content)
    with pytest.raises(DataError, match=said):
        load_result(tmp_path)


def test_an_empty_folder_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no instability study"):
        load_result(tmp_path)


def test_the_command_draws_measurements_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("barrier", "features"):
        measured()[name].to_json(tmp_path / f"{name}.json")
    assert main(["plot", str(tmp_path), "--format", "svg,png", "--width", "3", "--log"]) == 0
    drawn = {"barrier", "predictions", "features"}
    assert {Path(line).name for line in capsys.readouterr().out.split()} == {
        f"{name}.{ending}" for name in drawn for ending in ("svg", "png")
    }
    with Image.open(tmp_path / "features.png") as picture:
        assert picture.width == 600  # 3 inches of 200 dots
    assert main(["plot", str(tmp_path / "features.json"), "--format", "pdf"]) == 0
    assert not (tmp_path / "barrier.pdf").exists()


@pytest.mark.parametrize("study", ["instability", "lottery"])
def test_the_command_draws_a_study_in_other_formats(study: str, tmp_path: Path) -> None:
    shutil.copytree(OLD.parent / study, tmp_path / study)
    before = {file.name for file in (tmp_path / study).iterdir()}
    assert main(["plot", str(tmp_path / study), "--format", "svg"]) == 0
    new = {file.name for file in (tmp_path / study).iterdir()} - before
    assert f"{study}.svg" in new
    assert all(name.endswith(".svg") for name in new)


def test_formats_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured()["features"].to_json(tmp_path / "features.json")
    assert main(["plot", str(tmp_path), "--format", "jpg"]) == 2
    assert "unknown format 'jpg'" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["features.json"]
