"""The training loop of one run folder: epochs, validation, checkpoints, and the report at the end."""

import copy
import json
import logging
import os
import signal
import sys
import time

import torch
from tqdm import tqdm

from ..drawing.curves import draw_curves
from ..errors import CheckpointError, DivergedError
from ..evaluation.robustness import perturbed_aucs
from ..evaluation.validation import validate
from ..runs import checkpoint as ckpt
from ..runs.folder import CURVES, METRICS, write_scores
from ..runs.records import CheckpointState, DetectorState
from ..scoring.scores import calibrate, require_finite, score_splits, standardize
from ..utils import distributed
from ..utils.devices import device_name, peak_memory_mb
from ..utils.files import replacing
from .epoch import Steps
from .results import report_run
from .trainer import Trainer

log = logging.getLogger(__name__)
SAVE_SECONDS = 30  # a checkpoint is written at most this often, at the end, and when training is stopped


class Run:
    """A run folder and everything that its next checkpoint must hold; opened where its latest checkpoint left it.

    Of several processes all train, and the first alone validates, writes and reports, while the others wait for it.

    Args:
        folder: Path of the run folder, which `checkpoint.create_run` made.
        detector: a `Detector` on the device to train on, initialised from the run's seed.
        data: splits by name; `train` and, where there is one, a labelled `val` are used for training.
        uncropped: the labelled `val` as `evaluation.perturbed_aucs` takes it, for a config that monitors and crops.
        seed: of order, augmentation and everything drawn in training.
        compile, precision: as `training.Trainer`.

    Raises:
        CheckpointError: a checkpoint that is damaged or of another configuration.
    """

    def __init__(self, folder, detector, data, seed, compile=False, precision="fp32", uncropped=None):
        self.folder, self.detector, self.config, self.data, self.seed = folder, detector, detector.config, data, seed
        self.device = next(detector.parameters()).device
        self.images = data["train"].images.to(self.device)
        validation = data.get("val")
        self.validation = validation if validation is not None and validation.labels is not None else None
        self.perturbed = uncropped or self.validation  # what perturbations change
        self.trainer = Trainer(detector, compile, precision)
        self.optimizers = {"generator": self.trainer.generator_optimizer}
        if self.trainer.discriminator_optimizer is not None:
            self.optimizers["discriminator"] = self.trainer.discriminator_optimizer
        self.judge = self.trainer.judge  # which is saved
        self.state = CheckpointState(self.config.to_dict())
        latest = ckpt.latest_checkpoint(folder)
        if latest:
            self.state = ckpt.read_state(latest, self.config)
            self.state.config = self.config.to_dict()
            ckpt.load_detector(self.judge, latest, self.state, "last")
            if self.judge is not detector:
                ckpt.load_detector(detector, latest, self.state, "training")
            ckpt.load_optimizers(self.optimizers, latest, self.state)
        if distributed.leads():
            for leftover in folder.glob(".*.tmp"):  # files that a killed process had begun
                if leftover.is_file():
                    leftover.unlink()
        self.steps = Steps(self.trainer, self.images)
        self.best_tensors = None  # of a best detector that no checkpoint holds yet
        self.saved = -float("inf")
        self.history = self._read_history() if distributed.leads() else []
        self.stop = False

    def train(self):
        """Train to the last epoch and report.

        Returns:
            False if a signal stopped training after a whole step, which is then saved.

        Raises:
            KeyboardInterrupt: a signal ended a step before it was whole; the latest checkpoint is left as it is.
            DivergedError: losses or weights that are not finite.
        """
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.first_step = time.monotonic()
            self.started = self.first_step - self.state.seconds
            while self.state.epoch < self.config.epochs:
                if not self._train_epoch():
                    self._require_finite()
                    self.state.sums, _ = self.steps.totals(self.state.iteration)
                    self.state.last = DetectorState(self.state.epoch)
                    if distributed.leads():
                        self._save()
                    distributed.barrier()  # torchrun would end the one that saves when another has ended
                    return False
                self._end_epoch()
            if distributed.leads() and not self.state.finished:
                self._finish()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if distributed.leads():
            self._report()
        distributed.barrier()
        return True

    def _train_epoch(self) -> bool:
        """Run the rest of the current epoch; return False if a signal came."""
        epoch, state = self.state.epoch, self.state
        bar = tqdm(
            self.steps.epoch(self.seed, epoch, state.iteration, state.sums),
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            unit="step",
            leave=False,
            initial=state.iteration,
            total=self.steps.per_epoch,
            disable=not (distributed.leads() and sys.stderr.isatty()),
        )
        # The loss of the epoch before: those of this one stay on the device until it ends.
        loss = {"loss": self.history[-1]["losses"]["generator"]} if self.history else {}
        bar.set_postfix(lr=f"{self.trainer.learning_rate(epoch):.2g}", **loss)
        try:
            for _ in bar:
                state.iteration += 1
                if self.first_step:
                    self._note_first_step()
                if distributed.any_of(self.stop):
                    return False
        except Exception as error:
            # Ctrl-C also kills the compilers that torch.compile has started, and so fails the step.
            if not self.stop or distributed.world() > 1:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("the step that the signal interrupted has failed: %s", reason)
            raise KeyboardInterrupt from None
        return True

    def _end_epoch(self):
        """The epoch counts as done in every process; the first one judges it."""
        frozen = self._require_finite()
        sums, counts = self.steps.totals(self.state.iteration)
        self.state.epoch, self.state.iteration, self.state.sums = self.state.epoch + 1, 0, {}
        if distributed.leads():
            self._judge_epoch({name: total / counts[name] for name, total in sums.items()}, frozen)

    def _judge_epoch(self, losses, frozen):
        """Validate the judge, of which `frozen` is the frozen copy; write a line of metrics and a checkpoint."""
        state = self.state
        validation = perturbed = criterion = None
        try:
            standardize(frozen, self.images, self.judge, self.detector)
            if self.validation is not None:
                validation = validate(frozen, self.validation)
                if self.config.monitor:
                    perturbed = perturbed_aucs(frozen, self.perturbed)
                if self.config.select == "auc":
                    criterion = validation[self.config.score]["auc"]
            if self.config.select == "last":
                state.best = None  # of a run that an earlier version began, and selected by synthetic opacities
            best = state.best
            better = criterion is not None and (best is None or criterion > best.criterion)
        except DivergedError as error:
            raise self._diverged(f"after epoch {state.epoch} {error}") from None
        line = {
            "epoch": state.epoch,
            "lr": float(self.trainer.generator_optimizer.param_groups[0]["lr"]),
            "losses": losses,
        }
        if validation:
            line["validation"] = {name: result["auc"] for name, result in validation.items()}
        if perturbed:
            line["perturbed"] = perturbed
        line["seconds"] = round(time.monotonic() - self.started, 3)
        last = DetectorState(line["epoch"], validation, criterion=criterion)
        state.last = last
        if better:
            state.best = last
            self.best_tensors = {name: t.detach().clone() for name, t in self.judge.state_dict().items()}
        self.history.append(line)
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self._save()
        log.info(_epoch_line(line, self.config.epochs, self.config.score, better))

    def _finish(self):
        """Calibrate the last and the best detector, once, and save: the run is finished.

        Calibration scores every training image, which during training would cost as much as the epoch itself.
        """
        last, best = self.state.last, self.state.best
        try:
            last.calibration = calibrate(self.judge, self.images, self.validation)
            if best is not None and best.epoch == last.epoch:
                best.calibration = last.calibration
            elif best is not None:
                best.calibration = calibrate(self._best(), self.images, self.validation)
        except DivergedError as error:
            raise self._diverged(f"after epoch {self.state.epoch} {error}") from None
        self.state.finished = True
        self._save()

    def _best(self):
        """A copy of the judge with the weights of the best epoch, which may not be in a checkpoint yet."""
        detector = copy.deepcopy(self.judge)
        if self.best_tensors is not None:
            detector.load_state_dict(self.best_tensors)
        else:
            latest = ckpt.latest_checkpoint(self.folder)
            ckpt.load_detector(detector, latest, ckpt.read_state(latest, self.config), "best")
        return detector

    def _save(self):
        self.state.seconds = time.monotonic() - self.started
        self.state.peak_memory_mb = max(self.state.peak_memory_mb, peak_memory_mb())
        ckpt.save_checkpoint(
            self.folder,
            self.state,
            self.judge.state_dict(),
            self.optimizers,
            self.best_tensors,
            None if self.judge is self.detector else self.detector.state_dict(),
        )
        self.best_tensors, self.saved = None, time.monotonic()

    def _require_finite(self):
        """Stop before a checkpoint is written with losses or weights that are not finite.

        Returns:
            the judge, frozen.

        Raises:
            DivergedError: a loss of this epoch, or a score of the first two training images, is not finite.
        """
        self.steps.require_finite(self.state.epoch, self._remedy())
        frozen = self.judge.eval().frozen()
        try:
            require_finite(frozen, self.images[:2])
            if self.judge is not self.detector:  # an average takes a while to show what broke
                require_finite(self.detector, self.images[:2])
        except DivergedError as error:
            raise self._diverged(f"after step {self.state.iteration} of epoch {self.state.epoch + 1} {error}") from None
        return frozen

    def _note_first_step(self):
        """The time of this process's first step, most of which torch.compile takes where it is on."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.state.first_step_seconds = round(time.monotonic() - self.first_step, 3)
        self.first_step = None
        if self.trainer.compiled:
            log.info("first step, with compilation: %.1f s", self.state.first_step_seconds)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(f"{what}: training stopped; {self._remedy()}")

    def _remedy(self) -> str:
        kept = ckpt.latest_checkpoint(self.folder)
        which = f"the last good checkpoint is {kept}" if kept else "no checkpoint had been written yet"
        return f"{which}; a lower --lr may help"

    def _report(self):
        """Curves, and `report_run` of the checkpoint that the run stands for."""
        latest = ckpt.latest_checkpoint(self.folder)
        state = ckpt.read_state(latest, self.config)
        if state.detector(state.chosen).epoch != state.last.epoch:
            ckpt.load_detector(self.judge, latest, state, "last")
            write_scores(self.folder, self.data, score_splits(self.judge, self.data), "-last")
        ckpt.load_detector(self.judge, latest, state, state.chosen)
        facts = {
            "epochs": self.config.epochs,
            "seconds": round(state.seconds, 1),
            "first_step_seconds": state.first_step_seconds,
            "compiled": self.trainer.compiled,
            "precision": "bf16" if self.trainer.half else "fp32",
            "peak_memory_mb": round(state.peak_memory_mb),
            "device": device_name(self.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": distributed.world(),
        }
        draw_curves(self.history, self.folder / CURVES)
        report_run(self.folder, self.judge, self.data, self.images, state, self.seed, facts)

    def _read_history(self):
        """Lines of metrics.jsonl up to the checkpoint; a killed run may have left one more, or half of one."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()[: self.state.epoch]
        try:
            history = [json.loads(line) for line in lines]
        except ValueError:
            raise CheckpointError(f"{path} is damaged: a line of it is not JSON; use another copy of the run") from None
        with replacing(path) as file:
            file.writelines(line + "\n" for line in lines)
        return history

    def _on_signal(self, number, frame):
        if self.stop and distributed.world() == 1:  # a second Ctrl-C does not wait, but torchrun repeats the first
            raise KeyboardInterrupt
        self.stop = True
        if self.first_step and self.trainer.compiled and distributed.world() == 1:
            # Not print, which the signal may have interrupted.
            os.write(2, b"\nstopping after the first step, which compiles; Ctrl-C again stops at once\n")


def _epoch_line(line, epochs, score, better):
    parts = [
        f"epoch {line['epoch']}/{epochs}",
        *(f"{name} {line['losses'][name]:.4g}" for name in ("discriminator", "student") if name in line["losses"]),
    ]
    if "validation" in line:
        shown = (score, *(name for name in ("residual", "patch_residual") if name != score))
        parts.append("validation AUC: " + "  ".join(f"{name} {line['validation'][name]:.3f}" for name in shown))
    return "  ".join([*parts, f"{line['seconds']:.0f} s", *(["best so far"] if better else [])])
