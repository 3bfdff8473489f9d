"""Jobs under suspicion: in turn, once each, until they are cleared; and how often one may lose its worker."""

from modeconn.execution.suspects import ATTEMPTS, Suspects


def test_suspects_come_in_turn_and_once_each():
    suspects = Suspects()
    assert not suspects
    suspects.add(["a", "b"])
    suspects.add(["c", "a"])
    for name in ("a", "b", "c"):
        assert name in suspects
        assert suspects.first == name
        suspects.clear(name)
        assert name not in suspects
    assert not suspects
    suspects.clear("a")  # which is cleared already


def test_a_job_is_blamed_a_few_times_and_each_for_itself():
    suspects = Suspects()
    assert [suspects.blame("a") for _ in range(ATTEMPTS)] == [False] * (ATTEMPTS - 1) + [True]
    assert not suspects.blame("b")
    assert "a" not in suspects  # who is blamed is for the driver to decide about


def test_who_is_suspected_again_is_still_blamed_for_the_times_before():
    suspects = Suspects()
    for _ in range(ATTEMPTS - 1):
        suspects.add(["a"])
        assert not suspects.blame("a")
        suspects.clear("a")
    assert suspects.blame("a")
