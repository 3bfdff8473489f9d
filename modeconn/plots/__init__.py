"""Every figure: takes a result, draws on an Axes, returns it."""

from modeconn.analysis.instability.figures import instability_figure as instability_figure
from modeconn.analysis.instability.figures import paths_figure as paths_figure
from modeconn.analysis.instability.figures import plot_instability as plot_instability
from modeconn.analysis.instability.figures import plot_path as plot_path
from modeconn.analysis.instability.figures import save_figures as save_figures
from modeconn.plots.barrier import plot_barrier as plot_barrier
from modeconn.plots.features import plot_features as plot_features
from modeconn.plots.layerwise import plot_layerwise as plot_layerwise
from modeconn.plots.matrix import plot_matrix as plot_matrix
from modeconn.plots.soup import plot_soup as plot_soup
from modeconn.tickets.figures import barriers_figure as barriers_figure
from modeconn.tickets.figures import lottery_figure as lottery_figure
from modeconn.tickets.figures import plot_layers as plot_layers
from modeconn.tickets.figures import plot_lottery as plot_lottery
from modeconn.tickets.figures import save_lottery_figures as save_lottery_figures
