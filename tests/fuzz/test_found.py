"""Studies' tables that drawn inputs found to break figures: each is refused when it is read."""

import shutil
from pathlib import Path

import pytest

import modeconn
from modeconn.errors import DataError

OLD = Path(__file__).parent.parent / "compatibility" / "made_by_0.1.0"


@pytest.mark.parametrize(
    ("old", "new"),
    [(",dense,", ",another,"), ("\n0,0,1.0,", "\n0,0,1e999,"), ("\n0,0,1.0,", "\n0,0,-1,"), ("\n0,0,", "\n-5,0,")],
)
def test_a_table_without_the_dense_network_or_with_no_densities_is_refused(tmp_path: Path, old: str, new: str) -> None:
    shutil.copytree(OLD / "lottery", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "lottery.csv").read_text()
    assert old in text
    (tmp_path / "lottery.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match="cannot be read"):
        modeconn.load_result(tmp_path)


def test_a_table_that_lacks_a_choice_for_a_split_is_refused(tmp_path: Path) -> None:
    shutil.copytree(OLD / "instability", tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "instability.csv").read_text().splitlines()
    kept = [line for line in lines if not (",train," in line and line.endswith(",recalibrate"))]
    assert len(kept) < len(lines)
    (tmp_path / "instability.csv").write_text("\n".join(kept))
    with pytest.raises(DataError, match="not each BatchNorm choice for each split"):
        modeconn.load_result(tmp_path)
