"""Command line, devices, files and processes."""
