# docker build -t skd_tf . && docker run --rm -v "$PWD/runs:/work/runs" skd_tf skd-train --recipe=digits --workdir=runs/digits
# For CPUs. On NVIDIA GPUs install '.[gpu]' instead, and run with --gpus=all.
FROM python:3.11-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY skd_tf skd_tf
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim
COPY --from=build /dist /dist
RUN pip install --no-cache-dir /dist/*.whl && rm -r /dist && useradd --create-home --uid 1000 user \
    && mkdir /work && chown user /work
USER user
WORKDIR /work
CMD ["skd-train", "--list_recipes"]
