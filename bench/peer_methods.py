"""The methods that bench/peers.py compares. Each learns from healthy images, and then scores images.

All get the same images, and each library's own default settings. A row says what differs from them.
"""

import contextlib
import inspect
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peer_features import (
    feature_maps,
    fit_places,
    load_backbone,
    mahalanobis_scores,
    nearest_patch_scores,
    to_patches,
)

from fastsquid.data import to_unit
from fastsquid.errors import UserError

# What is left out, and why.
LEFT_OUT = {
    "anomalib's AnomalyDINO, AnomalyVFM, CFA, CFM, CFLOW, CS-Flow, DFKDE, DFM, Dinomaly, FastFlow, FoundAD, FRE, "
    "GeneralAD, INP-Former, L2BT, MHPatchCore, PaDiM, PatchCore, PatchFlow, RAD, Reverse Distillation, STFPM, "
    "SuperADD, SuperSimpleNet, U-Flow, UniNet": "their backbones have downloaded weights",
    "anomalib's EfficientAD": "it needs a downloaded teacher and ImageNette",
    "anomalib's DSR": "it needs a downloaded quantized auto-encoder",
    "anomalib's GLASS": "it needs a downloaded backbone and textures",
    "anomalib's WinCLIP, VlmAd": "they need a downloaded vision-language model",
    "anomalib's AI-VAD, FUVAS": "they are for videos",
    "PyOD's SO_GAAL, MO_GAAL": "their score is the discriminator's output, which is trained to be largest for healthy "
    "images, although PyOD documents larger = more abnormal",
    "PyOD's other detectors": "one or two of each kind are compared",
    "f-AnoGAN": "neither library has it; ALAD trains an encoder beside its GAN, as it does, and AnoGAN came before it",
}


class Job(NamedTuple):
    """What a method gets beside the healthy images.

    Attributes:
        data: path of the data.
        folder: of this run.
        seed: of all that the method draws.
        cache: folder of decoded images.
        minutes: limit of its training, of processor time.
        features: file of weights, or None.
        backbone: name of the timm model that they belong to.
    """

    data: str
    folder: Path
    seed: int
    cache: Path
    minutes: float
    features: Path | None = None
    backbone: str = "resnet18"


class Fitted(NamedTuple):
    """A method after training.

    Attributes:
        score: function of uint8 images (N, 1, S, S) that returns scores (N,), larger = more abnormal.
        settings: what the row says of its settings.
    """

    score: Callable[[torch.Tensor], np.ndarray]
    settings: str


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        library: the package whose version is recorded.
        modules: are imported before the time is taken; PyTorch's optimizers import torch._dynamo.
        fit: function of healthy images, uint8 (N, 1, S, S), and a `Job`, that returns a `Fitted`.
        random: whether seeds give different results.
    """

    library: str
    modules: tuple[str, ...]
    fit: Callable[[torch.Tensor, Job], Fitted]
    random: bool = True


class LimitError(Exception):
    """Training took longer than the limit."""


@contextlib.contextmanager
def limit(minutes: float) -> Iterator[None]:
    """Raise a LimitError in the body once this process has computed for so long in it."""

    def stop(number: int, frame: Any) -> None:
        raise LimitError(f"training had not ended after {minutes:g} minutes")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def pixels(images: torch.Tensor) -> np.ndarray:
    """Return images as float32 (N, pixels) in [0, 1]."""
    return to_unit(images).flatten(1).numpy()


def pyod(name: str, random: bool = True) -> Method:
    """Return one of PyOD's detectors, `module.Class`, on pixels."""
    module, kind = name.split(".")

    def fit(images: torch.Tensor, job: Job) -> Fitted:
        make = getattr(import_module(f"pyod.models.{module}"), kind)
        known = {"random_state": job.seed, "n_features": images[0].numel()}
        taken = {key: value for key, value in known.items() if key in inspect.signature(make).parameters}
        detector = make(**taken)
        with limit(job.minutes):
            detector.fit(pixels(images))
        length = next((f"{vars(detector)[key]} epochs" for key in ("epochs", "epoch_num") if key in vars(detector)), "")
        return Fitted(lambda images: detector.decision_function(pixels(images)), length)

    return Method("pyod", (f"pyod.models.{module}", "torch._dynamo"), fit, random)


