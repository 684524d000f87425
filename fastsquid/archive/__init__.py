"""Scoring more images than one process can, on a Ray cluster: sources, stages, and the job that joins them."""
