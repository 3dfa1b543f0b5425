# mdtnet on a CPU. This file has not been built yet.
#   docker build -t mdtnet .
#   docker run --rm --shm-size 1g -v "$PWD:/work" mdtnet predict runs/mine/checkpoints/best.pt clip.mp4
FROM python:3.11-slim
# The plain torch of the registry brings CUDA; --build-arg TORCH_INDEX=ADDRESS names an index of CPU builds.
ARG TORCH_INDEX=""
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.9,<3" "torchvision>=0.24,<1" \
    && pip install --no-cache-dir "/src[export]" \
    && rm -rf /src \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["mdtnet"]
CMD ["--help"]
