# h1r serve. CPU: docker build -t h1r .
# CUDA:      docker build -t h1r --build-arg TORCH_INDEX=https://pypi.org/simple .   and run with --gpus all
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Compiles the kernels below, and Triton's on a card.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /open-h1r
COPY constraints.txt pyproject.toml setup.py LICENSE ./
COPY docs docs
COPY examples examples
COPY recipes recipes
COPY src src
COPY tools/pycosat tools/pycosat
RUN pip install --no-cache-dir torch -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple \
    && H1R_LEVELS=all pip install --no-cache-dir '.[serve]' -c constraints.txt
RUN useradd --create-home h1r
USER h1r
EXPOSE 8000
# Others reach a container's port, so it wants H1R_API_KEY, and stops without.
ENTRYPOINT ["h1r", "serve"]
