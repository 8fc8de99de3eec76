# The harness: its wheel on a small Python. The build's context is the checkout:
#   docker build -f docker/harness.Dockerfile -t pgtrickle-citus-harness .
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY harness harness
COPY migrations migrations
RUN python3 -m pip wheel --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE}
COPY --from=build /wheels /wheels
COPY docker/harness-entry /usr/local/bin/harness-entry
RUN python3 -m pip install --no-cache-dir /wheels/*.whl \
    && rm -r /wheels \
    && chmod 755 /usr/local/bin/harness-entry \
    && useradd --create-home harness
USER harness
WORKDIR /home/harness
ENTRYPOINT ["harness-entry"]
CMD ["doctor"]
