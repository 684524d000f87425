"""An archive scored by Ray Data: read and decode in tasks, score in actors, write Parquet; what is written is skipped.

*.parquet          rows of scores, one file per block of images
_fastsquid.json    run, score and settings of all rows; readers of Parquet skip names that begin with "_"
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from pyarrow import dataset, fs, parquet

from ..api import Scorer
from ..data.decoding import Decoded, Decoder
from ..data.names import HashNames, Names
from ..errors import UserError
from ..reporting.table import Counts, Scoring
from ..utils.text import printable
from .sources import Item, Table, is_shard_at, items_of_table, open_shard, place_at, to_items
from .stages import BytesFile, digests, from_table, schema_of, score, to_table
from .stores import Place, file_system, place_of, read_bytes, reason

RECORD = "_fastsquid.json"
MOST_ROWS = 1000  # of a block, and so of a file: what a lost worker or a killed job costs
LEAST_ROWS = 32
_READERS = 8  # files that a task reads at the same time, because an object store answers late


@dataclass(frozen=True)
class Job:
    """What an archive is scored with.

    Attributes:
        scorer: of the run or group.
        names: how images are named; `HashNames` for an anonymous job.
        precision: of the scorer.
        all_scores: write all scores of the run.
        batch_size: largest number of images that are scored at once.
        device: `auto`, `cpu` or `cuda`, of the actors.
        actors: how many actors score; None for one per GPU, or one per two cores.
        threads: CPU threads of each actor; None for two.
    """

    scorer: Scorer
    names: Names
    precision: str = "fp32"
    all_scores: bool = False
    batch_size: int = 64
    device: str = "auto"
    actors: int | None = None
    threads: int | None = None

    def scoring(self) -> Scoring:
        """Return what scores, and knows the columns."""
        return Scoring(self.scorer, self.batch_size, self.names, self.all_scores)

    @property
    def anonymous(self) -> bool:
        """Whether images are named by hashes of their content."""
        return isinstance(self.names, HashNames)

    def record(self, sources: Sequence[str]) -> dict[str, Any]:
        """Return what all rows of a folder have in common, as JSON has it. Of the sources it is a hash.

        Images of other sources may have the same names, so that they would count as done.
        """
        scorer, places = self.scorer, [place_of(source) for source in sources]
        return {
            "sources": hashlib.sha256(repr(places).encode("utf-8", "surrogateescape")).hexdigest(),
            "run": scorer.run.weights,
            "score": scorer.score_name,
            "columns": schema_of(self.scoring()).names,
            "precision": self.precision,
            "anonymous": self.anonymous,
            "accept": {name: list(words) for name, words in asdict(scorer.accept).items()},
            "threshold": [[float(value), what] for value, what in scorer.thresholds[:1]],
        }


def begin(out: Place, record: dict[str, Any], overwrite: bool) -> np.ndarray:
    """Make the folder of the results, or open one that the same job has begun.

    A Parquet file without its end, as a killed job leaves it on a disk, is removed: its images are scored again.

    Args:
        out: the folder.
        record: `Job.record`.
        overwrite: remove the results of another job.

    Returns:
        `digests` of the names that are written already, sorted.

    Raises:
        UserError: the folder cannot be written, or holds something else, or results of another run or source, or of
            other settings.
    """
    try:
        return _begin(out, record, overwrite)
    except OSError as error:
        raise UserError(f"{printable(out.path)} cannot be written ({reason(error)}): name another --out") from None


def _begin(out: Place, record: dict[str, Any], overwrite: bool) -> np.ndarray:
    system, address = file_system(out.store), printable(out.path)
    held = _held(out)
    if held and RECORD not in held:
        raise UserError(f"{address} exists and holds no scores of a Ray job: name another --out")
    if held:
        with system.open_input_stream(f"{out.path}/{RECORD}") as file:
            begun = _parse(file.read())
        differing = [name for name in record if begun.get(name) != record[name]]
        if differing and not overwrite:
            raise UserError(
                f"{address} holds scores of another job, which differs in {', '.join(differing)}: name another --out, "
                "or add --overwrite to replace them"
            )
        if differing:
            system.delete_dir_contents(out.path)
            held = {}
    if not held:
        system.create_dir(out.path, recursive=True)
        with system.open_output_stream(f"{out.path}/{RECORD}") as file:
            file.write(json.dumps(record, indent=1).encode())
    names = [digests([])]
    for info in held.values():
        if info.base_name.endswith(".parquet"):
            try:
                with system.open_input_file(info.path) as file:
                    names.append(digests(parquet.read_table(file, columns=["name"])["name"].to_pylist()))
            except pa.ArrowInvalid:
                system.delete_file(info.path)
    return np.sort(np.concatenate(names))


def _parse(content: bytes) -> dict[str, Any]:
    """Return a record, which is empty if it is damaged. It then differs from every other."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _held(out: Place) -> dict[str, fs.FileInfo]:
    """Return what lies in the folder of the results, by name."""
    infos = file_system(out.store).get_file_info(fs.FileSelector(out.path, allow_not_found=True))
    return {info.base_name: info for info in infos}


