# Runs the two commands of the README: the demo while the image is built, the tests in a container.
#   docker build -t senet . && docker run --rm --shm-size 2g senet
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc git libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /senet
COPY . .
RUN make demo
CMD ["make", "test"]
