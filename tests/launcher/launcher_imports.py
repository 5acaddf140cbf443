"""What the server that ranks are forked from imports once; see `launcher_runs`."""

import launcher_runs
import matplotlib.pyplot
import pytest
import torch._dynamo
import torch.utils.tensorboard

import launcher.cli
import launcher.inference
import launcher.train
import launcher.verify

__all__ = ["launcher", "launcher_runs", "matplotlib", "pytest", "torch"]
