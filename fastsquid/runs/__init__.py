"""Folders on disk: runs, checkpoints and groups of runs."""
