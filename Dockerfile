# Predictions in the browser (ecg-serve), on a CPU:
#   docker build -t ecg-keras .
#   docker run --rm -p 8000:8000 ecg-keras
# Models of your own, the folds of a run as one ensemble:
#   docker run --rm -p 8000:8000 -v "$PWD/runs/cpsc:/models:ro" ecg-keras \
#       ecg-serve --models '/models/fold_*/best.keras' --host 0.0.0.0
# With a GPU: docker build --build-arg EXTRAS=formats,serve,gpu -t ecg-keras .
FROM python:3.11-slim-bookworm

ARG EXTRAS=formats,serve
WORKDIR /ecg-keras
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && useradd --create-home ecg
USER ecg
WORKDIR /home/ecg
EXPOSE 8000
# Everything else of the package is there too: docker run ecg-keras ecg-predict --help
CMD ["ecg-serve", "--models", "mrm-net-ptbxl-all", "--host", "0.0.0.0"]