def count(out: Place) -> tuple[int, Counts]:
    """Return the number of rows in the folder of the results, and what `write_table` counts."""
    files = [info.path for name, info in _held(out).items() if name.endswith(".parquet")]
    columns = ["error", "above_threshold", "unlike_training", "age_outside_training"]
    rows, totals = 0, np.zeros(len(columns), np.int64)
    if files:
        for batch in dataset.dataset(files, filesystem=file_system(out.store)).to_batches(columns=columns):
            error, above, unlike, outside = (batch.column(name).to_numpy(zero_copy_only=False) for name in columns)
            rows += len(batch)
            totals += [
                sum(text is not None for text in error),
                sum(above == True),  # noqa: E712  # None where it is not known
                int((unlike.astype(float) > 1).sum()),
                sum(outside == True),  # noqa: E712
            ]
    return rows, Counts(*map(int, totals))


def run_job(
    job: Job, sources: Sequence[str], tables: Sequence[Table], items: Sequence[Item], out: Place, overwrite: bool
) -> int:
    """Score all images that are not done yet, and write their rows. Ray has to be connected.

    Args:
        job: with what.
        sources: as the user gave them.
        tables: those among them, from `sources.open_table`.
        items: images and shards of the others, from `sources.list_items`.
        out: folder of the results.
        overwrite: as `begin` takes it.

    Returns:
        how many rows were written before.

    Raises:
        UserError: a source cannot be used, the cluster has no GPU for `cuda`, or as `begin`.
    """
    cluster = ray.cluster_resources()
    actors, resources = _plan(job, cluster)
    done = begin(out, job.record(sources), overwrite)
    scorer = job.scorer
    decode = Decoder(scorer.image_size, job.names, scorer.crop, accept=scorer.accept)
    load = _Load(decode, job.anonymous, ray.put(done) if len(done) else None)
    shared = ray.put(job)
    # Of three quarters of the cores a task asks for three quarters: one runs per core.
    core: dict[str, Any] = {"num_cpus": 1.0 if "num_gpus" in resources else 0.75}
    for images in _datasets(tables, items, int(cluster["CPU"])):
        decoded = images.map_batches(load, batch_format="pyarrow", batch_size=LEAST_ROWS, **core)
        scored = decoded.map_batches(
            _Score,
            fn_constructor_args=([shared], "num_gpus" in resources),
            batch_format="pyarrow",
            batch_size=job.batch_size,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            **resources,
        )
        scored.write_parquet(out.path, filesystem=file_system(out.store), ray_remote_args=core)
    return len(done)


def _plan(job: Job, cluster: Mapping[str, float]) -> tuple[int, dict[str, Any]]:
    """Return the number of actors, and what each asks of the cluster.

    On a CPU actors together ask for a quarter of the cores, though they use more: images need cores to be decoded on,
    and an actor that has none waits.
    """
    gpus, cpus = int(cluster.get("GPU", 0)), cluster["CPU"]
    if job.device == "cuda" and not gpus:
        raise UserError("the Ray cluster has no GPU: leave out --device cuda")
    if gpus and job.device != "cpu":
        return job.actors or gpus, {"num_gpus": 1, "num_cpus": 0}
    actors = job.actors or max(1, int(cpus / 2))
    return actors, {"num_cpus": min(1.0, cpus / (4 * actors))}  # more than one might fit on no machine


