# coalign serve: docker build -t coalign . && docker run -p 8765:8765 -v "$PWD/runs:/runs:ro" coalign /runs/quickstart
FROM python:3.12-slim AS build
COPY --from=ghcr.io/astral-sh/uv:0.8 /uv /bin/uv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN uv venv /opt/coalign \
 && uv pip install --python /opt/coalign --torch-backend cpu ".[serve,retrieval,minilm,efficientnet]"

FROM python:3.12-slim
COPY --from=build /opt/coalign /opt/coalign
RUN useradd --create-home --uid 1000 coalign
USER 1000
WORKDIR /home/coalign
ENV PATH=/opt/coalign/bin:$PATH OMP_WAIT_POLICY=passive
EXPOSE 8765
# another address than this machine's own asks for a token, which is printed at the start
ENTRYPOINT ["coalign", "serve", "--host", "0.0.0.0", "--no-browser"]
