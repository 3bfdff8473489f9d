"""Every figure: takes a result, draws on an Axes, returns it."""

from modeconn.plots.barrier import plot_barrier as plot_barrier
from modeconn.plots.features import plot_features as plot_features
from modeconn.plots.instability import instability_figure as instability_figure
from modeconn.plots.instability import paths_figure as paths_figure
from modeconn.plots.instability import plot_instability as plot_instability
from modeconn.plots.instability import plot_path as plot_path
from modeconn.plots.instability import save_figures as save_figures
from modeconn.plots.layerwise import plot_layerwise as plot_layerwise
from modeconn.plots.matrix import plot_matrix as plot_matrix
from modeconn.plots.soup import plot_soup as plot_soup
