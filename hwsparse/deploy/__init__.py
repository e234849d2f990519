"""What a device needs to run a compiled network, without hwsparse.

bundle.py   gathers it in a folder
run.py      runs a network, in Python: part of the folder, and needs nothing else of this package
run.cc      the same in C++
"""

from hwsparse.deploy.bundle import bundle

__all__ = ["bundle"]
