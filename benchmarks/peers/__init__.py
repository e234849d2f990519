"""What is timed against each other: hwsparse, onnxruntime, OpenVINO, DeepSparse, each loaded in a process of its own.

A module here imports the standard library, numpy and its own runtime, so that a peer's environment needs nothing of
ours; `hwsparse.latency.worker` loads its classes by name.
"""
