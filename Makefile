# Three commands matter: `make try`, `make demo` and `make test`.  They need Python 3.11 to 3.13.
PYTHON ?= python3
BIN = .venv/bin
DEMO = runs/demo

# Of PTB-XL's test fold, the first record that is labelled as normal, as nothing but myocardial
# infarction, left bundle branch block, hypertrophy or an ST-T change, and with atrial fibrillation
# beside one superclass.
TRY = 9 63 180 1219 116 318
PTBXL = https://physionet.org/files/ptb-xl/1.0.3/
NETWORK = mrm-net-ptbxl-superdiagnostic

.PHONY: help try demo test test-all test-lowest lint bench docs clean

help:
	@echo "make try     predict six recordings of PTB-XL with a published network and explain it"
	@echo "make demo    train both networks on generated records and score them"
	@echo "make test    ruff, mypy and the tests, some minutes; make test-all runs the slow ones too"
	@echo "make docs    build the documentation, build/site/index.html"
	@echo "make bench   measure the speed of both networks and of the data path (Linux)"

# The environment, with the versions of the published numbers; made anew when they change.
.venv/done: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Without a connection, the recording that pydicom ships.
try: .venv/done
	rm -rf runs/try
	@if $(BIN)/ecg-download ptb-xl --records $(TRY) --out runs/try/ptb-xl --url $(PTBXL); then \
	    $(BIN)/ecg-build --source runs/try/ptb-xl --out runs/try/ptbxl.h5 && \
	    $(BIN)/ecg-predict --pretrained $(NETWORK) --store runs/try/ptbxl.h5 --fold 10 \
	        --explain --out runs/try/answers; \
	else \
	    $(BIN)/ecg-predict --pretrained $(NETWORK) --explain --out runs/try/answers --records \
	        "$$($(BIN)/python -c 'from pydicom import data; \
	            print(data.get_testdata_file("waveform_ecg.dcm", download=False))')"; \
	fi
	@echo; echo "Pages to open in a browser:"; ls runs/try/answers/explained/*.html

demo: .venv/done
	rm -rf $(DEMO)
	$(BIN)/ecg-synthetic --out $(DEMO)/records --records 360 --test-records 180 --max-seconds 10
	$(BIN)/ecg-build --source $(DEMO)/records/train --out $(DEMO)/cpsc250.h5
	$(BIN)/ecg-build --source $(DEMO)/records/train --out $(DEMO)/cpsc100.h5 --rate 100
	$(BIN)/mlbf-train --store $(DEMO)/cpsc250.h5 --out $(DEMO)/mlbf --folds 1 2 3 \
	    --input-length 2500 --epochs 12 --batch-size 16
	$(BIN)/mrm-train --store $(DEMO)/cpsc100.h5 --out $(DEMO)/mrm --folds 1 2 3 --test-fold none \
	    --low-channels 16 --high-channels 32 --epochs 10 --batch-size 16
	$(BIN)/ecg-predict --models '$(DEMO)/mlbf/fold_*/best.keras' \
	    --csv $(DEMO)/records/test.csv --records $(DEMO)/records/test --out $(DEMO)/mlbf/test
	$(BIN)/ecg-predict --models '$(DEMO)/mrm/fold_*/best.keras' \
	    --csv $(DEMO)/records/test.csv --records $(DEMO)/records/test --out $(DEMO)/mrm/test
	$(BIN)/ecg-evaluate --predictions $(DEMO)/mlbf/test/predictions.npz \
	    $(DEMO)/mrm/test/predictions.npz --reference $(DEMO)/records/test/REFERENCE.csv \
	    --history $(DEMO)/mlbf/fold_*/history.csv $(DEMO)/mrm/fold_*/history.csv \
	    --out $(DEMO)/report

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell *.md *.cff *.cfg *.toml *.yml *.txt Dockerfile Makefile benchmarks data_prep docs ecg_keras mlbf_keras mrm_keras \
	    notebooks pretrained tests

# What a change needs; a test of its own kind that takes minutes is marked slow.
test: lint
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not slow"

# Every test: also whole notebooks, browsers, kills by the dozen, thousands of damaged files.
test-all: lint
	$(BIN)/pytest --numprocesses auto --dist worksteal

# With the oldest versions that setup.cfg admits, which warn of what newer ones have mended.
test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
	    --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/pytest --numprocesses auto --dist loadfile -m "not slow" -W default

bench: .venv/done
	$(BIN)/python -m benchmarks

# A warning is an error; so it is in the tests.
docs: .venv/done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-lowest runs build dist *.egg-info
