"""`python -m fastsquid.convert SYSTEM GENERATOR DISCRIMINATOR --out RUN`: a published checkpoint as a run folder."""

import hashlib
import io
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from .checkpoint import create_run, latest_checkpoint, new_folder, read_state, refuse_existing, save_checkpoint
from .cli import Parser, add_device_options, add_reading_options, choose_device, run_command
from .errors import UserError
from .evaluation import calibrate, evaluate_run, validate
from .files import write_json
from .launch import fingerprint_of, open_run_data
from .loop import report_run
from .model import Detector
from .published import discriminator_state, generator_state, system_of
from .published_layout import (
    discriminator_layout,
    infer_config,
    infer_discriminator_width,
    refuse_misfits,
)


def main(arguments=None):
    parser = Parser(
        prog="python -m fastsquid.convert",
        description="Make a run folder of a checkpoint that SQUID's or SimSID's released code wrote.",
    )
    parser.add_argument("system", metavar="SYSTEM", choices=["squid", "simsid"], help="squid or simsid")
    parser.add_argument("generator", metavar="GENERATOR", help="the generator's state dict, model.pth in that code")
    parser.add_argument("discriminator", metavar="DISCRIMINATOR", help="the discriminator's, discriminator.pth")
    parser.add_argument("--out", metavar="RUN", required=True, help="run folder to make")
    parser.add_argument(
        "--data", help="folder as fastsquid.train takes it, whose normal images calibrate; default: not calibrated"
    )
    add_reading_options(parser)
    add_device_options(parser)
    options = parser.parse_args(arguments)
    if options.data == "":
        raise UserError("--data is empty: give a folder of normal images, or leave it out")

    refuse_existing(options.out)
    device = choose_device(options.device)
    generator, discriminator = (Published(path) for path in (options.generator, options.discriminator))
    detector = build_detector(generator, discriminator, options.system, options.impl).to(device).eval()
    config = detector.config
    run = {
        "config": config,
        "data": options.data and str(Path(options.data).resolve()),
        "seed": 0,
        "skip_unreadable": options.skip_unreadable,
        "anonymous": options.anonymous,
    }
    print_sizes(config)
    data, split, normal = {}, None, None
    if options.data:
        data = open_run_data(run)
        split, normal = choose_normal(data, options.data)
    converted = {
        "system": options.system,
        "generator": generator.sha256,
        "discriminator": discriminator.sha256,
        "images": None if normal is None else len(normal),
    }
    with new_folder(options.out) as folder:
        create_run(folder, **run, fingerprint=None if split is None else fingerprint_of(split), converted=converted)
        state = {"finished": True, "best": None, "last": what_is_known(detector, data, normal)}
        save_checkpoint(folder, {**state, "config": config.to_dict()}, detector.state_dict(), optimizers={})
        state = read_state(latest_checkpoint(folder), config)
        facts = {"preset": config.preset, "seed": run["seed"], "converted": converted}
        if normal is None:
            write_json(folder / "summary.json", {**facts, **evaluate_run({}, {}, state, "last", config)})
            print("not calibrated, since there is no --data: the column of calibrated scores stays empty")
        else:
            report_run(folder, detector, data, normal, state, "last", facts)
    print(f"run folder: {options.out}")


def what_is_known(detector, data, normal):
    """What the state of a checkpoint says of its detector, as training would; of its training nothing is known.

    Args:
        detector: a `Detector` in eval mode.
        data: splits by name.
        normal: the images that calibrate, or None.
    """
    validation = data.get("val")
    if validation is not None and validation.labels is None:
        validation = None
    return {
        "epoch": None,
        "validation": None if validation is None else validate(detector, validation),
        "calibration": None if normal is None else calibrate(detector, normal, validation),
    }


