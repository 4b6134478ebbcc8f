# rfcx_kit in a box: the same steps as on a machine (make setup), nothing else. compose.yaml says how it is used.
FROM python:3.12-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
# where pip looks besides PyPI: PyTorch's CPU wheels, or nothing (then torch comes with CUDA)
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /opt/rfcx_kit
COPY Makefile settings.ini setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY rfcx_kit rfcx_kit
RUN make setup
ENV PATH=/opt/rfcx_kit/.venv/bin:$PATH HOME=/tmp MPLBACKEND=Agg
WORKDIR /output
ENTRYPOINT ["/opt/rfcx_kit/.venv/bin/rfcx"]
CMD ["--help"]
