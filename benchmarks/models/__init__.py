"""Published networks that benchmarks run on, each made from an installed PyPI package."""
