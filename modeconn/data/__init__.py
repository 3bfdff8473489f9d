"""Data sets as tensors in memory, and their augmentation."""

from modeconn.data.augment import draws_per_example as draws_per_example
from modeconn.data.dataset import DataSet as DataSet
from modeconn.data.dataset import MemoryImages as MemoryImages
from modeconn.data.dataset import Split as Split
from modeconn.data.dataset import normalize as normalize
from modeconn.data.dataset import normalized_by as normalized_by
from modeconn.data.sources import default_data_dir as default_data_dir
from modeconn.data.sources import load_data as load_data
