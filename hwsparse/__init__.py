"""hwsparse: this model, faster, on that device, with proof."""

import os

__version__ = "0.1.0"

# onnxruntime would keep an identifier of this machine on disk and report to its makers; it asks when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
