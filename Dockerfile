# The command `dispatcher` with everything it needs, run by a user who owns nothing.  Base an image of your own on it,
# with your code in /app.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dispatcher dispatcher
COPY workers workers
COPY state state
RUN python -m pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY constraints.txt /tmp/
COPY --from=build /wheels /wheels
RUN python -m pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "jetstream-dispatcher[binary,nkeys,speed] @ file://$(ls /wheels/*.whl)" \
    && rm -r /wheels /tmp/constraints.txt \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dispatcher
ENV PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["dispatcher"]
CMD ["--help"]