class Published:
    """A state dict as the released code saves it, `torch.save(model.state_dict(), path)`.

    Attributes:
        path: of the file.
        tensors: dict of CPU tensors by name, floating-point ones as float32, without the `module.` of DataParallel.
        sha256: of the file.

    Raises:
        UserError: no such file, not of torch.save, damaged, or anything but a dict of tensors.
    """

    def __init__(self, path):
        self.path = path
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise UserError(f"{path} {what}: give a file that torch.save wrote")
        content = Path(path).read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # of a damaged file PyTorch raises almost anything
            if "GLOBAL " in str(error):
                why = "holds Python objects, not tensors alone, and is not opened, since those can run code"
            else:
                why = "is damaged, or no file of torch.save"
            raise UserError(f"{path} {why}: give the state dict that the published code saved") from None
        if not isinstance(found, dict) or not found or not all(map(_is_plain, found.values())):
            what = f"a dict with {next(iter(found))!r}" if isinstance(found, dict) and found else type(found).__name__
            raise UserError(
                f"{path} holds {what}, not tensors by name: give the state dict that the published code saved"
            )
        parallel = all(str(name).startswith("module.") for name in found)
        self.tensors = {
            str(name).removeprefix("module." if parallel else ""): t.float() if t.is_floating_point() else t
            for name, t in found.items()
        }


def _is_plain(value):
    """Whether it is a tensor of which every number is there: not sparse, nested or on PyTorch's device `meta`, nor one
    number that stands for more than memory holds."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_nested or value.is_quantized)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def build_detector(generator, discriminator, system, impl="auto"):
    """The detector that two files hold, on the CPU.

    Args:
        generator, discriminator: `Published`.
        system: `squid` or `simsid`.
        impl: `auto`, `triton` or `torch`.

    Raises:
        UserError: they are given in the wrong order, are of the other system, or of an architecture that is not the
            published one: what is missing, left over or of another shape is named.
    """
    drawer, judge = generator.tensors, discriminator.tensors
    if "regressor.weight" in drawer:
        raise UserError(f"{generator.path} holds a discriminator: give the generator first, the discriminator second")
    if "out_conv.conv.weight" in judge:
        raise UserError(f"{discriminator.path} holds a generator: give the generator first, the discriminator second")
    found = system_of(drawer)
    if found not in (None, system):
        raise UserError(f"{generator.path} holds a generator of {found}: give {found} in the place of {system}")
    with _reading(discriminator.path, system, "discriminator"):
        last = infer_discriminator_width(judge)
    with _reading(generator.path, system, "generator"):
        config = infer_config(drawer, system, last)
    with _reading(discriminator.path, system, "discriminator"):
        refuse_misfits(judge, discriminator_layout(config))

    state = {f"generator.{name}": tensor for name, tensor in generator_state(drawer, system, config.levels).items()}
    state |= {f"discriminator.{name}": tensor for name, tensor in discriminator_state(judge).items()}
    if config.memory == "queue":  # a published queue counts as full
        state["generator.inpaint.memory.pointer"] = torch.tensor(0)
        state["generator.inpaint.memory.filled"] = torch.tensor(config.slots)
    if config.inpainting == "memory":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("generator.inpaint.mix.")}
    detector = Detector(config, impl)
    detector.load_state_dict(state)
    return detector


@contextmanager
def _reading(path, system, what):
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} cannot be read as a {what} of {system}: {error}") from None


def choose_normal(data, path):
    """The split that calibrates, and its normal images, uint8 or uint16 (N, 1, H, W).

    That is `train`; of data without it `val`, or else `test`, where they are labelled.

    Args:
        data: splits by name, of the folder `path`.

    Raises:
        UserError: nothing is known to be normal.
    """
    if "train" in data:
        return data["train"], data["train"].images
    for name in ("val", "test"):
        if name in data and data[name].labels is not None:
            return data[name], data[name].images[data[name].labels == 0]
    raise UserError(f"{path} has no images that are known to be normal: put some in train/NORMAL")


def print_sizes(config):
    """Says what was read from the weights, and what they do not tell."""
    grid, size = config.grid, config.image_size
    print(
        f"{size} x {size} pixels, width {config.width}, {config.levels} levels, {grid} x {grid} patches, in-painting "
        f"{config.memory} and {config.decoder_memory} decoder memories ({config.decoder_scope}) of {config.slots} slots"
    )
    if config.inpainting == "memory":
        print("the transformer layer was never trained, so it was not in use and is left out")
    values = "[0, 1]" if config.value_range == "unit" else "[-1, 1]"
    print(
        f"not to be seen in weights, and taken from the published configuration: top-{config.top_k}, {config.heads} "
        f"heads, patches stitched before level {config.combine}, images in {values}"
    )


if __name__ == "__main__":
    run_command(main)
