"""The settings of this folder's code, as plain values; `config.pick(DataSettings)` fills them from a Config."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which dataset to read and how to split and prepare it. Each field means what the flag of its name means."""

    dataset: str = "digits"
    download: bool = False
    data_seed: int = 0
    validation_fraction: float = 0.1
    validation_split: str = "stratified"
    group: str = ""
    image_size: int = 0
    augmentation: str = "auto"
    cache_dataset: str = "auto"
    data_rules: int = 2


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """How training batches are drawn. Each field means what the flag of its name means.

    Attributes:
      batch_size: global, over all replicas.
      seed: decides the order of the examples.
      data_seed: decides their augmentation.
      teacher_cache_epochs: epochs of augmentation before it repeats; 0: it never repeats.
    """

    batch_size: int = 64
    seed: int = 0
    data_seed: int = 0
    teacher_cache_epochs: int = 0
