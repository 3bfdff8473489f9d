"""How images reach the networks of a task: `--task.normalize`."""

import pytest
import torch

from modeconn.data import load_data
from modeconn.errors import OptionError
from modeconn.tasks import get_task
from modeconn.training.noise import Seeds
from modeconn.training.step_inputs import training_batch
from modeconn.training.task_training import prepare


@pytest.mark.parametrize(("how", "mean", "std"), [("none", 0.0, 1.0), ("0.5,0.25", 0.5, 0.25)])
def test_a_task_trains_and_measures_images_that_are_scaled_as_it_says(how, mean, std):
    task = get_task("digits-conv", normalize=how, validation=10)
    training = prepare(task, device="cpu").training
    raw = load_data("digits", validation=10)
    inputs, _ = next(iter(training.batches("test")))
    expected = (raw.test.images.tensor[: len(inputs)].double() / 255 - mean) / std
    torch.testing.assert_close(inputs.double(), expected, atol=1e-5, rtol=0)
    seen, _ = training_batch(task, training.data(), Seeds.all(0), 0)
    assert (float(seen.min()), float(seen.max())) == pytest.approx((-mean / std, (1 - mean) / std), abs=1e-5)
    assert training.data().fingerprint == raw.fingerprint
    assert load_data("digits").mean == raw.mean  # which nobody else's scaling changes


def test_a_scaling_for_other_channels_is_refused_before_anything_is_computed():
    for how in ("imagenet", "0.1,0.2,0.3,1,1,1"):
        with pytest.raises(OptionError, match="or 2 for 1 channels"):
            prepare(get_task("digits-conv", normalize=how), device="cpu")
