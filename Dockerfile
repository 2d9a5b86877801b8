# Tocsin's image: the first stage builds, the second holds Python, the installed wheel and nothing to build with.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN pip install --no-cache-dir 'uv>=0.9,<1'
ENV UV_PROJECT_ENVIRONMENT=/opt/tocsin \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
WORKDIR /build
# first what changes seldom: the pinned versions, with their hashes
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md LICENSE NOTICE ./
COPY schemas schemas
COPY detectors detectors
COPY config config
COPY streams streams
COPY deploy/compile_plain.py deploy/
RUN uv sync --frozen --no-dev --no-editable
# what takes room and is never used: the libraries' own tests and headers, and PyArrow's ways to other machines
RUN cd /opt/tocsin/lib/python3*/site-packages \
    && find numpy scipy pyarrow -depth -type d \
        \( -name tests -o -path pyarrow/include -o -path pyarrow/src \) -exec rm -r {} + \
    && rm pyarrow/*arrow_flight* pyarrow/_flight* pyarrow/*arrow_s3* pyarrow/_s3fs*

FROM python:3.12-slim
RUN groupadd --gid 10001 tocsin \
    && useradd --uid 10001 --gid tocsin --home-dir /var/lib/tocsin --no-create-home --shell /usr/sbin/nologin tocsin \
    && install -d -o tocsin -g tocsin /var/lib/tocsin \
    && pip uninstall --yes --root-user-action ignore pip
COPY --from=build /opt/tocsin /opt/tocsin
# PYTHONSAFEPATH: no module is taken from the folder in which it starts
ENV PATH=/opt/tocsin/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/tocsin
VOLUME /var/lib/tocsin
ENTRYPOINT ["tocsin"]
CMD ["worker", "all"]
