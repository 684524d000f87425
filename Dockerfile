# fastsquid on a CPU: `docker build -t fastsquid .`; docs/docker.md says how to run it, and how to build it offline.
FROM python:3.12-slim
# For a build without a network. pip reads both from the environment, and neither is set unless --build-arg gives it.
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
WORKDIR /src
COPY . .
# The CPU build of PyTorch first: the default one for Linux brings gigabytes of CUDA.
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir -c constraints.txt '.[dicom,export,parquet,shards]'
RUN useradd --create-home --uid 1000 fastsquid && mkdir /output && chown fastsquid /output
# Also where docker run --user names somebody else: /tmp is the only place that all may write to.
ENV HOME=/tmp
USER fastsquid
WORKDIR /output
ENTRYPOINT ["fastsquid"]
