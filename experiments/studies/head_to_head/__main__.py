"""KD and SKD in PyTorch and skd_tf, and KD by keras.distillation, from the same batches: equally accurate, and how fast?

    python -m experiments.studies.head_to_head --data_dir=DATA --teacher=teachers/cifar100_resnet56.keras
    python -m experiments.studies.head_to_head --cells pytorch/kd/0 --steps 50 --records=/tmp/trial      # a trial

resnet56 -> resnet8 on CIFAR-100, 12 epochs, T = 4, weights 0.1 and 0.9, KD at rate 0.2 and SKD at 0.4, as in the study of
methods on CIFAR-100 (docs/studies/cifar100.md), but in float32. It first writes the views (1.8 GB, `views.py`), which cost as
much as two students. It resumes: finished epochs of views and finished cells are kept. Pin it to one core: taskset -c 1.
It needs a build of PyTorch for CPUs: beside TensorFlow, torch 2.14.1 for CUDA crashes when its optimizer is made.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default on CPUs without AVX-512; the commands set it too
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

METHODS = (("pytorch", "kd"), ("pytorch", "skd"), ("keras", "kd"), ("skd_tf", "kd"), ("skd_tf", "skd"))
RATES = {"kd": 0.2, "skd": 0.4}


def main() -> None:
    """Writes the views, then trains the cells that have no record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/head_to_head"), help="of the views")
    parser.add_argument("--records", type=pathlib.Path, default=pathlib.Path("experiments/results/head_to_head"))
    parser.add_argument("--teacher", default="teachers/cifar100_resnet56.keras")
    parser.add_argument("--data_dir", help="the TFDS folder that has cifar100")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", nargs="*", help="FRAMEWORK/METHOD/SEED, these alone")
    parser.add_argument("--steps", type=int, help="stop early, for a trial")
    options = parser.parse_args()

    from experiments.studies.head_to_head import views

    total = views.EPOCHS * (views.TRAIN // views.BATCH)
    steps = options.steps or total
    epochs = -(-steps // (views.TRAIN // views.BATCH))
    views.export(options.folder, options.teacher, options.data_dir, epochs)
    cells = [(framework, method, seed) for seed in options.seeds for framework, method in METHODS]
    for framework, method, seed in cells:
        path = options.records / f"{framework}_{method}_{seed}.json"
        if path.exists() or (options.cells and f"{framework}/{method}/{seed}" not in options.cells):
            continue
        record = run(options.folder, framework, method, seed, total, steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{framework} {method} seed {seed}: {record['accuracy']:.4f} in {record['seconds']:.0f} s", flush=True)


def run(folder: pathlib.Path, framework: str, method: str, seed: int, total: int, steps: int) -> dict:
    """Trains one cell; its record."""
    import numpy as np

    from skd_tf.runs import predictions, provenance

    begin, used = time.perf_counter(), time.process_time()
    versions = provenance.versions()
    if framework == "pytorch":
        import torch

        from experiments.studies.head_to_head import torch_distill

        torch.set_num_threads(1)
        versions |= {"torch": torch.__version__}
        logits_of = torch_distill.train(folder, method, seed, RATES[method], total, steps)
    else:
        from experiments.studies.head_to_head import keras_distill

        logits_of = keras_distill.train(folder, framework, method, seed, RATES[method], total, steps)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - used
    classes = {name: logits_of(np.load(folder / f"{name}_images.npy")).argmax(1) for name in ("test", "held_out")}
    right = {name: float(np.mean(found == np.load(folder / f"{name}_labels.npy"))) for name, found in classes.items()}
    return {
        "framework": framework,
        "method": method,
        "seed": seed,
        "learning_rate": RATES[method],
        "steps": steps,
        "accuracy": right["test"],
        "held_out_accuracy": right["held_out"],
        "predictions": predictions.encode(classes["test"]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "machine": platform.processor() or platform.machine(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
