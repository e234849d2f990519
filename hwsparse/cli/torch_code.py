"""A torch module by the name of the function that makes it. The function is the user's own code, and is run."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwsparse.errors import InputError, one_line

if TYPE_CHECKING:
    import torch


def load_module(name: str, weights: Path | None) -> torch.nn.Module:
    """What a function makes, `package.module:function` as Python would import it here, with the weights of a file.

    Raises:
        InputError: there is no such function, it fails or makes no module, or the file does not hold its weights.
    """
    from safetensors.torch import load_file
    from torch import nn

    path, _, function = name.partition(":")
    if not path or not function:
        raise InputError(f"{name!r}: give the function that makes the network, as package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(path), function)
        module = make()
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and may parse a command line
        raise InputError(f"{name!r} makes no network here: {type(error).__name__}: {one_line(str(error))}") from None
    if not isinstance(module, nn.Module):
        raise InputError(f"{name!r} makes a {type(module).__name__}, not a torch.nn.Module")
    if weights is not None:
        try:
            module.load_state_dict(load_file(weights))
        except Exception as error:  # safetensors and torch raise errors of several types
            raise InputError(f"{weights} does not hold the weights of {name!r}: {one_line(error)}") from None
    return module.eval()


def example_inputs(module: torch.nn.Module, inputs: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    """One sample of inputs by name, as the module's arguments: by their names, or the only one by its place.

    Raises:
        InputError: the names differ.
    """
    import torch

    names = [*inputs]
    if len(names) > 1:
        taken = [name for name in inspect.signature(module.forward).parameters if name in inputs]
        if set(taken) != set(names):
            raise InputError(f"the data have inputs {', '.join(names)}, but the network takes {', '.join(taken)}")
        names = taken
    return tuple(torch.from_numpy(np.array(inputs[name][:1])) for name in names)
