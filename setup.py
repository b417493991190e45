"""The package, its dependencies and its commands."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent


def long_description() -> str:
    """README.md for a package index, where the repository's pages and pictures do not exist: their names stay."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


setup(
    name="skd_tf",
    version=re.search(r'^__version__ = "(.+)"', (ROOT / "skd_tf/__init__.py").read_text(encoding="utf-8"), re.M)[1],
    description="Knowledge distillation of image classifiers in Keras 3 and TensorFlow, with Spherical KD and six other losses",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The skd_tf authors",
    project_urls={"Paper": "https://arxiv.org/abs/2010.07485"},
    keywords=["knowledge distillation", "model compression", "image classification", "keras", "tensorflow"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE", "skd_tf/data/assets/*LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["skd_tf", "skd_tf.*"]),
    package_data={
        "skd_tf": ["py.typed", "recipes/**/*.flags"],
        "skd_tf.data": ["assets/*"],
        "skd_tf.runs.report": ["*.html"],
        "skd_tf.serving": ["*.md"],
    },
    # TensorFlow and Keras: experiments/results/versions.jsonl. Of the others, the versions that the tests ran with.
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.15,<3.16",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources>=7.1",  # tensorflow-datasets imports it without declaring it
        "keras-tuner>=1.4.8",
        "tensorboard>=2.20",  # tensorflow no longer brings it, keras-tuner imports it
        "absl-py>=2.5",
        "matplotlib>=3.11",
        "jinja2>=3.1",
        "filelock>=3.20",
    ],
    extras_require={
        "test": [
            *("pytest>=9.2", "pytest-xdist>=3.8", "ruff>=0.17", "hypothesis>=6.170"),
            *("import-linter>=2.5", "mypy>=1.18"),
            *("scikit-learn>=1.9", "scipy>=1.17"),  # --tuner=bayesian
            *("ai-edge-litert>=2.3", "onnx>=1.23", "tf2onnx>=1.17", "onnxruntime>=1.32"),  # what an export can be
            "safetensors>=0.6",  # tools/convert_torch
            "mlflow-skinny>=3.1",  # the tracker of docs/trackers.md
            *("nbclient>=0.10", "ipykernel>=6.29"),  # docs/quickstart.ipynb
        ],
        # mkdocs 2 has no plugins and no hooks.
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.8,<10", "mkdocstrings[python]>=1.0", "ruff>=0.17"],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "onnx": ["onnx>=1.23", "tf2onnx>=1.17", "onnxruntime>=1.32"],  # --format=onnx
        "litert": ["ai-edge-litert>=2.3"],  # runs .tflite files; TensorFlow's own interpreter is on its way out
        "bayesian": ["scikit-learn>=1.9", "scipy>=1.17"],  # --tuner=bayesian of skd_tf.tune
        "bench": ["torch>=2.13"],  # tools/benchmarks step, beside PyTorch
        "hub": ["keras-hub>=0.32"],  # keras_hub:PRESET
        "convert": ["torch>=2.13", "safetensors>=0.6"],  # tools/convert_torch, for checkpoints that are not .npz
    },
    entry_points={
        "console_scripts": [
            "skd-train = skd_tf.train:cli_main",
            "skd-evaluate = skd_tf.evaluate:cli_main",
            "skd-tune = skd_tf.tune:cli_main",
            "skd-export = skd_tf.export:cli_main",
            "skd-report = skd_tf.report:cli_main",
            "skd-predict = skd_tf.predict:cli_main",
        ]
    },
)
