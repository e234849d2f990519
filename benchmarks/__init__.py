"""Benchmarks: each a command, each ending with one line of the figures that its claim rests on."""
