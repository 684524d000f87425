import gzip
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fastsquid.data import open_data
from fastsquid.data.sources.digits import KINDS, _anatomy, _picker
from fastsquid.errors import UserError

TRUE_SIZE = 24  # cells of 8: scikit-learn's digits unresized


@pytest.fixture(scope="module")
def splits():
    return open_data(size=TRUE_SIZE)


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits as bytes -> index, and their values."""
    data = load_digits()
    scaled = np.rint(data.images * 255 / 16).astype(np.uint8)
    return {digit.tobytes(): i for i, digit in enumerate(scaled)}, data.target


def cells_of(image):
    side = image.shape[-1] // 3
    return [image[..., r : r + side, c : c + side] for r in range(0, 3 * side, side) for c in range(0, 3 * side, side)]


def test_sizes_labels_and_names(splits):
    assert [(name, len(split)) for name, split in splits.items()] == [("train", 1000), ("val", 200), ("test", 400)]
    assert Counter(splits["train"].classes) == {"normal": 1000}
    assert Counter(splits["val"].classes) == {"normal": 100, **dict.fromkeys(KINDS[1:], 25)}
    assert Counter(splits["test"].classes) == {"normal": 200, **dict.fromkeys(KINDS[1:], 50)}
    for name, split in splits.items():
        assert split.images.dtype == torch.uint8 and split.images.shape == (len(split), 1, TRUE_SIZE, TRUE_SIZE)
        assert split.images.max() == 255 and split.skipped == 0
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == [kind != "normal" for kind in split.classes]
        assert split.names[7] == f"{name}-0007-{split.classes[7]}" and len(set(split.names)) == len(split)
        assert split.cells.dtype == torch.bool and split.cells.shape == (len(split), 9)
        anomalous = {"normal": 0, "missing": 1, "swapped": 2, "flipped": 1, "zero": 1}
        assert split.cells.sum(1).tolist() == [anomalous[kind] for kind in split.classes]


def test_every_cell_is_what_its_kind_says(splits, digits):
    check_cells(splits, digits)


def check_cells(splits, digits):
    """Each cell traced back to its handwritten digit: right value, right cells, and no digit in two splits."""
    index, values = digits
    allowed = {"train": range(0, 1000), "val": range(1000, 1200), "test": range(1200, 1797)}
    for name, split in splits.items():
        for image, kind, anomalous in zip(split.images.numpy(), split.classes, split.cells.numpy()):
            cells = cells_of(image[0])
            for place, (cell, odd) in enumerate(zip(cells, anomalous), start=1):
                if odd and kind == "missing":
                    assert not cell.any()
                    continue
                if odd and kind == "flipped":
                    sources = [index.get(np.flip(cell, axis).tobytes()) for axis in (0, 1)]
                    source = next(s for s in sources if s is not None)
                    assert cell.tobytes() not in index
                else:
                    source = index[cell.tobytes()]
                value = 0 if odd and kind == "zero" else place
                if odd and kind == "swapped":
                    value = next(i for i in np.flatnonzero(anomalous) + 1 if i != place)
                assert values[source] == value
                assert source in allowed[name]


def test_flips_are_in_both_directions(splits, digits):
    index, _ = digits
    split, axes = splits["test"], []
    for image, kind, anomalous in zip(split.images.numpy(), split.classes, split.cells.numpy()):
        if kind == "flipped":
            cell = cells_of(image[0])[int(anomalous.argmax())]
            axes += [axis for axis in (0, 1) if np.flip(cell, axis).tobytes() in index]
    assert len(axes) == 50 and 15 <= sum(axes) <= 35


@pytest.mark.parametrize("kind", KINDS)
def test_an_anomaly_changes_exactly_its_cells(kind):
    data = load_digits()
    pool = np.rint(data.images * 255 / 16).astype(np.uint8)

    def draw(kind, seed):
        rng = np.random.default_rng(seed)
        return _anatomy(kind, _picker(pool, data.target, 16, rng), rng)

    for seed in range(40):
        image, anomalous = draw(kind, seed)
        twin, none = draw("normal", seed)
        assert image.shape == (48, 48) and not none.any()
        changed = [not np.array_equal(a, b) for a, b in zip(cells_of(image), cells_of(twin))]
        assert changed == anomalous.tolist()


def test_anomalies_are_spread_over_all_cells(splits):
    assert (splits["test"].cells.sum(0) > 10).all()


def test_validation_and_test_are_the_same_for_every_seed_and_train_is_not(splits):
    trains = [splits["train"].images]
    for seed in (1, 2):
        other = open_data(size=TRUE_SIZE, seed=seed)
        for name in ("val", "test"):
            assert torch.equal(other[name].images, splits[name].images) and other[name].names == splits[name].names
        trains.append(other["train"].images)
    assert not torch.equal(trains[0], trains[1]) and not torch.equal(trains[1], trains[2])
    again = open_data(size=TRUE_SIZE, seed=1, splits=("train",))
    assert list(again) == ["train"] and torch.equal(again["train"].images, trains[1])


@pytest.mark.parametrize("share, kinds", [(0.1, (25, 25, 25, 25)), (0.3, (75,) * 4), (0.006, (2, 2, 1, 1))])
def test_contamination_replaces_a_share_of_the_training_images(splits, digits, share, kinds):
    """The normal images before it are those of the seed; nothing else changes."""
    contaminated = open_data(size=TRUE_SIZE, contamination=share)
    train, normal = contaminated["train"], 1000 - sum(kinds)
    assert len(train) == 1000 and Counter(train.classes) == {"normal": normal, **dict(zip(KINDS[1:], kinds))}
    assert torch.equal(train.images[:normal], splits["train"].images[:normal])
    assert train.labels.tolist() == [0] * normal + [1] * sum(kinds)
    assert train.names[-1] == "train-0999-zero"
    for name in ("val", "test"):
        assert torch.equal(contaminated[name].images, splits[name].images)
    check_cells({"train": train}, digits)


def test_contamination_of_nothing_changes_nothing(splits):
    train = open_data(size=TRUE_SIZE, splits=("train",), contamination=0.0)["train"]
    assert torch.equal(train.images, splits["train"].images) and train.classes == ["normal"] * 1000


def test_contamination_is_the_seeds():
    first, again, other = (
        open_data(size=9, seed=seed, splits=("train",), contamination=0.5)["train"].images for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first[500:], other[500:])


def test_any_integer_is_a_seed():
    assert len(open_data(size=9, seed=-1, splits=("train",))["train"]) == 1000


def test_size_that_is_no_multiple_of_3_is_resized():
    """Drawn at the next one, so that every preset runs without data of its own."""
    split, drawn = (open_data(size=size, splits=("val",))["val"] for size in (64, 66))
    assert split.images.shape == (200, 1, 64, 64) and torch.equal(split.cells, drawn.cells)
    expected = F.interpolate(drawn.images.float(), 64, mode="bilinear", antialias=True)
    assert (split.images - expected).abs().max() <= 1.5


# MNIST files


def write_idx(folder, part, count, compress=False, first=0):
    """Digits of 6 x 5 pixels filled with their own number, from `first`; the last digit of the number is the label."""
    numbers = np.arange(first, first + count)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None], (count, 6, 5))
    for stem, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", numbers % 10)):
        data = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes() + array.astype(np.uint8).tobytes()
        if compress:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / stem).write_bytes(data)


def numbers_in(split):
    return {cell.unique().item() for image in split.images for cell in cells_of(image[0])}


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_with_both_parts(tmp_path, compress):
    write_idx(tmp_path, "train", 120, compress)
    write_idx(tmp_path, "t10k", 60, compress, first=120)
    splits = open_data(tmp_path, size=18)
    assert {name: len(split) for name, split in splits.items()} == {"train": 1000, "val": 200, "test": 400}
    assert splits["train"].images.shape == (1000, 1, 18, 18)
    assert numbers_in(splits["train"]) == {n for n in range(100) if n % 10}  # normal images have no zeros
    val = numbers_in(splits["val"]) - {0}  # of a missing cell
    assert val <= set(range(100, 120)) and len(val) > 15
    test = numbers_in(splits["test"]) - {0}
    assert test <= set(range(120, 180)) and len(test) > 50


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_mnist_with_one_part_takes_two_thirds_for_training(tmp_path, part):
    write_idx(tmp_path, part, 180)
    splits = open_data(tmp_path, size=18)
    assert numbers_in(splits["train"]) == {n for n in range(100) if n % 10}
    assert numbers_in(splits["val"]) - {0} <= set(range(100, 120))
    assert numbers_in(splits["test"]) - {0} <= set(range(120, 180))


def cut_gzip(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def bad_gzip(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")


def bad_magic(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x09\3" + bytes(40)))


def negative_sizes(folder):
    data = np.array([0x0803, -4, -10, 1], ">i4").tobytes() + bytes(40)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))


def cut_data(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def cut_header(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\3\0"))


def no_labels(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()


def too_few_labels(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(np.array([0x0801, 3], ">i4").tobytes() + bytes(3)))


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_gzip, r"train-images-idx3-ubyte\.gz .*\(.*\)"),
        (bad_gzip, r"train-images-idx3-ubyte\.gz .*\(.*\)"),
        (bad_magic, r"train-images-idx3-ubyte\.gz .*\bidx\b.*\b3-dim"),
        (negative_sizes, r"train-images-idx3-ubyte\.gz .*\bidx\b.*\b3-dim"),
        (cut_data, r"train-images-idx3-ubyte\.gz .*\bidx\b.*\b3-dim"),
        (cut_header, r"train-images-idx3-ubyte\.gz .*\bidx\b.*\b3-dim"),
        (no_labels, "train-images-idx3-ubyte.gz .*train-labels-idx1-ubyte"),
        (too_few_labels, "180 images .* 3 labels"),
    ],
)
def test_damaged_mnist_is_named(tmp_path, damage, message):
    write_idx(tmp_path, "train", 180, compress=True)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, size=18)


def test_too_few_digits(tmp_path):
    write_idx(tmp_path, "train", 12)
    with pytest.raises(UserError, match=r"\bdigit 0 .*\bval\b"):
        open_data(tmp_path, size=18, splits=("val",))