def _datasets(tables: Sequence[Table], items: Sequence[Item], cpus: int) -> Iterator[ray.data.Dataset]:
    """Yield Ray datasets of `sources.ITEMS` that together hold all images."""
    for table in tables:
        place = table.place
        found = ray.data.read_parquet(place.path, filesystem=file_system(place.store), columns=table.columns)
        to_rows = partial(items_of_table, folder=table.folder)
        yield found.map_batches(to_rows, batch_format="pyarrow", batch_size=MOST_ROWS)
    shards = [item for item in items if is_shard_at(item[1])]
    images = [item for item in items if not is_shard_at(item[1])]
    rows = min(MOST_ROWS, max(LEAST_ROWS, len(images) // (4 * cpus)))
    blocks = [images[start : start + rows] for start in range(0, len(images), rows)]
    if items:
        yield ray.data.from_arrow([to_items(block) for block in (*blocks, *([shard] for shard in shards))])


class _Load:
    """Read and decode images that are not done yet: `sources.ITEMS` in, `stages.DECODED` out.

    Args:
        decode: of the run.
        anonymous: names are hashes, so only an image that was read is known to be done.
        done: reference to the sorted digests of names that are written already; None if there are none.
    """

    def __init__(self, decode: Decoder, anonymous: bool, done: Any) -> None:
        self.decode, self.anonymous, self.done = decode, anonymous, done

    def __call__(self, items: pa.Table) -> Iterator[pa.Table]:
        """Yield the images of some rows; those of a shard in several tables."""
        rows = items.to_pylist()
        shards = [row for row in rows if row["content"] is None and is_shard_at(place_at(row))]
        files = [row for row in rows if row not in shards]
        if not self.anonymous:
            files = self._undone(files, [row["name"] for row in files])
        with ThreadPoolExecutor(_READERS) as pool:
            yield self._decode(zip([row["name"] for row in files], pool.map(_content, files)))
        for row in shards:
            yield from self._open(row)

    def _open(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """Yield the images of a shard; of one that cannot be read a row with its name and the error."""
        images: list[tuple[str, bytes | Exception]] = []
        try:
            for image in open_shard(place_at(row), row["name"]):
                images.append(image)
                if len(images) == LEAST_ROWS:
                    yield self._decode(images)
                    images = []
        except (OSError, ValueError) as error:
            images.append((row["name"] or place_at(row).path.rpartition("/")[2], error))
        yield self._decode(images)

    def _decode(self, files: Iterable[tuple[str, bytes | Exception]]) -> pa.Table:
        """Decode files, given by their names and their bytes or why they cannot be read."""
        found = []
        for name, content in files:
            if isinstance(content, bytes):
                found.append(self.decode(name, BytesFile(name, content)))
                continue
            if self.anonymous:  # what Arrow says of a file has its path
                name, why = "unreadable", "it cannot be opened"
            else:
                why = str(content) if isinstance(content, UserError) else reason(content)
            found.append(Decoded(name, None, None, None, False, f"{name} cannot be read ({why})"))
        return to_table(self._undone(found, [item.name for item in found]))

    def _undone(self, things: list[Any], names: Sequence[str]) -> list[Any]:
        """Return those of N things whose names are not written yet."""
        if self.done is None or not things:
            return things
        done, own = ray.get(self.done), digests(names)
        at = np.searchsorted(done, own).clip(max=len(done) - 1)
        return [thing for thing, known in zip(things, done[at] == own) if not known]


def _content(row: dict[str, Any]) -> bytes | Exception:
    """Return the bytes of a file, or why it cannot be read."""
    try:
        return read_bytes(place_at(row)) if row["content"] is None else row["content"]
    except (OSError, ValueError) as error:
        return error


class _Score:
    """Score images in an actor of its own: `stages.DECODED` in, `stages.schema_of` out.

    Args:
        job: a list of one reference to the `Job`. Ray would resolve a reference that is not in a list.
        gpu: score on the GPU that Ray gives this actor.
    """

    def __init__(self, job: list[Any], gpu: bool) -> None:
        shared: Job = ray.get(job[0])
        torch.set_num_threads(shared.threads or 2)
        self.scoring = shared.scoring()
        self.scoring.scorer.to("cuda" if gpu else "cpu")

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return score(self.scoring, from_table(decoded, self.scoring.scorer.image_size))
