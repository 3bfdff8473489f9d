import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn.errors import OptionError
from modeconn.tasks import PRESETS, Task, get_task, parse_iterations

K = 1000
EPOCH = math.ceil(1_281_167 / 1024)  # ImageNet's training images in batches of 1,024
DROPS = (32 * K, 48 * K)

# Frankle et al. 2020, Table 1; the Conv networks: Frankle & Carbin 2019, Figure 2. In the columns' order:
# network, iterations, batch, optimizer, learning rate, schedule, its iterations, iterations of warmup.
TABLES = {
    "mnist-lenet": ("lenet-300-100", 24 * K, 60, "adam", 12e-4, "constant", (), 0),
    "cifar10-resnet20": ("resnet-20", 63 * K, 128, "sgd", 0.1, "step", DROPS, 0),
    "cifar10-resnet20-low": ("resnet-20", 63 * K, 128, "sgd", 0.01, "step", DROPS, 0),
    "cifar10-resnet20-warmup": ("resnet-20", 63 * K, 128, "sgd", 0.03, "step", DROPS, 30 * K),
    "cifar10-vgg16": ("vgg-16", 63 * K, 128, "sgd", 0.1, "step", DROPS, 0),
    "cifar10-vgg16-low": ("vgg-16", 63 * K, 128, "sgd", 0.01, "step", DROPS, 0),
    "cifar10-vgg16-warmup": ("vgg-16", 63 * K, 128, "sgd", 0.1, "step", DROPS, 30 * K),
    "imagenet-resnet50": (
        *("imagenet-resnet50", 90 * EPOCH, 1024, "sgd", 0.4),
        *("step", (30 * EPOCH, 60 * EPOCH, 80 * EPOCH), 5 * EPOCH),
    ),
    "imagenet-inception-v3": ("imagenet-inception-v3", 171 * EPOCH, 1024, "sgd", 0.03, "linear", (), 0),
    "cifar10-conv2": ("conv-2", 20 * K, 60, "adam", 2e-4, "constant", (), 0),
    "cifar10-conv4": ("conv-4", 25 * K, 60, "adam", 3e-4, "constant", (), 0),
    "cifar10-conv6": ("conv-6", 30 * K, 60, "adam", 3e-4, "constant", (), 0),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_preset_has_the_hyperparameters_of_its_paper(name):
    task = PRESETS[name]
    assert TABLES[name] == (
        *(task.model, task.iterations, task.batch_size, task.optimizer, task.learning_rate),
        *(task.schedule, task.milestones, task.warmup),
    )
    assert task.data == name.split("-")[0]
    assert task.norm == ("none" if task.optimizer == "adam" else "batch")
    if task.optimizer == "sgd":
        assert (task.momentum, task.weight_decay) == (0.9, 1e-4)
    if task.schedule == "step":
        assert task.gamma == 0.1
    if task.schedule == "linear":
        assert task.final_learning_rate == 0.005


def test_every_row_of_the_tables_has_a_preset():
    assert TABLES.keys() | {"digits-conv"} == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_found_by_the_name_it_bears(name):
    assert get_task(name).name == name
    assert get_task(name).source


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shortened_by_ten_keeps_its_proportions(name):
    task = PRESETS[name]
    short = task.shortened(task.iterations // 10)
    assert [10 * m for m in short.milestones] == pytest.approx(task.milestones, abs=5)
    assert 10 * short.warmup == pytest.approx(task.warmup, abs=5)
    changed = {"iterations", "milestones", "warmup"}
    before, after = (dataclasses.asdict(t) for t in (task, short))
    assert {key for key in before if before[key] != after[key]} <= changed


def test_a_task_shortened_to_its_own_length_is_itself():
    assert all(task.shortened(task.iterations) == task for task in PRESETS.values())


@given(st.integers(1, 10**6))
def test_every_length_can_be_shortened_to(iterations):
    short = PRESETS["imagenet-resnet50"].shortened(iterations)
    assert short.iterations == iterations
    assert list(short.milestones) == sorted(short.milestones)
    assert short.milestones[0] >= 1
    assert short.milestones[-1] <= iterations


@pytest.mark.parametrize("iterations", [0, -1, 1.5, 100.0, "100", None])
def test_a_length_that_is_no_count_is_refused(iterations):
    with pytest.raises(OptionError, match="iterations"):
        PRESETS["cifar10-resnet20"].shortened(iterations)


NOT_FINITE = (math.nan, math.inf)
BAD = [
    *(("iterations", value) for value in (0, -1, 100.5, "100", *NOT_FINITE)),
    *(("batch_size", value) for value in (0, -8, 32.5, math.inf)),
    *((name, value) for name in ("warmup", "evaluate_every", "image_size") for value in (-1, 0.5, math.nan)),
    *((name, value) for name in ("learning_rate", "gamma", "width") for value in (0.0, -0.1, *NOT_FINITE)),
    ("learning_rate", "0.1"),
    *((name, v) for name in ("weight_decay", "final_learning_rate") for v in (-1e-4, *NOT_FINITE)),
    *((name, value) for name in ("momentum", "dropout") for value in (-0.1, 1.0, math.nan)),
    *(("milestones", value) for value in ((0,), (10, -1), (10.5,), 10)),
    ("nesterov", True),  # without momentum
    *((name, "bach") for name in ("norm", "init", "optimizer", "schedule", "augmentation")),
    *(("name", value) for value in ("a/b", "a\\b", "a\0b")),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=str)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(OptionError, match=rf"\b{field.replace('_', '.')}\b"):
        Task(**{field: value})


def test_a_bad_field_is_found_when_a_preset_is_changed():
    with pytest.raises(OptionError, match="momentum"):
        get_task("cifar10-vgg16", momentum=2.0)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("mnist-lenett", "mnist-lenet"), ("cifar-resnet20", "cifar10-resnet20"), ("", "Known")],
)
def test_an_unknown_task_gets_near_names(wrong, near):
    with pytest.raises(OptionError, match=f"unknown task {wrong!r}.*{near}"):
        get_task(wrong)


