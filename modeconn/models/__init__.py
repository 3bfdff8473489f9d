"""Architectures: the papers' networks by name, and anyone's by import path."""

from modeconn.models.build import MODEL_NAMES as MODEL_NAMES
from modeconn.models.build import build_network as build_network
from modeconn.models.build import builder_of as builder_of
from modeconn.models.imported import code_fingerprint as code_fingerprint
from modeconn.models.imported import find_code as find_code
from modeconn.models.imported import import_function as import_function
from modeconn.models.imported import source_fingerprint as source_fingerprint
