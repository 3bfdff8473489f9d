"""The graph of what is left to do, without anything that runs it: what is ready, what falls with a failure, costs."""

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_for_tests import Add
from modeconn.execution import Store
from modeconn.execution.graph import Graph
from modeconn.execution.names import job_name

some_jobs = st.lists(st.tuples(st.sets(st.integers(0, 11), max_size=3), st.integers(0, 5)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(some_jobs, st.data())
def test_whatever_ends_and_fails_the_graph_is_what_is_left(described, data):
    jobs: list[Add] = []
    for number, (inputs, cost) in enumerate(described):
        jobs.append(Add(number, tuple(jobs[i] for i in sorted(inputs) if i < number), cost=float(cost)))
    sources = {job_name(job): set(map(job_name, job.inputs)) for job in jobs}
    costs = {job_name(job): job.cost for job in jobs}
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(jobs, Store(folder))
    done: set[str] = set()
    gone: set[str] = set()
    for _ in jobs:  # every turn takes out one at least
        left = sources.keys() - done - gone
        assert graph.jobs.keys() == left
        assert graph.left == sum(costs[name] for name in left)
        assert (graph.count, graph.total) == (len(jobs), sum(costs.values()))
        if not left:
            break
        name = graph.take()
        assert name in left
        assert sources[name] <= done
        if data.draw(st.booleans()):
            graph.finish(name)
            done.add(name)
        else:
            fallen = graph.fail(name)
            assert sorted(fallen) == sorted(needing(name, sources) - gone)
            gone.update(fallen)
    assert not graph.jobs
    assert graph.take() is None


def needing(name: str, sources: dict[str, set[str]]) -> set[str]:
    """A job and all that need it, directly or not."""
    found = {name}
    for other, inputs in sources.items():  # inputs come first
        if inputs & found:
            found.add(other)
    return found