def test_an_unknown_field_gets_near_names():
    with pytest.raises(OptionError, match=r"'learningrate'; did you mean 'learning_rate'"):
        get_task("digits-conv", learningrate=0.1)


def test_options_replace_fields_of_a_copy():
    task = Task()
    assert get_task(task, width=2.0) == Task(width=2.0)
    assert task == Task()


def test_only_what_a_task_computes_is_in_its_spec():
    fields = {field.name for field in dataclasses.fields(Task)}
    # The data set enters a run's name by its content, and the other two are for people.
    assert get_task("digits-conv", validation=1, normalize="none").spec().keys() == fields - {"name", "source", "data"}
    # Runs without held-out examples have the names that they had before there was such a thing.
    assert PRESETS["digits-conv"].spec().keys() == fields - {"name", "source", "data", "validation", "normalize"}


def test_a_scaling_is_one_however_its_numbers_are_written():
    assert {Task(normalize=text).normalize for text in ("0.5,1", ".50, 1.0", "5e-1,1")} == {"0.5,1.0"}
    assert [Task(normalize=text).normalize for text in ("", "none", "imagenet")] == ["", "none", "imagenet"]


@pytest.mark.parametrize("text", ["zero", "0.5", "0.5,0", "0.5,-1", "0.5,nan", "inf,1", "1,2,3", ",", "0.5,0.5,"])
def test_what_is_no_scaling_is_refused(text):
    with pytest.raises(OptionError, match=r"normalize must be none, imagenet or MEAN,STD"):
        Task(normalize=text)


T, PER_EPOCH = 1000, 45
words = st.one_of(
    st.integers(0, T).map(str),
    st.integers(0, T).map("{}it".format),
    st.integers(0, T // PER_EPOCH).map("{}ep".format),
    st.decimals(0, 100, places=2).map("{}%".format),
)


@given(st.lists(words, min_size=1))
def test_parsed_iterations_are_sorted_once_each_and_in_range(texts):
    parsed = parse_iterations(texts, T, PER_EPOCH)
    assert list(parsed) == sorted(set(parsed))
    assert all(type(k) is int and 0 <= k <= T for k in parsed)
    assert parsed == parse_iterations(" , ".join(reversed(texts)), T, PER_EPOCH)
    assert set(parsed) == {parse_iterations(text, T, PER_EPOCH)[0] for text in texts}
    assert parsed == parse_iterations(parsed, T, PER_EPOCH)


@given(st.integers(1, 10**7), st.integers(1, 10**5))
def test_the_whole_training_is_100_percent(total, per_epoch):
    assert parse_iterations("0%,100%", total, per_epoch) == (0, total)


@given(st.integers(0, 200), st.integers(1, 5000))
def test_epochs_are_counted_in_iterations(epochs, per_epoch):
    assert parse_iterations(f"{epochs}ep", 10**6, per_epoch) == (epochs * per_epoch,)
    # Half an epoch of an odd number of iterations may go either way.
    assert abs(2 * parse_iterations(f"{epochs}.5ep", 10**7, per_epoch)[0] - (2 * epochs + 1) * per_epoch) <= 1


def test_an_iteration_may_be_a_number():
    assert parse_iterations(7, T, PER_EPOCH) == (7,)
    assert parse_iterations([30, "2ep", 7], T, PER_EPOCH) == (7, 30, 90)


BEYOND = [1001, "1001", "23ep", "101%", "100.01%", "9" * 400, "9" * 400 + "ep"]
NEGATIVE = [-1, "-1", "-1it", "-1ep", "-0.01%", [0, -1]]


@pytest.mark.parametrize("text", BEYOND + NEGATIVE, ids=lambda text: str(text)[:8])
def test_iterations_outside_the_training_are_refused(text):
    with pytest.raises(OptionError, match="outside"):
        parse_iterations(text, T, PER_EPOCH)


NO_ITERATIONS = ["", "0,", "0,,5", "five", "5 it", "5epochs", "%", "1e3", "0x10", "nan", "1.5", "0.5it"]


@pytest.mark.parametrize("text", NO_ITERATIONS)
def test_what_is_no_iteration_is_named(text):
    with pytest.raises(OptionError, match="iteration"):
        parse_iterations(text, T, PER_EPOCH)
