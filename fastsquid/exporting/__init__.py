"""Exported files: a run as ONNX or as a program of torch.export, and their comparison with the run."""
