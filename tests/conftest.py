"""What all tests share: one thread, and small real things to work on."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)  # two threads beside another busy process are many times slower than one
