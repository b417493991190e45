"""What `Distiller.fit` displays: at most eight of the values that it logs, the same ones of training and validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

_EACH = 4  # of training, and as many of validation
_RANKED = ("accuracy", "agreement", "distill_loss", "label_loss", "teacher_accuracy")


class ShortProgress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with the values that matter most. History and all other callbacks get every value.

    Args:
      own: names of the Distiller's means. Others, of compiled metrics, are displayed before them, because somebody
        asked for them.
    """

    def __init__(self, own: Sequence[str]) -> None:
        super().__init__()
        self._own = frozenset(own)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, self.displayed(logs))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, self.displayed(logs))

    def displayed(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        """The values to display."""
        logs, shown = logs or {}, {}
        for prefix in ("", "val_"):
            names = [name.removeprefix(prefix) for name in logs if name.startswith("val_") == bool(prefix)]
            for name in sorted(names, key=self._rank)[:_EACH]:
                shown[prefix + name] = logs[prefix + name]
        return shown

    def _rank(self, name):
        if name == "loss":
            return 0
        if name in _RANKED:
            return 2 + _RANKED.index(name)
        return 99 if name in self._own or name == "learning_rate" else 1


def with_display(callbacks: Any, own: Sequence[str], verbose: Any) -> Any:
    """The callbacks of `fit` with a `ShortProgress`, unless nothing is displayed or they bring their own display."""
    if verbose == 0 or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = keras.tree.flatten(callbacks) if callbacks else []
    if any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given):
        return callbacks
    return [*given, ShortProgress(own)]
