"""hwsparse: this model, faster, on that device, with proof."""

__version__ = "0.1.0"
