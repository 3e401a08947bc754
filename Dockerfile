# go-mlx serve on MLX's CPU back end. Models are mounted, not copied:
#
#   docker build -t go-mlx .
#   docker run -p 127.0.0.1:8090:8090 -v /models:/models:ro -e GO_MLX_API_KEYS=secret go-mlx
FROM golang:1.26-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN curl -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /src
COPY . .
ARG VERSION=docker
RUN make install PREFIX=/opt/go-mlx VERSION=$VERSION

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /opt/go-mlx/
RUN python3 -m venv /opt/go-mlx/venv && /opt/go-mlx/venv/bin/pip install --no-cache-dir -r /opt/go-mlx/requirements.txt
COPY --from=build /opt/go-mlx /opt/go-mlx
ENV GO_MLX_PYTHON=/opt/go-mlx/venv/bin/python PATH=/opt/go-mlx/bin:$PATH
RUN useradd --create-home go-mlx
USER go-mlx
EXPOSE 8090
HEALTHCHECK CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8090/healthz')"]
# Others than loopback are asked to give an API key: GO_MLX_API_KEYS.
ENTRYPOINT ["go-mlx"]
CMD ["serve", "--models-dir", "/models", "--host", "0.0.0.0"]
