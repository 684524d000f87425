"""Command line, devices, files and processes; nothing here knows of images or models."""
