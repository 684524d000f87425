"""Runs of groups trained as Ray tasks: one per GPU, or per share of the cores, as many at a time as the cluster has."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import ray

from ..errors import UserError

_RETRIES = 3  # of a task whose worker or machine is lost; it goes on at the latest checkpoint


def train_on_ray(
    runs: Sequence[tuple[Path, int]], options: Sequence[str], device: str, threads: int | None
) -> Iterator[tuple[Path, int, str]]:
    """Train runs of groups to their end. Ray has to be connected.

    Every machine of the cluster has to see the folders and the data under the same paths.

    Args:
        runs: absolute group folder, which exists, and seed of each run.
        options: of `python -m fastsquid.train`, which change only rounding and speed.
        device: `auto`, `cpu` or `cuda`.
        threads: cores of each run; None for an equal share of the cluster's, or one beside a GPU.

    Yields:
        group folder, seed, and why the run did not finish or "", in the order in which the tasks end.

    Raises:
        UserError: the cluster has no GPU for `cuda`.
    """
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster["CPU"])
    if device == "cuda" and not gpus:
        raise UserError("the Ray cluster has no GPU: leave out --device cuda")
    gpu = gpus > 0 and device != "cpu"
    cores = threads or (1 if gpu else max(1, cpus // len(runs)))
    options = [*options, "--device", "cuda" if gpu else "cpu", "--threads", str(cores)]
    # A worker per run: what one leaves in memory is gone before the next.
    task = ray.remote(num_cpus=cores, num_gpus=int(gpu), max_calls=1, max_retries=_RETRIES)(_train)
    waiting = {
        task.remote(["--resume", str(folder), "--only", str(seed), *options]): (folder, seed) for folder, seed in runs
    }
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        folder, seed = waiting.pop(done)
        try:
            yield folder, seed, ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            yield folder, seed, f"its worker ended {_RETRIES + 1} times, usually because memory ran out"


def _train(arguments: list[str]) -> str:
    """Train one run in a worker; return why it did not finish, or ""."""
    from ..train import main

    try:
        return "it was stopped" if main(arguments) else ""
    except UserError as error:
        return str(error)