def anomalib(name: str, epochs: int, textures: str | None = None) -> Method:
    """Return one of anomalib's models, trained by Lightning's Trainer in batches of 32, as its data modules have them.

    Args:
        name: of the class.
        epochs: after which training ends. The classes themselves have no number of epochs.
        textures: name of the argument that takes a folder of textures. It gets an empty one: anomalib then draws
            Perlin noise, and downloads nothing.
    """

    def fit(images: torch.Tensor, job: Job) -> Fitted:
        from anomalib import models
        from anomalib.data import ImageBatch
        from lightning.pytorch import Callback, Trainer

        class Stop(Callback):
            """Count batches, and stop when the time is over."""

            batches, end = 0, time.process_time() + 60 * job.minutes

            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                self.batches += 1
                trainer.should_stop = trainer.should_stop or time.process_time() > self.end

        def collate(chosen: list[int]) -> Any:
            return ImageBatch(image=rgb(images[chosen]))

        arguments = {}
        if textures:
            arguments[textures] = job.folder / "no-textures"
            arguments[textures].mkdir(parents=True, exist_ok=True)
        make = getattr(models, name)
        model = make(
            pre_processor=make.configure_pre_processor(tuple(images.shape[-2:])),
            **dict.fromkeys(("post_processor", "evaluator", "visualizer"), False),
            **arguments,
        )
        loader = torch.utils.data.DataLoader(range(len(images)), batch_size=32, shuffle=True, collate_fn=collate)
        stop = Stop()
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=job.folder,
            callbacks=[stop],
            **quiet,
            **model.trainer_arguments,
        )
        trainer.fit(model, loader)
        model.eval()

        @torch.no_grad()
        def score(images: torch.Tensor) -> np.ndarray:
            batches = (model.pre_processor.transform(rgb(batch)) for batch in images.split(32))
            return torch.cat([model.model(batch).pred_score for batch in batches]).numpy()

        said = f"{stop.batches / len(loader):.3g} of {epochs} epochs"
        return Fitted(score, said + ", Perlin noise in place of textures" * bool(textures))

    return Method("anomalib", ("anomalib.models", "lightning.pytorch", "torch._dynamo"), fit)


def rgb(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (N, 1, S, S) as float32 (N, 3, S, S) in [0, 1]."""
    return to_unit(images).expand(-1, 3, -1, -1).contiguous()


def own(preset: str) -> Method:
    """Return a preset of fastsquid, trained by the public command; its last epoch scores."""

    def fit(images: torch.Tensor, job: Job) -> Fitted:
        from fastsquid import train
        from fastsquid.runs.trained import load_trained
        from fastsquid.scoring.scores import score_images

        run = job.folder / "run"
        shutil.rmtree(run, ignore_errors=True)  # of an attempt that was stopped
        options = {"--data": job.data, "--preset": preset, "--seed": job.seed, "--out": run, "--cache": job.cache}
        options |= {"--image-size": images.shape[-1], "--select": "last", "--device": "cpu"}
        with limit(job.minutes):
            if train.main([str(word) for pair in options.items() for word in pair]):
                raise UserError(f"training of {preset} was stopped")
        detector = load_trained(run, "last").detector
        config = detector.config
        return Fitted(
            lambda images: score_images(detector, images)[config.score], f"{config.epochs} epochs, `{config.score}`"
        )

    return Method("fastsquid", ("fastsquid.train", "torch._dynamo"), fit)


def mean_image(images: torch.Tensor, job: Job) -> Fitted:
    """What any method should exceed: the distance of an image to the mean of the healthy ones."""
    mean = pixels(images).mean(0)
    return Fitted(lambda images: np.linalg.norm(pixels(images) - mean, axis=1), "distance to the mean training image")


def patchcore(images: torch.Tensor, job: Job) -> Fitted:
    """Levels 2 and 3, a random tenth of the training patches as the bank, and the distance of the worst patch."""
    assert job.features is not None
    backbone = load_backbone(job.features, job.backbone)
    patches = to_patches(feature_maps(backbone, images, [2, 3]))
    bank = patches[np.random.default_rng(job.seed).choice(len(patches), len(patches) // 10, replace=False)]
    return Fitted(
        lambda images: nearest_patch_scores(bank, feature_maps(backbone, images, [2, 3])),
        f"{job.backbone} with {job.features.name}, levels 2 and 3, a random tenth of the patches",
    )


def padim(images: torch.Tensor, job: Job) -> Fitted:
    """Levels 1 to 3, 100 random channels, a Gaussian per place, and the Mahalanobis distance of the worst place."""
    assert job.features is not None
    backbone = load_backbone(job.features, job.backbone)
    levels = [1, 2, 3]
    total = feature_maps(backbone, images[:1], levels).shape[1]
    channels = np.random.default_rng(job.seed).permutation(total)[:100]
    means, precisions = fit_places(feature_maps(backbone, images, levels, channels))
    return Fitted(
        lambda images: mahalanobis_scores(means, precisions, feature_maps(backbone, images, levels, channels)),
        f"{job.backbone} with {job.features.name}, levels 1 to 3, {len(channels)} random channels",
    )


METHODS = {
    "mean-image": Method("numpy", (), mean_image, random=False),
    "isolation-forest": pyod("iforest.IForest"),
    "knn": pyod("knn.KNN", random=False),
    "pca": pyod("pca.PCA", random=False),
    "auto-encoder": pyod("auto_encoder.AutoEncoder"),
    "vae": pyod("vae.VAE"),
    "deep-svdd": pyod("deep_svdd.DeepSVDD"),
    "alad": pyod("alad.ALAD"),
    "anogan": pyod("anogan.AnoGAN"),
    "ganomaly": anomalib("Ganomaly", 100),
    "draem": anomalib("Draem", 700, textures="dtd_dir"),
}


def methods(preset: str, features: Path | None) -> dict[str, Method]:
    """Return all methods by name. Those on pretrained features are there with a file of weights, and named after it."""
    found = {preset: own(preset), **METHODS}
    if features is not None:
        for name, fit in (("patchcore", patchcore), ("padim", padim)):
            found[f"{name}-{features.stem}"] = Method("timm", ("timm",), fit)
    return found
