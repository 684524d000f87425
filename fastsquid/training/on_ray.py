"""Runs of groups trained as Ray tasks: one per GPU, or per share of the cores, as many at a time as the cluster has."""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
import ray.exceptions
import torch

from ..errors import UserError
from ..runs.folder import read_group
from ..runs.group import seed_run
from ..utils.threads import set_threads
from .start import Speed, train_run

_RETRIES = 3  # of a task whose worker or machine is lost; it goes on at the latest checkpoint


def train_on_ray(
    runs: Sequence[tuple[Path, int]], speed: Speed, device: str, threads: int | None, tensorboard: bool = False
) -> Iterator[tuple[Path, int, str]]:
    """Train runs of groups to their end. Ray has to be connected.

    Every machine of the cluster has to see the folders and the data under the same paths.

    Args:
        runs: absolute group folder, which exists, and seed of each run.
        speed, tensorboard: as `train_run` takes them.
        device: `auto`, `cpu` or `cuda`.
        threads: cores of each run; None for an equal share of the cluster's, at most those of its largest machine, or
            one beside a GPU.

    Yields:
        group folder, seed, and why the run did not finish or "", in the order in which the tasks end.

    Raises:
        UserError: the cluster has no GPU for `cuda`, or no machine with so many cores.
    """
    if not runs:
        return
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster["CPU"])
    if device == "cuda" and not gpus:
        raise UserError("the Ray cluster has no GPU: leave out --device cuda")
    gpu = gpus > 0 and device != "cpu"
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max(int(each.get("CPU", 0)) for each in machines if each.get("GPU") or not gpu)
    if threads is not None and threads > largest:  # such a task would wait forever
        where = "machine with a GPU" if gpu else "machine"
        raise UserError(f"no {where} of the Ray cluster has {threads} cores: give --threads {largest} or fewer")
    cores = threads or (1 if gpu else max(1, min(cpus // len(runs), largest)))
    if speed.cache is not None:  # workers run in other folders
        speed = dataclasses.replace(speed, cache=str(Path(speed.cache).resolve()))
    # A worker per run: what one leaves in memory is gone before the next.
    task = ray.remote(num_cpus=cores, num_gpus=int(gpu), max_calls=1, max_retries=_RETRIES)(_train)
    waiting = {task.remote(*run, speed, "cuda" if gpu else "cpu", cores, tensorboard): run for run in runs}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        folder, seed = waiting.pop(done)
        try:
            yield folder, seed, ray.get(done)
        except ray.exceptions.RaySystemError:
            raise
        except ray.exceptions.WorkerCrashedError:
            yield folder, seed, f"its worker ended {_RETRIES + 1} times, usually because memory ran out"
        except ray.exceptions.RayError as error:
            last = str(error).strip().rpartition("\n")[2]  # before it a traceback may stand
            yield folder, seed, f"{type(error).__name__}: {last}"


def _train(folder: Path, seed: int, speed: Speed, device: str, threads: int, tensorboard: bool) -> str:
    """Train one run in a worker; return why it did not finish, or ""."""
    log = logging.getLogger("fastsquid")
    log.handlers = [logging.StreamHandler(sys.stdout)]  # Ray shows it on the console of the command
    log.setLevel(logging.INFO)
    set_threads(threads)
    try:
        group = read_group(folder)
        run_folder, record = seed_run(folder, group, seed)
        finished = train_run(run_folder, record, speed, torch.device(device), group, tensorboard)
    except UserError as error:
        return str(error)
    except Exception as error:  # as any other reason it ends this run, not those of the other workers
        log.exception("seed %d of %s", seed, folder)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "" if finished else "it was stopped"
