"""What a figure or table of a paper is made of: studies, a drawing, a table, and a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from modeconn.errors import OptionError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from modeconn.result import Row

PROTOCOLS = ("paper", "short", "smoke")
PAPERS = {
    "lmc2020": "Frankle, Dziugaite, Roy, Carbin: Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020",
    "lth2019": "Frankle, Carbin: The Lottery Ticket Hypothesis, ICLR 2019",
    "pai2021": "Frankle, Dziugaite, Roy, Carbin: Pruning Neural Networks at Initialization, ICLR 2021",
    "rebasin2023": "Ainsworth, Hayase, Srinivasa: Git Re-Basin: Merging Models modulo Permutation Symmetries, "
    "ICLR 2023",
    "beyond": "what no paper shows",
}
CITED = {
    "lmc2020": "Frankle et al. 2020",
    "lth2019": "Frankle & Carbin 2019",
    "pai2021": "Frankle et al. 2021",
    "rebasin2023": "Ainsworth et al. 2023",
    "beyond": "",
}
SOURCES = {  # where what a paper found is known from
    "paper": "the paper's text",
    "notes": "readers' notes of the paper",
    "memory": "memory, to be checked",
    "": "",
}
Results = Mapping[str, Any]  # the results of a figure's studies, by their titles
DISAGREES = "disagrees"
SMOKE = "digits-conv"  # needs no data to be prepared


@dataclass(frozen=True)
class Study:
    """A study that a figure needs: the arguments of a function.

    Attributes:
        kind: which: `modeconn.instability`, `modeconn.lottery`, `modeconn.sweep`, networks of several
            initialisations with and without alignment, averages of the last checkpoints of a run, curves between two
            initialisations, planes through copies of one trunk, full-batch gradient descent, or ensembles.
        task: a preset's name.
        options: of the study; of the task, `"task."` before their names.
    """

    kind: Literal["instability", "lottery", "sweep", "alignment", "average", "curve", "plane", "descent", "ensemble"]
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether what was found here agrees with the paper.

    Attributes:
        word: `"agrees"`, `"disagrees"`, `"not reached"` if the run cannot say it, or `"new"` where no paper has it.
        found: a sentence with its numbers.
    """

    word: Literal["agrees", "disagrees", "not reached", "new"]
    found: str


@dataclass(frozen=True)
class Network:
    """What a paper's figure shows for one network, and how it is computed here.

    Attributes:
        claim: what the paper found.
        source: where that is known from, a key of `SOURCES`.
        protocols: the studies of each protocol, by their titles.
        cost: what the paper's protocol would cost, where it was not run.
        why: by protocol, why what is found here may be otherwise.
    """

    claim: str
    source: str = "notes"
    protocols: Mapping[str, Mapping[str, Study]] = field(default_factory=dict)
    cost: str = ""
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure or table of a paper.

    Attributes:
        paper: a key of `PAPERS`.
        item: its name in the paper: `"Figure 3"`.
        shows: what is plotted over what.
        networks: by their names, the first as the default.
        draw: the figure as the paper drew it, from the studies' results.
        rows: the drawn values as a table.
        judge: the verdict about one network's results.
    """

    paper: str
    item: str
    shows: str
    networks: Mapping[str, Network]
    draw: Callable[[Results], "Drawing"]
    rows: Callable[[Results], "list[Row]"]
    judge: Callable[[Results], Verdict]

    def studies(self, network: str, protocol: str, precision: str | None = None) -> Mapping[str, Study]:
        """The studies that it needs, by their titles; in this precision instead of the protocol's, unless None.

        Raises:
            OptionError: a network or a protocol that it does not have, or a study of one precision alone.
        """
        if network not in self.networks:
            raise unknown("network", network, self.networks)
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        protocols = self.networks[network].protocols
        if protocol not in protocols:
            what, cost = f"{self.item} of {self.paper} for {network}", self.networks[network].cost
            if not protocols:
                raise OptionError(f"{what} cannot be computed here: it would take {cost}")
            raise OptionError(f"{what} has the protocols {', '.join(protocols)}, not {protocol}")
        if precision is None:
            return protocols[protocol]
        if any(study.kind == "descent" for study in protocols[protocol].values()):
            raise OptionError(f"{self.shows}: full-batch gradient descent is computed in float32; leave precision out")
        return {
            title: replace(study, options={**study.options, "precision": precision})
            for title, study in protocols[protocol].items()
        }

    def default_network(self, protocol: str) -> str:
        """The first network that has a protocol.

        Raises:
            OptionError: none has.
        """
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        found = [name for name, network in self.networks.items() if protocol in network.protocols]
        if not found:
            has = [name for name in PROTOCOLS if any(name in network.protocols for network in self.networks.values())]
            raise OptionError(f"{self.item} of {self.paper} has the protocols {', '.join(has)}, not {protocol}")
        return found[0]
