"""A CUDA device that computes nothing, so that ONNX Runtime's own partitioner says where it would place each node."""

from parity_tests.cuda_standin.build import MissingToolError, StandIn, build, why_not
from parity_tests.cuda_standin.process import EXIT_COMPUTED, python

__all__ = ["EXIT_COMPUTED", "MissingToolError", "StandIn", "build", "python", "why_not"]
