# docker build -t lit-pursamere .
# docker run --rm -it --gpus all -v "$PWD:/work" lit-pursamere test --config digits/robustness
FROM python:3.11-slim
WORKDIR /src
COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY lit_pursamere lit_pursamere
COPY configs configs
COPY checkpoints checkpoints
RUN pip install --no-cache-dir '.[attacks]' && rm -rf /src/*
RUN useradd --create-home user && install --directory --owner user /work
USER user
WORKDIR /work
ENTRYPOINT ["lit-pursamere"]
CMD ["--help"]
