"""What torch costs a process that needs none; and that whoever wants both has both."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import hwsparse.codegen, hwsparse.latency.builders, hwsparse.latency.contender

assert "tvm" in sys.modules and "torch" not in sys.modules

import numpy as np
import torch
import tvm

ones = np.ones((2, 3), np.float32)
assert np.array_equal(tvm.runtime.tensor(ones).numpy(), (torch.from_numpy(ones) @ torch.eye(3)).numpy())
"""


def test_tvm_is_imported_without_torch_which_can_be_imported_later() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
