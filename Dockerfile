# The supervisor as a container: `docker build -t millstream .`
#
# Your application goes on top of it, into /app, the current folder of `millstream up`:
#   FROM millstream
#   COPY . /app
#   ENV MILLSTREAM_APP=shop:app

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY millstream ./millstream
RUN python3 -m venv /opt/millstream \
    && /opt/millstream/bin/pip install --no-cache-dir --disable-pip-version-check . \
    && /opt/millstream/bin/pip uninstall --yes --quiet --disable-pip-version-check pip

FROM python:3.13-slim-bookworm
COPY --from=build /opt/millstream /opt/millstream
# The lock of the supervisor's name lies below XDG_RUNTIME_DIR: /dev/shm can be written under a read-only root too.
# Without MILLSTREAM_REDIS_URL it refuses to start: a private server would die with the container.
ENV PATH=/opt/millstream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_RUNTIME_DIR=/dev/shm \
    MILLSTREAM_ENV=production \
    MILLSTREAM_WEB__BIND=0.0.0.0:7070
WORKDIR /app
USER 10001:10001
EXPOSE 7070
# A drain takes 25 s by default: stop it with more patience than that, as in `docker stop --time 40`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["millstream", "healthcheck"]
# Process 1 without an init: the supervisor reaps what its children leave.
ENTRYPOINT ["millstream"]
CMD ["up"]
