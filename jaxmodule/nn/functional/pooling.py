"""The poolings' family, one file a kind: what other functionals take from it."""

from .adaptive_pooling import adaptive_avg_pool1d as adaptive_avg_pool1d
from .adaptive_pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from .adaptive_pooling import adaptive_avg_pool3d as adaptive_avg_pool3d
