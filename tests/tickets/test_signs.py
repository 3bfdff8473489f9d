"""How many weights of a subnetwork change their sign while it is trained."""

import numpy as np
import pytest
import torch
from tickets.test_conditions import OPTIONS, TASK, K, planned, settings

from modeconn import load_result, lottery
from modeconn.execution import Store
from modeconn.training.jobs import load_state
from modeconn.weights.masks import MASK, mask_from_bytes

pytestmark = pytest.mark.slow  # whole studies
CONDITIONS = ["imp", "sign", "reinit", "magnitude-invert"]


def test_signs_that_change_are_those_of_the_kept_weights_between_k_and_the_end(tmp_path, data_dir):
    options = OPTIONS | {"conditions": CONDITIONS, "sign_flips": True}
    result = lottery(TASK, **options, **settings(tmp_path / "store", data_dir), out=tmp_path / "out")
    store = Store(tmp_path / "store")
    plan = planned(data_dir, conditions=CONDITIONS)
    some = 0
    for row in result.rows:
        found = plan[row["level"], row["condition"]]
        start, end = (load_state(store.require(job)).model for job in (found.start, found.copies[0]))
        if found.mask:
            mask = mask_from_bytes(store.require(found.mask).read(MASK))
        else:
            mask = {name: torch.ones_like(value, dtype=torch.bool) for name, value in start.items() if value.dim() > 1}
        before, after = (np.concatenate([model[n][kept].numpy() for n, kept in mask.items()]) for model in (start, end))
        assert row["sign_flips"] == np.mean(np.sign(before) != np.sign(after))
        some += row["sign_flips"] > 0
    assert some > 3
    assert str(load_result(tmp_path / "out").rows) == str(result.rows)
    assert "sign flips" in str(result)


def test_nobody_counts_signs_unless_asked(tmp_path, data_dir):
    options = OPTIONS | {"conditions": ["imp"], "levels": 1, "rewind_iter": K}
    result = lottery(TASK, **options, **settings(tmp_path, data_dir))
    assert all(np.isnan(row["sign_flips"]) for row in result.rows)
    assert "sign flips" not in str(result)
    assert "sign_flips" not in result.summary
    assert not [name for name in Store(tmp_path).names() if name.startswith("signs-")]
