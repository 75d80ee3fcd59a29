# `make help` lists what there is.
SHELL       := /bin/bash
.DEFAULT_GOAL := help
export CGO_ENABLED ?= 0

GO          ?= go
CACHE       := .cache
BIN         := bin/dhalion
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.6.1
PACKAGES    := ./...
FUZZTIME    ?= 10m
RECORDINGS  ?= testdata/recordings testdata/recordings/orders
LAB         := $(CACHE)/lab
SEED        ?= 1
LANES       ?= 3
DEMO_HOME   ?= $(shell echo $${TMPDIR:-/tmp})/dhalion-demo

.PHONY: e2e e2e-observe e2e-actuate help build check fmt vet staticcheck cross test fuzz crash crash-store chaos-polls bench demo score lab lab-schedule clean

help: ## say what each target does
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/dhalion
	$(GO) build -trimpath -o $(BIN) ./cmd/dhalion

check: fmt vet staticcheck cross ## gofmt, vet, staticcheck, cross-builds for linux/arm64 and darwin/arm64

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt: run gofmt -w on:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet $(PACKAGES)

staticcheck:
	$(GO) run $(STATICCHECK) $(PACKAGES)

cross:
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/dhalion
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/dhalion

test: ## every test, with the race detector where there is a C compiler, on a real PostgreSQL
	@if command -v $${CC:-cc} >/dev/null; then \
	  echo "go test -race"; CGO_ENABLED=1 $(GO) test -race -timeout 40m $(PACKAGES); \
	else \
	  echo "go test (no C compiler: without the race detector)"; $(GO) test -timeout 40m $(PACKAGES); \
	fi

fuzz: ## every fuzz target for FUZZTIME (10m)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
	  done; \
	done

crash-store: ## kill ingests, compactions and PostgreSQL 230 times (15 min)
	DHALION_CRASHES=100 $(GO) test -run Killed -timeout 60m -v ./cmd/dhalion

crash: build ## kill appliers at every point and at 500 random moments, and PostgreSQL under 20 of them; undo 500 random plans; then 30 appliers of a real job (20 min; make test does a few)
	DHALION_APPLY_CRASHES=500 $(GO) test -run 'TestAnApply(ThatIsKilled|WhosePostgreSQL)|TestApplyThenRollback' -timeout 60m -v ./cmd/dhalion
	$(GO) run ./lab/e2e -binary $(BIN) crash

chaos-polls: ## 10,000 polls of a Flink that answers slowly, partly, wrongly and not at all (half an hour; make test does 130)
	DHALION_POLLS=10000 $(GO) test -run SpoiledAnswer -timeout 120m -v ./ingest/flink

bench: build ## against psql, DuckDB and polars, ratios asserted with slack (10 min); then the packages' own benchmarks
	$(GO) run ./lab/bench -binary $(BIN) ingest
	$(GO) run ./lab/bench -binary $(BIN) evaluate
	$(GO) test -run '^$$' -bench . -benchmem $(PACKAGES)

e2e-observe: build ## a real Flink, four faults, diagnosed live and from the recording of the same minutes (6 min)
	$(GO) run ./lab/e2e -binary $(BIN) observe

e2e: build ## real Flink: plans made, approved, applied and judged on eight stories, three clusters side by side (9 min)
	$(GO) run ./lab/e2e -binary $(BIN) apply

e2e-actuate: build ## the hand on Flink rescales, refuses and restarts a real job, each once (2 min)
	$(GO) run ./lab/e2e -binary $(BIN) actuate

demo: build ## two recorded incidents of one job: from history to two plans
	@DEMO_HOME=$(DEMO_HOME) scripts/demo $(BIN)

score: build ## diagnose the labelled recordings in RECORDINGS (default: the bundled ones) and print the score, the paper's beside ours
	$(GO) run ./lab/score -binary $(BIN) -beside paper $(RECORDINGS)

# Compiled once, so that changes to the source do not meet a recording of two hours.
lab: build lab-schedule ## record what is missing of the labelled corpus on real Flink clusters, LANES (3) at a time (2 h for all of it)
	$(GO) build -o $(LAB)/labrun ./lab/run
	$(LAB)/labrun record --scenarios $(LAB)/schedule-$(SEED) --out $(LAB) --corpus lab/corpus --binary $(BIN) --cache $(CACHE) --lanes $(LANES)

lab-schedule: ## draw the corpus's schedule from SEED (1), unless there is one
	@[ -d $(LAB)/schedule-$(SEED) ] || $(GO) run ./lab/run schedule --seed $(SEED) --out $(LAB)/schedule-$(SEED)

clean: ## remove what was built; the module cache stays
	rm -rf bin dist $(CACHE)
