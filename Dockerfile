# caffe-batch with real Caffe: `docker build -t caffe-batch .` for GPUs (the last stage),
# `docker build -t caffe-batch:cpu --target cpu .` without CUDA. docs/docker.md says how to use them.
#
# Everything comes from the package sources that the base image is configured with. Caffe comes from
# Debian 11: where the mirror no longer has it, --build-arg CAFFE_BATCH_MIRROR names one that has.

# --- The GPU build of Caffe, from Debian's source package; only its files leave this stage.

FROM debian:12-slim AS build

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# CUDA is in non-free.
# hadolint ignore=DL3008
RUN sed -i 's/^Components:.*/Components: main contrib non-free/' \
        /etc/apt/sources.list.d/debian.sources \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        cmake \
        dpkg-dev \
        g++ \
        libblas-dev \
        libboost-filesystem-dev \
        libboost-python-dev \
        libboost-regex-dev \
        libboost-system-dev \
        libboost-thread-dev \
        libgflags-dev \
        libgoogle-glog-dev \
        libhdf5-dev \
        libleveldb-dev \
        liblmdb-dev \
        libopencv-dev \
        libprotobuf-dev \
        libsnappy-dev \
        make \
        nvidia-cuda-toolkit=11.8.* \
        patch \
        protobuf-compiler \
        python3-dev \
        python3-numpy \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

WORKDIR /src
ARG CAFFE_BATCH_MIRROR=""
COPY docker/fetch-caffe /docker/
RUN /docker/fetch-caffe /etc/apt/sources.list.d/debian.sources 1.0.0+git20180821.99bd997-8 \
        "$CAFFE_BATCH_MIRROR"

# Compute capabilities that get their own GPU code; the highest is also included as PTX, which the
# driver compiles for newer GPUs. A single one builds in a fraction of the time.
ARG CAPABILITIES="60 61 70 75 80 86 89 90"
COPY docker/build-caffe docker/cpu-mode.patch docker/protobuf-3.21.patch /docker/
RUN /docker/build-caffe /src/caffe-1.0.0+git20180821.99bd997 /caffe "$CAPABILITIES"

# --- caffe-batch in its own environment, with the packages pinned in docker/requirements.txt.

FROM debian:12-slim AS program

# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3-pip \
        python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

WORKDIR /src
COPY docker/requirements.txt docker/requirements-build.txt docker/strip-tests docker/
RUN python3 -m venv --system-site-packages --without-pip /opt/caffe-batch \
    && python3 -m pip --python /opt/caffe-batch install --no-cache-dir --no-compile --no-deps \
        --require-hashes --requirement docker/requirements.txt \
    && docker/strip-tests /opt/caffe-batch \
    && python3 -m venv --without-pip /opt/build \
    && python3 -m pip --python /opt/build install --no-cache-dir --no-deps \
        --require-hashes --requirement docker/requirements-build.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY prototxt prototxt
COPY templates templates
COPY caffe_batch caffe_batch
RUN python3 -m pip --python /opt/build wheel --no-cache-dir --no-deps --no-build-isolation \
        --wheel-dir /src/dist . \
    && python3 -m pip --python /opt/caffe-batch install --no-cache-dir --no-deps dist/*.whl
# Compiles what every run imports: the image's user can't write it there.
RUN /opt/caffe-batch/bin/caffe-batch plan lenet_digits --gpu-memory 2GiB --input-shape data=1x8x8 \
    && MPLCONFIGDIR=/tmp /opt/caffe-batch/bin/python -c "import caffe_batch.reporting.loss_plot, \
        matplotlib.backends.backend_agg, matplotlib.figure"

# The same, plus what the GPU image's pycaffe imports.
FROM program AS program-gpu

COPY docker/requirements-pycaffe.txt docker/
RUN python3 -m pip --python /opt/caffe-batch install --no-cache-dir --no-compile --no-deps \
        --require-hashes --requirement docker/requirements-pycaffe.txt \
    && docker/strip-tests /opt/caffe-batch

# --- What both images share.

FROM debian:12-slim AS base

LABEL org.opencontainers.image.title="caffe-batch" \
      org.opencontainers.image.description="Plans and runs Caffe training that fits a GPU" \
      org.opencontainers.image.licenses="BSD-2-Clause"

# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --create-home --uid 1000 caffe \
    && install --directory --owner=caffe --group=caffe /job /data

# Runs the worker of `caffe-batch train --runtime docker` on the host.
COPY docker/caffe-python /usr/local/bin/

ENV PATH=/opt/caffe-batch/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1

# /job is the job directory, /data holds the data that nets name; both are mounted by whoever runs it.
WORKDIR /job
# tini passes signals on: `docker stop` takes a snapshot.
ENTRYPOINT ["tini", "--", "caffe-batch"]
CMD ["--help"]

# --- The CPU image: the Caffe of Debian 11, unpacked into its own folder.

FROM base AS cpu

ENV CAFFE_BATCH_HOME=/opt/caffe
ARG CAFFE_BATCH_MIRROR=""
COPY --from=program /opt/caffe-batch /opt/caffe-batch
COPY docker/strip-tests /tmp/
RUN apt-get update \
    && caffe-batch runtime install \
    && /tmp/strip-tests /opt/caffe \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /tmp/*
USER 1000

# --- The GPU image.

FROM base AS gpu

# hadolint ignore=DL3008
RUN sed -i 's/^Components:.*/Components: main contrib non-free/' \
        /etc/apt/sources.list.d/debian.sources \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        libboost-filesystem1.74.0 \
        libboost-python1.74.0 \
        libboost-thread1.74.0 \
        libcublas11 \
        libcudart11.0 \
        libcurand10 \
        libgflags2.2 \
        libgoogle-glog0v6 \
        libhdf5-103-1 \
        libhdf5-hl-100 \
        libleveldb1d \
        liblmdb0 \
        libopenblas0-pthread \
        libopencv-core406 \
        libopencv-imgcodecs406 \
        libopencv-imgproc406 \
        libprotobuf32 \
        libpython3.11 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

COPY --from=program-gpu /opt/caffe-batch /opt/caffe-batch
COPY --from=build /caffe /usr/local
# The check imports pycaffe and with it compiles what it needs.
RUN ldconfig \
    && caffe-batch runtime check

# What the NVIDIA container toolkit mounts: every GPU, CUDA and nvidia-smi's library.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 1000
