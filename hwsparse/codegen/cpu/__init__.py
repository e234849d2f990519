"""Kernels and schedules for CPUs: AVX-512, AVX2 and NEON from the same source."""
