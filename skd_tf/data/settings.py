"""The settings that this room takes, as plain values; `config.pick(DataSettings)` gives a run's."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which dataset, and how it is split and prepared; each as the flag of the same name."""

    dataset: str = "digits"
    download: bool = False
    data_seed: int = 0
    validation_fraction: float = 0.1
    image_size: int = 0
    augmentation: str = "auto"
    cache_dataset: str = "auto"


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """How training batches are drawn; each as the flag of the same name.

    Attributes:
      batch_size: global, over all replicas.
      seed: of the order.
      data_seed: of the augmentation.
      teacher_cache_epochs: epochs of augmentation, which repeat; 0: every epoch has its own.
      teacher_cache_dtype: of the records in logit files.
    """

    batch_size: int = 64
    seed: int = 0
    data_seed: int = 0
    teacher_cache_epochs: int = 0
    teacher_cache_dtype: str = "float16"
