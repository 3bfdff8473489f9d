"""Every figure: takes a result, draws on an Axes, returns it."""

from modeconn.plots.barrier import plot_barrier as plot_barrier
from modeconn.plots.features import plot_features as plot_features
from modeconn.plots.instability import instability_figure as instability_figure
from modeconn.plots.instability import paths_figure as paths_figure
from modeconn.plots.instability import plot_instability as plot_instability
from modeconn.plots.instability import plot_path as plot_path
from modeconn.plots.instability import save_figures as save_figures
from modeconn.plots.layerwise import plot_layerwise as plot_layerwise
from modeconn.plots.lottery import barriers_figure as barriers_figure
from modeconn.plots.lottery import lottery_figure as lottery_figure
from modeconn.plots.lottery import plot_layers as plot_layers
from modeconn.plots.lottery import plot_lottery as plot_lottery
from modeconn.plots.lottery import save_lottery_figures as save_lottery_figures
from modeconn.plots.matrix import plot_matrix as plot_matrix
from modeconn.plots.soup import plot_soup as plot_soup
