"""Result of `plane`, `directions` and `trajectory_plane`: what is measured on a line or plane, and who lies where."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import numpy as np

from modeconn.analysis.connectivity.samples import measured
from modeconn.analysis.landscape.planes.places import Axis, Picture, Place, paths_of
from modeconn.errors import OptionError, unknown
from modeconn.result import JsonResult, Number, Row, array_of, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 12  # of a path's networks in words


class _Place(TypedDict):
    name: str
    x: float
    y: Number
    distance: float
    path: str
    values: dict[str, Number]


class _Axis(TypedDict):
    name: str
    length: float
    explained: Number


class _Fields(TypedDict):
    """A landscape in JSON."""

    kind: Literal["plane", "directions", "principal"]
    x: list[float]
    y: list[Number]
    shape: list[int]
    metrics: dict[str, list[Number]]
    metric: str
    places: list[_Place]
    axes: list[_Axis]
    cosine: float
    batchnorm: Literal["none", "interpolate", "recalibrate"]
    notes: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Plane(JsonResult):
    """Loss and error on a line or a plane through weight space.

    Attributes:
        kind: `"plane"` through three networks, in given or random `"directions"` around one, or in the `"principal"`
            directions of a trajectory.
        x, y: coordinates of the points, float64 [points]; y is NaN on a line. The first are an even grid, row by row
            from the lowest y up; those after it were measured where the surface bends.
        shape: how many points the grid has along x, and y.
        values: metric to values, float64 [points]; NaN where a running variance would be below 0.
        metric: the one that is meant where none is named.
        places: networks, and where they are.
        axes: one or two.
        cosine: of the angle between the two axes; 0 if they are orthogonal.
        batchnorm: what was done to running statistics: `"none"` (there are none), `"interpolate"` or `"recalibrate"`.
        notes: everything that was decided.
        settings: data, precision, device, versions; JSON.
    """

    _FORMAT = "modeconn plane 1"
    _NAME = "a plane"
    _SCHEMA = _Fields

    kind: str
    x: np.ndarray
    y: np.ndarray
    shape: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    metric: str
    places: tuple[Place, ...]
    axes: tuple[Axis, ...]
    cosine: float = 0.0
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured."""
        return tuple(self.values)

    def grid(self, metric: str | None = None) -> np.ndarray:
        """The values of a metric on the even grid, float64 [y, x], or [x] on a line.

        Raises:
            OptionError: no such metric.
        """
        on_grid = self.values[self.known(metric)][: int(np.prod(self.shape))]
        return on_grid.reshape(self.shape[::-1])

    def known(self, metric: str | None) -> str:
        """A metric that was measured; the main one if None.

        Raises:
            OptionError: no such metric.
        """
        name = self.metric if metric is None else metric
        if name not in self.values:
            raise unknown("metric", name, self.values)
        return name

    def everywhere(self, metric: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates and values of all points, the networks that were measured among them, float64 [points] each."""
        name = self.known(metric)
        own = [place for place in self.places if name in place.values and place.distance == 0]
        x, y = ([getattr(place, axis) for place in own] for axis in ("x", "y"))
        at_networks = [place.values[name] for place in own]
        return np.append(self.x, x), np.append(self.y, y), np.append(self.values[name], at_networks)

    def place(self, name: str) -> Place:
        """A network by its name.

        Raises:
            OptionError: there is none of that name.
        """
        found = {place.name: place for place in self.places}
        if name not in found:
            raise unknown("network", name, found)
        return found[name]

    def plot(
        self,
        kind: str = "contour",
        metric: str | None = None,
        *,
        log: bool | None = None,
        levels: Sequence[float] | None = None,
        colorbar: bool = True,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Draw a metric over the plane, with the networks and the trajectories; over a line as a curve.

        A loss that grows by orders of magnitude is drawn in levels of equal ratio, up to 10,000 times the lowest; what
        is above has the last colour. Grey is where nothing finite was measured.

        Args:
            kind: `"contour"`, or `"surface"` in three dimensions; of a line there is one kind.
            metric: which one; `metric` if None.
            log: whether levels, or the axis, are of equal ratios; None for what the values suggest.
            levels: of the colours, in the unit of the metric, so that pictures can share them; what is above the last
                has the last colour.
            colorbar: whether contours get one.
            ax: where to draw, three-dimensional for a surface; a new figure if None.

        Raises:
            OptionError: no such kind or metric, or levels that are not ascending.
        """
        from modeconn.analysis.landscape.planes.plane_drawing import draw_contour, draw_line, draw_surface

        if kind not in ("contour", "surface"):
            raise unknown("kind of plot", str(kind), ("contour", "surface"))
        if levels is not None and not _are_ascending(levels):
            raise OptionError(f"levels must be at least two ascending numbers; got {levels!r}")
        name = self.known(metric)
        isometric = self.kind != "directions"
        picture = Picture(name, *self.everywhere(name), self.places, self.axes, isometric, self.batchnorm)
        if len(self.shape) == 1:
            return draw_line(picture, log, ax)
        if kind == "surface":
            return draw_surface(picture, log, levels, ax)
        return draw_contour(picture, log, levels, ax, colorbar)

    def rows(self) -> list[Row]:
        """A row for each point of the grid, each further point, and each network that was measured."""
        on_grid = int(np.prod(self.shape))
        rows: list[Row] = [
            {
                "point": "grid" if index < on_grid else "refined",
                "name": "",
                **self._coordinates(float(self.x[index]), float(self.y[index])),
                **{name: float(of[index]) for name, of in self.values.items()},
            }
            for index in range(len(self.x))
        ]
        return rows + [
            {
                "point": "network" if place.values else "projected",
                "name": f"{place.path} {place.name}".strip(),
                **self._coordinates(place.x, place.y),
                **{name: place.values.get(name, float("nan")) for name in self.values},
            }
            for place in self.places
        ]

    def __repr__(self) -> str:
        names = ", ".join(place.name for place in self.places if place.values)
        return f"Plane({self.metric} around {names}: {len(self.x)} points)"

    def __str__(self) -> str:
        refined = len(self.x) - int(np.prod(self.shape))
        points = f"{' x '.join(map(str, self.shape))} points" + (f" and {refined} more" if refined else "")
        own = [place for place in self.places if place.values]
        title = {"plane": "plane through", "directions": "around", "principal": "plane of the trajectory to"}[self.kind]
        lines = [f"{title} {', '.join(place.name for place in own)}, {points}{measured(self.settings)}", ""]
        for name, axis in zip("xy", self.axes, strict=False):
            lines.append(f"{name}: {axis.name}{_explained(axis)}; weights move by {axis.length:.4g} for 1")
        width = max(len(name) for name in (*self.metrics, "error %")) + 2
        heads = [f"{place.name:>14.12}" for place in own]
        lines += ["", f"{'':{width}}{''.join(heads)}{'lowest':>10}{'at':>20}{'highest':>10}{'at':>20}"]
        lines += [self._line(name, own, width) for name in self.metrics]
        lines += self._projected()
        return "\n".join([*(line.rstrip() for line in lines), *note_lines(self.notes)])

    def _line(self, name: str, own: Sequence[Place], width: int) -> str:
        unit = 100 if name == "error" else 1
        x, y, values = self.everywhere(name)
        cells = [f"{unit * place.values[name]:>14.4g}" for place in own]
        finite = np.flatnonzero(np.isfinite(values))
        for best in (np.argmin, np.argmax):
            if not len(finite):
                cells += [f"{'none':>10}", f"{'':>20}"]
                continue
            at = finite[best(values[finite])]
            place = f"({x[at]:.3g}, {y[at]:.3g})" if len(self.shape) == 2 else f"{x[at]:.3g}"
            cells += [f"{unit * values[at]:>10.4g}", f"{place:>20}"]
        return f"{name + ' %' if unit == 100 else name:{width}}{''.join(cells)}"

    def _projected(self) -> list[str]:
        """Where networks beside the plane are, those of a path with the nearest and the farthest."""
        alone = [place for place in self.places if not place.path and not place.values]
        lines = [
            f"{place.name} is at ({place.x:.3g}, {place.y:.3g}), {place.distance:.3g} from the plane."
            for place in alone[:_SHOWN]
        ]
        if len(alone) > _SHOWN:
            lines.append(f"{len(alone) - _SHOWN} more networks are projected; the file has them.")
        for path, states in self.paths().items():
            distances = [state.distance for state in states]
            lines.append(
                f"{path}, {len(states)} states: {min(distances):.3g} to {max(distances):.3g} from the plane, "
                f"{distances[-1]:.3g} at its end."
            )
        return ["", *lines] if lines else []

    def paths(self) -> dict[str, list[Place]]:
        """The trajectories, each with its states in order."""
        return paths_of(self.places)

    def _coordinates(self, x: float, y: float) -> Row:
        return {"x": x} if len(self.shape) == 1 else {"x": x, "y": y}

    def _fields(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("kind", "x", "y", "metric", "cosine", "batchnorm")},
            "shape": list(self.shape),
            "metrics": dict(self.values),
            "places": [asdict(place) for place in self.places],
            "axes": [asdict(axis) for axis in self.axes],
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        points = len(content["x"])
        values = {name: array_of(of, points) for name, of in content["metrics"].items()}
        shape = tuple(content["shape"])
        if content["metric"] not in values or len(shape) not in (1, 2) or len(content["axes"]) != len(shape):
            raise ValueError("it has not its metric, or not one or two axes")
        if min(shape) < 1 or int(np.prod(shape)) > points:
            raise ValueError("it has fewer points than its grid")
        places = tuple(
            Place(**one | {"y": from_jsonable(one["y"]), "values": from_jsonable(one["values"])})
            for one in content["places"]
        )
        return cls(
            **{name: content[name] for name in ("kind", "metric", "cosine", "batchnorm", "settings")},
            x=array_of(content["x"], points),
            y=array_of(content["y"], points),
            shape=shape,
            values=values,
            places=places,
            axes=tuple(Axis(**one | {"explained": from_jsonable(one["explained"])}) for one in content["axes"]),
            notes=tuple(content["notes"]),
        )


def _are_ascending(levels: Any) -> bool:
    try:
        numbers = np.asarray(levels, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.ndim == 1 and len(numbers) >= 2 and bool((np.diff(numbers) > 0).all())


def _explained(axis: Axis) -> str:
    return "" if np.isnan(axis.explained) else f", {100 * axis.explained:.3g} % of the variance"
