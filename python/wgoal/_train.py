"""Training, epoch by epoch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Union

from wgoal import _options, _wgoal
from wgoal._evaluate import Recall, recall_of
from wgoal._head import Head
from wgoal._wgoal import Dataset


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch. Epoch 0 is the start of a run that does not start at random; it has no loss."""

    epoch: int
    val: Recall
    best: bool
    seconds: float
    loss: Optional[float] = None
    positive: Optional[float] = None
    hardest: Optional[float] = None
    gradient_norm: Optional[float] = None
    clipped: Optional[float] = None
    lr: Optional[float] = None
    temperature: Optional[float] = None
    logit_bias: Optional[float] = None
    zero_rows: Optional[int] = None
    collapse: Optional[str] = None


def _epoch(text):
    values = json.loads(text)
    values.pop("init", None)
    values["val"] = recall_of(values["val"])
    return Epoch(**values)


class Trainer:
    """Trains a head, epoch by epoch.

    Iterate over it, or call `train`. A head trained with some options has the same bits as the head that `wgoal train`
    trains with them.

    Args:
        dataset: a Dataset, or the path of one.
        config: options of `wgoal train` by name, with underscores for hyphens, such as {"objective": "hinge"}. Options
            may also be keyword arguments. On and off are True and False; lists are lists; `param` is a dict.
        device: as `wgoal --device`.
        callbacks: functions of the trainer and the `Epoch`, called after each epoch. One may call `trainer.stop()` or
            `trainer.checkpoint(path)`. An exception ends the training.
        on_step: a function of the epoch, the step and the number of steps, called after each step.
        resume: a file that `checkpoint` or `wgoal train` (last.safetensors) wrote. The run keeps its options.

    Attributes:
        history: a list of `Epoch`.
    """

    def __init__(
        self,
        dataset: Union[Dataset, str, os.PathLike],
        config: Optional[Dict[str, Any]] = None,
        *,
        device: str = "auto",
        callbacks: Iterable[Callable[[Trainer, Epoch], Any]] = (),
        on_step: Optional[Callable[[int, int, int], Any]] = None,
        resume: Union[str, os.PathLike, None] = None,
        **options: Any,
    ):
        if not isinstance(dataset, Dataset):
            dataset = Dataset.open(os.fspath(dataset))
        given = _options.given({**(config or {}), **options})
        if resume is not None:
            if given:
                raise ValueError(
                    f"options: expected none, because a run that is resumed keeps its own, found {given[0][0]}; "
                    "leave them out"
                )
            resume = os.fspath(resume)
        self._run = _wgoal.Run(dataset, given, device, on_step, resume)
        _options.warn(self._run.warnings, level=2)
        self._dataset = dataset
        self._callbacks = list(callbacks)
        self._stopped = False
        self.history: List[Epoch] = []
        start = self._run.start()
        if start is not None:
            self.history.append(_epoch(start))

    def run_epoch(self) -> Optional[Epoch]:
        """Trains and validates one epoch. Returns None if the run has ended."""
        text = None if self._stopped else self._run.run_epoch()
        if text is None:
            return None
        epoch = _epoch(text)
        self.history.append(epoch)
        for callback in self._callbacks:
            callback(self, epoch)
        return epoch

    def __iter__(self) -> Iterator[Epoch]:
        while True:
            epoch = self.run_epoch()
            if epoch is None:
                return
            yield epoch

    def train(self) -> Trainer:
        """Trains all epochs that are left."""
        for _ in self:
            pass
        return self

    def stop(self) -> None:
        """Ends the run after this epoch."""
        self._stopped = True

    def finish(self) -> Optional[Head]:
        """The best head by validation, with the correction for hubs that the options ask for.

        None before the first epoch of a run with a random start.
        """
        native, warning = self._run.finish()
        if warning is not None:
            _options.warn([f"the correction for hubs failed: {warning}"], level=2)
        return None if native is None else Head(native)

    @property
    def head(self) -> Head:
        """The head as it is now."""
        return Head(self._run.head())

    @property
    def best(self) -> Optional[Head]:
        """The best head so far, without a correction for hubs."""
        native = self._run.best()
        return None if native is None else Head(native)

    def recall(self, split: str = "test", head: Optional[Head] = None) -> Recall:
        """Recall of the head as it is now, or of another one, on a split of the dataset."""
        native = None if head is None else head._native
        return recall_of(json.loads(self._run.recall(split, native)))

    def checkpoint(self, path: Union[str, os.PathLike]) -> None:
        """Writes everything that is needed to continue the run: see `resume`."""
        self._run.save(os.fspath(path))

    @property
    def dataset(self) -> Dataset:
        """The dataset."""
        return self._dataset

    @property
    def config(self) -> Dict[str, Any]:
        """The configuration of the run."""
        return json.loads(self._run.config)

    @property
    def recipe(self) -> str:
        """A line about the recipe of the run; empty after a resumption."""
        return self._run.recipe

    @property
    def device(self) -> str:
        """The name of the device."""
        return self._run.device

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._run.epoch

    @property
    def best_epoch(self) -> Optional[int]:
        """The best epoch so far; 0 if none was better than the start."""
        return self._run.best_epoch

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._stopped or self._run.finished

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self._run.steps_per_epoch

    def __repr__(self):
        return f"Trainer({self._dataset.name}, epoch {self.epoch} of {self.config['epochs']}, on {self.device})"
