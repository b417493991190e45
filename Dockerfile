# mkdir -p runs && docker build -t skd_tf . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/work/runs" skd_tf \
#     skd-train --recipe=digits --workdir=runs/digits
# With --user, files in the mounted folder belong to whoever starts it. For CPUs; on NVIDIA GPUs install '.[gpu]' instead, and run
# with --gpus=all.
FROM python:3.11-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY skd_tf skd_tf
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim
RUN --mount=type=bind,from=build,source=/dist,target=/dist pip install --no-cache-dir /dist/*.whl \
    && useradd --create-home --uid 1000 user && mkdir --mode=1777 /work
USER 1000
WORKDIR /work
CMD ["skd-train", "--list_recipes"]
