"""Runs an exported file on images, in a process that cannot import skd_tf.

python -P reload.py KIND PATH IMAGES.npy OUTPUT.npz CUSTOM_LAYERS

CUSTOM_LAYERS are modules of a user's own layers, with commas between, which a Keras file needs.
"""

import importlib
import json
import sys
import time

if not sys.argv[5:6] or not sys.argv[5]:  # the module of a user's own layers may import it
    sys.modules["skd_tf"] = None  # type: ignore[assignment]  # importing it raises from here on, wherever it is installed

import numpy as np

_BATCH = 64
_WARM_UP_CALLS, _CALLS, _SECONDS = 5, (10, 200), 0.5  # of a timing; at least and at most so many calls

# Each function opens a file of one kind: (a function from images to outputs by name, how many numbers the file stores,
# the same function on one thread, or None where the runtime does not take the number of threads per file).


def saved_model(path, _):
    import tensorflow as tf

    signature = tf.saved_model.load(path).signatures["serving_default"]
    variables = tf.train.list_variables(f"{path}/variables/variables")
    stored = sum(int(np.prod(shape)) for name, shape in variables if name.endswith("VARIABLE_VALUE"))

    def run(images):
        outputs = signature(images=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items() if name != "label"}

    return run, stored, None


def keras(path, custom_layers):
    import keras as library

    for name in custom_layers:
        importlib.import_module(name)
    model = library.models.load_model(path, compile=False, safe_mode=True)
    # skd_tf.runtime.compat.layers_of, which this file cannot import.
    modules = {type(layer).__module__.partition(".")[0] for layer in model._flatten_layers()}
    assert "skd_tf" not in modules and (custom_layers or modules <= {"keras", "keras_hub"}), f"layers of {modules}"

    def run(images):
        # Without training=False, as a user's program may call it: the model itself must know that it does not train.
        logits = np.asarray(model(images.astype(np.float32)))
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return {"logits": logits, "probabilities": probabilities, "class_id": logits.argmax(axis=1)}

    return run, model.count_params(), None


def litert(path, _):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter

    def opened(**options):
        runner = Interpreter(model_path=path, **options).get_signature_runner("serving_default")
        return lambda images: runner(images=images)

    return opened(), None, opened(num_threads=1)  # parity_check counts its numbers


def onnx(path, _):
    import onnx as library
    import onnxruntime

    stored = sum(int(np.prod(tensor.dims)) for tensor in library.load(path).graph.initializer)

    def opened(threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))

    return opened(0), stored, opened(1)  # 0 threads: as many as the runtime likes


_OPEN = {"saved_model": saved_model, "keras": keras, "litert": litert, "onnx": onnx}


def latency_of(run, image):
    """Milliseconds of a call with one image: median and quartiles, without warm-up."""
    for _ in range(_WARM_UP_CALLS):
        run(image)
    taken, end = [], time.perf_counter() + _SECONDS
    while len(taken) < _CALLS[0] or (time.perf_counter() < end and len(taken) < _CALLS[1]):
        start = time.perf_counter()
        run(image)
        taken.append(1e3 * (time.perf_counter() - start))
    low, median, high = (float(value) for value in np.quantile(taken, [0.25, 0.5, 0.75]))
    return {"median": median, "quartiles": [low, high], "batch": len(image), "threads": 1, "calls": len(taken)}


def main(kind, path, images, output, custom_layers):
    images = np.load(images, allow_pickle=False)
    run, stored, on_one_thread = _OPEN[kind](path, [name for name in custom_layers.split(",") if name])
    parts = [run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for count in (1, 7):  # other batch sizes
        found[f"batch_of_{count}"] = run(images[:count])["logits"]
    np.savez(output, **found)
    latency = latency_of(on_one_thread, images[:1]) if on_one_thread else None
    print(json.dumps({"stored": stored, "latency_ms": latency}))


if __name__ == "__main__":
    main(*sys.argv[1:])
