"""The training loop of one run folder: epochs, validation, checkpoints, and the report at the end."""

import copy
import json
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..data.split import Split
from ..drawing.curves import draw_curves
from ..errors import CheckpointError, DivergedError
from ..evaluation.robustness import perturbed_aucs
from ..evaluation.validation import validate
from ..model.detector import Detector
from ..runs import checkpoint as ckpt
from ..runs.checks import require_fields
from ..runs.folder import CURVES, METRICS, parse_json, write_scores
from ..runs.records import CheckpointState, DetectorState, EpochLine
from ..scoring.scores import calibrate, require_finite, score_splits, standardize
from ..utils import distributed
from ..utils.devices import device_name, peak_memory_mb
from ..utils.files import replacing, require_regular
from .epoch import Steps
from .progress import Progress, duration
from .results import report_run
from .tensorboard import Board
from .trainer import Trainer

log = logging.getLogger(__name__)
SAVE_SECONDS = 30  # least time between checkpoints; one is also written at the end and when training is stopped
# Several processes ask each other this often whether one got a signal. torchrun kills them 30 seconds after its own.
STOP_STEPS = 5


class Run:
    """A run folder and everything that its next checkpoint must hold. It opens where its latest checkpoint ended.

    With several processes all train. Rank 0 alone validates, writes and reports, while the others wait for it.

    Args:
        folder: the run folder, which `runs.folder.create_run` made.
        detector: on the device to train on, initialized from the run's seed.
        data: splits by name. Training uses `train` and, where there is one, a labeled `val`.
        seed: of order, augmentation and all other random numbers of training.
        compile, precision: as for `Trainer`.
        uncropped: the labeled `val` as `perturbed_aucs` takes it, for a config with `monitor` and `crop`.
        tensorboard: write losses and validation for TensorBoard too.

    Raises:
        CheckpointError: the checkpoint is damaged or of another configuration.
    """

    def __init__(
        self,
        folder: Path,
        detector: Detector,
        data: dict[str, Split],
        seed: int,
        compile: bool = False,
        precision: str = "fp32",
        uncropped: Split | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.detector, self.config, self.data, self.seed = folder, detector, detector.config, data, seed
        self.device = next(detector.parameters()).device
        self.images = data["train"].images.to(self.device)
        validation = data.get("val")
        self.validation = validation if validation is not None and validation.labels is not None else None
        self.perturbed = uncropped or self.validation  # the images that are perturbed
        self.trainer = Trainer(detector, compile, precision)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"generator": self.trainer.generator_optimizer}
        if self.trainer.discriminator_optimizer is not None:
            self.optimizers["discriminator"] = self.trainer.discriminator_optimizer
        self.evaluated = self.trainer.evaluated  # the one that is validated and saved
        self.state = CheckpointState(self.config.to_dict())
        latest = ckpt.latest_checkpoint(folder)
        if latest:
            self.state = ckpt.read_state(latest, self.config)
            self.state.config = self.config.to_dict()
            ckpt.load_detector(self.evaluated, latest, self.state, "last")
            if self.evaluated is not detector:
                ckpt.load_detector(detector, latest, self.state, "training")
            ckpt.load_optimizers(self.optimizers, latest, self.state)
        if distributed.leads():
            if latest:
                ckpt.remove_others(latest)
            for leftover in folder.glob(".*.tmp"):  # unfinished files of a killed process
                if leftover.is_file():
                    leftover.unlink()
        self.steps = Steps(self.trainer, self.images)
        self.progress = Progress(self.steps, self.config.epochs)
        self.best_tensors: ckpt.Tensors | None = None  # of a best detector that no checkpoint holds yet
        self.saved = -float("inf")
        self.history = self._read_history() if distributed.leads() else []
        self.board = Board(folder, self.state.epoch) if tensorboard and distributed.leads() else None
        self.stop = False

    def train(self) -> bool:
        """Train to the last epoch and report.

        Returns:
            False if a signal stopped training after a complete step, or while scores were calibrated. What was
            trained is then saved.

        Raises:
            KeyboardInterrupt: a signal interrupted a step; the latest checkpoint stays as it is.
            DivergedError: losses or weights are not finite.
        """
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.first_step: float | None = time.monotonic()
            self.started = self.first_step - self.state.seconds
            while self.state.epoch < self.config.epochs:
                if not self._train_epoch():
                    self._require_finite()
                    self.state.sums, _ = self.steps.totals(self.state.iteration)
                    self.state.last = DetectorState(self.state.epoch)
                    return self._stopped()
                self._end_epoch()
            if distributed.any_of(self.stop):  # during the last validation
                return self._stopped()
            if distributed.leads() and not self.state.finished:
                self.stop = True  # the next signal interrupts
                try:
                    self._finish()
                except KeyboardInterrupt:
                    return self._stopped()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if distributed.leads():
            self._report()
        distributed.gather(None)
        return True

    def _stopped(self) -> bool:
        """Save what was trained, and return False."""
        if distributed.leads():
            self._save()
        distributed.gather(None)  # if another process ended now, torchrun would end the one that saves
        return False

    def _train_epoch(self) -> bool:
        """Run the rest of the current epoch; return False if a signal came."""
        epoch, state = self.state.epoch, self.state
        steps = self.steps.epoch(self.seed, epoch, state.iteration, state.sums)
        try:
            for _ in self.progress.epoch(steps, epoch, state.iteration):
                state.iteration += 1
                if self.first_step:
                    self._note_first_step()
                if self._told_to_stop():
                    return False
        except Exception as error:
            # Ctrl-C also kills the compilers of torch.compile, which makes the step fail.
            if not self.stop or distributed.connection_lost(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("the step that the signal interrupted has failed: %s", reason)
            raise KeyboardInterrupt from None
        return True

    def _told_to_stop(self) -> bool:
        """Return whether to stop after this step: a signal came here, or to another process since it was last asked."""
        if distributed.world() == 1:
            return self.stop
        asked = self.state.iteration % STOP_STEPS == 0 or self.state.iteration == self.steps.per_epoch
        return asked and distributed.any_of(self.stop)

    def _end_epoch(self) -> None:
        """Count the epoch as done in every process, and evaluate it in rank 0."""
        frozen = self._require_finite()
        sums, counts = self.steps.totals(self.state.iteration)
        self.state.epoch, self.state.iteration, self.state.sums = self.state.epoch + 1, 0, {}
        if distributed.leads():
            self._evaluate_epoch({name: total / counts[name] for name, total in sums.items()}, frozen)

    def _evaluate_epoch(self, losses: dict[str, float], frozen: Detector) -> None:
        """Validate the detector and write a line of metrics and a checkpoint.

        Args:
            losses: means over the epoch by name.
            frozen: frozen copy of the evaluated detector.
        """
        state = self.state
        validation = perturbed = criterion = None
        try:
            standardize(frozen, self.images, self.evaluated, self.detector)
            if self.validation is not None:
                validation = validate(frozen, self.validation)
                if self.config.monitor and self.perturbed is not None:
                    perturbed = perturbed_aucs(frozen, self.perturbed)
                if self.config.select == "auc":
                    criterion = validation[self.config.score]["auc"]
            if self.config.select == "last":
                state.best = None  # an earlier version began the run and selected by synthetic opacities
            best = state.best
            better = criterion is not None and (best is None or best.criterion is None or criterion > best.criterion)
        except DivergedError as error:
            raise self._diverged(f"after epoch {state.epoch} {error}") from None
        line: dict[str, Any] = {
            "epoch": state.epoch,
            "lr": float(self.trainer.generator_optimizer.param_groups[0]["lr"]),
            "losses": losses,
        }
        if validation:
            line["validation"] = {name: result["auc"] for name, result in validation.items()}
        if perturbed:
            line["perturbed"] = perturbed
        line["seconds"] = round(time.monotonic() - self.started, 3)
        seconds = line["seconds"] - (self.history[-1]["seconds"] if self.history else 0)
        last = DetectorState(line["epoch"], validation, criterion=criterion)
        state.last = last
        if better:
            state.best = last
            self.best_tensors = {name: t.detach().clone() for name, t in self.evaluated.state_dict().items()}
        self.history.append(line)
        if self.board is not None:
            self.board.add(line)
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint with the checksum of this line may be written next
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self._save()
        log.info(_epoch_line(line, seconds, self.config.epochs, self.config.score, better))

    def _finish(self) -> None:
        """Calibrate the last and the best detector, mark the run as finished and save.

        Calibration scores every training image. In every epoch it would take as long as the epoch itself.
        """
        last, best = self.state.last, self.state.best
        assert last is not None  # every epoch sets it
        log.info("calibrating the scores on %d training images", len(self.images))
        try:
            last.calibration = calibrate(self.evaluated, self.images, self.validation)
            if best is not None and best.epoch == last.epoch:
                best.calibration = last.calibration
            elif best is not None:
                best.calibration = calibrate(self._best(), self.images, self.validation)
        except DivergedError as error:
            raise self._diverged(f"after epoch {self.state.epoch} {error}") from None
        self.state.finished, self.state.machine = True, self._machine()
        self._save()

    def _best(self) -> Detector:
        """Return a copy of the detector with the weights of the best epoch. No checkpoint may hold them yet."""
        detector = copy.deepcopy(self.evaluated)
        if self.best_tensors is not None:
            detector.load_state_dict(self.best_tensors)
        else:
            latest = self._latest()
            ckpt.load_detector(detector, latest, ckpt.read_state(latest, self.config), "best")
        return detector

    def _latest(self) -> Path:
        """Return the latest checkpoint of a run that has one."""
        latest = ckpt.latest_checkpoint(self.folder)
        assert latest is not None
        return latest

    def _save(self) -> None:
        self.state.seconds = time.monotonic() - self.started
        self.state.metrics_sha256 = ckpt.digest_history(self.history)
        self.state.peak_memory_mb = max(self.state.peak_memory_mb, peak_memory_mb())
        ckpt.save_checkpoint(
            self.folder,
            self.state,
            self.evaluated.state_dict(),
            self.optimizers,
            self.best_tensors,
            None if self.evaluated is self.detector else self.detector.state_dict(),
        )
        self.best_tensors, self.saved = None, time.monotonic()

    def _require_finite(self) -> Detector:
        """Stop before a checkpoint with losses or weights that are not finite is written.

        Returns:
            a frozen copy of the evaluated detector.

        Raises:
            DivergedError: a loss of this epoch, or a score of the first two training images, is not finite.
        """
        self.steps.require_finite(self.state.epoch, self._remedy())
        frozen = self.evaluated.eval().frozen()
        try:
            require_finite(frozen, self.images[:2])
            if self.evaluated is not self.detector:  # an average shows only later what broke
                require_finite(self.detector, self.images[:2])
        except DivergedError as error:
            raise self._diverged(f"after step {self.state.iteration} of epoch {self.state.epoch + 1} {error}") from None
        return frozen

    def _note_first_step(self) -> None:
        """Record the time of this process's first step. Where torch.compile is on, it takes most of that time."""
        assert self.first_step is not None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = self.state.first_step_seconds = round(time.monotonic() - self.first_step, 3)
        self.first_step = None
        if self.trainer.compiled:
            log.info("first step, with compilation: %.1f s", seconds)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(f"{what}: training stopped; {self._remedy()}")

    def _remedy(self) -> str:
        kept = ckpt.latest_checkpoint(self.folder)
        which = f"the last good checkpoint is {kept}" if kept else "no checkpoint had been written yet"
        return f"{which}; a lower --lr may help"

    def _report(self) -> None:
        """Draw the curves and write the results of the detector that the run stands for."""
        latest = self._latest()
        state = ckpt.read_state(latest, self.config)
        chosen = state.detector(state.chosen)
        assert chosen is not None and state.last is not None
        if chosen.epoch != state.last.epoch:
            ckpt.load_detector(self.evaluated, latest, state, "last")
            write_scores(self.folder, self.data, score_splits(self.evaluated, self.data), "-last")
        ckpt.load_detector(self.evaluated, latest, state, state.chosen)
        facts = {
            "epochs": self.config.epochs,
            "seconds": round(state.seconds, 1),
            "first_step_seconds": state.first_step_seconds,
            "peak_memory_mb": round(state.peak_memory_mb),
            **(state.machine or self._machine()),
        }
        draw_curves(self.history, self.folder / CURVES)
        report_run(self.folder, self.evaluated, self.data, self.images, state, self.seed, facts)

    def _machine(self) -> dict[str, Any]:
        """Return what `CheckpointState.machine` holds."""
        return {
            "compiled": self.trainer.compiled,
            "precision": "bf16" if self.trainer.half else "fp32",
            "device": device_name(self.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": distributed.world(),
        }

    def _read_history(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl up to the checkpoint, and remove what a killed run wrote after it.

        Raises:
            CheckpointError: a line is damaged or was changed.
        """
        path = self.folder / METRICS
        if not path.exists():
            if self.state.epoch and self.state.metrics_sha256 is not None:
                raise CheckpointError(f"{path} is missing: use another copy of the run")
            return []
        require_regular(path, 2**30)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[: self.state.epoch]
            history = [parse_json(line) for line in lines]
        except ValueError:  # UnicodeDecodeError is one
            raise CheckpointError(f"{path} is damaged: a line is not JSON; use another copy of the run") from None
        for line in history:
            require_fields(path, EpochLine, line)
        if self.state.metrics_sha256 not in (None, ckpt.digest_history(history)):
            raise CheckpointError(
                f"{path} is damaged: its checksum is not the one in the checkpoint; use another copy of the run"
            )
        with replacing(path) as file:
            file.writelines(line + "\n" for line in lines)
        return history

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C stops at once. With several processes torchrun repeats the first one.
        if self.stop and distributed.world() == 1:
            raise KeyboardInterrupt
        self.stop = True
        if self.first_step and self.trainer.compiled and distributed.world() == 1:
            # No print: the signal may have interrupted one.
            os.write(2, b"\nstopping after the first step, which compiles; Ctrl-C again stops at once\n")


def _epoch_line(line: dict[str, Any], seconds: float, epochs: int, score: str, better: bool) -> str:
    """Return the line that the console shows after an epoch, which took so many seconds."""
    losses = [f"{name} {line['losses'][name]:.4g}" for name in ("discriminator", "student") if name in line["losses"]]
    parts = [f"epoch {line['epoch']}/{epochs}, {duration(seconds)}", f"loss: {', '.join(losses)}"]
    if "validation" in line:
        shown = (score, *(name for name in ("residual", "patch_residual") if name != score))
        aucs = ", ".join(f"{name} {line['validation'][name]:.3f}" for name in shown)
        parts.append(f"validation AUC: {aucs}{' (best so far)' if better else ''}")
    return "; ".join(parts)
