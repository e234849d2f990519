"""Layers on a simulated accelerator: a call of a function takes the place of a kernel."""
