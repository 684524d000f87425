"""Triton kernels and nothing else; installed as `fastsquid.kernels`."""
