# Most targets work on a fresh machine. They run scripts/setup, which installs missing tools if the
# user may do that.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# FUZZTIME is the duration for each fuzz target. BENCH selects the benchmarks of `make microbench`.
FUZZTIME ?= 10m
BENCH ?= .
# ARGS are arguments for `make run` and others, such as ARGS="--http 127.0.0.1:9000".
ARGS ?=
# LANGUAGES selects the client libraries of `make sdk`.
LANGUAGES ?= $(patsubst clients/%/pack,%,$(wildcard clients/*/pack))
# RACE=-race builds `make soak` and its server with the race detector.
RACE ?=

CACHE := .cache
LINT_VERSION := v2.6.0

# The versions that generated envelope/*.pb.go. `make proto` checks them.
PROTOC_VERSION := 3.21.12
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_VTPROTO_VERSION := v0.6.0

.PHONY: help setup setup-go setup-kafka run build sdk install check test race lint fuzz bench scale microbench soak powercut kafka cluster chaos proto clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (CI=true: a missing part is an error)
	@scripts/setup test

setup-go:
	@scripts/setup build

run: build ## Build and run the server with its defaults; ARGS="--http …" adds flags
	./imgo $(ARGS)

build: setup-go ## Build ./imgo
	@[ -x imgo ] || echo "building imgo; the first time takes a minute or two" >&2
	go build -o imgo .

sdk: setup ## Pack the client libraries into dist/; LANGUAGES="python go" for some of them
	@for language in $(LANGUAGES); do "clients/$$language/pack" dist; done

install: build ## Build imgo and put it into the folder of `go install`
	go install .
	@command -v imgo >/dev/null || { dir="$$(go env GOBIN)"; echo "imgo is in $${dir:=$$(go env GOPATH)/bin}, which your shell does not search;" \
		"add it with: export PATH=\"$$dir:\$$PATH\"" >&2; }

test: setup ## Every test, with go vet
	@scripts/test

race: setup ## Packages and systems again: with the race detector, with goroutines instead of epoll; second variants of the clients
	@scripts/test race

check: lint ## The quick check while you work: build, lint, and the tests that need no other process
	go build ./...
	@scripts/test check

lint: setup-go ## Lint, the import rules of the design included
	@lint="$$(scripts/tool golangci-lint $(LINT_VERSION) github.com/golangci/golangci-lint/v2/cmd/golangci-lint)"; "$$lint" run ./... && cd clients/go && "$$lint" run ./...

fuzz: setup-go ## Run every fuzz target for FUZZTIME (10m)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

bench: build ## Measure ./imgo and compare with the targets, under 10 minutes; ARGS="--scenarios latency" for a part
	./imgo bench --out bench/results $(ARGS)

scale: build ## Fill a cluster of 11 comets with 203,500 clients, on a Kafka in memory; needs 8 GiB and 20,000 files a process
	@mkdir -p $(CACHE)/bin && go build -o $(CACHE)/bin/kafka ./bench/kafka
	@$(CACHE)/bin/kafka -fake -port 19092 & kafka=$$!; trap 'kill $$kafka' EXIT; \
		./imgo bench --scenarios scale --runs 1 --kafka 127.0.0.1:19092 --out bench/results $(ARGS)

microbench: setup-go ## Run the benchmarks of single packages; BENCH=name for some of them
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m ./...

soak: setup-go ## Kill -9 a real server 20 times under load, with epoll and with goroutines, under 6 minutes; SOAK_KILLS=200 for more
	SOAK=1 go test -count 1 -timeout 3h -v -run '^TestSoak$$' $(RACE) ./bench/soak

powercut: setup-go ## Cut the power at 1,000 recorded points of the store's life, under 6 minutes; POINTS=10000 for more
	POWERCUT_POINTS=$(or $(POINTS),1000) go test -count 1 -timeout 3h -v ./test/powercut

setup-kafka:
	@scripts/setup kafka

kafka: setup-kafka ## Run a real Apache Kafka on 127.0.0.1:9092 until Ctrl-C; ARGS="--brokers 3" for three
	@mkdir -p $(CACHE)/bin && go build -o $(CACHE)/bin/kafka ./bench/kafka
	@exec $(CACHE)/bin/kafka $(ARGS)

cluster: build setup-kafka ## Run a cluster on 127.0.0.x until Ctrl-C: Kafka, and two nodes of each role
	@mkdir -p $(CACHE)/bin && go build -o $(CACHE)/bin/chaos ./bench/chaos
	@exec $(CACHE)/bin/chaos -serve -imgo ./imgo $(ARGS)

chaos: build setup-kafka ## Break such a cluster under load, for 20 minutes; ARGS="-brokers 3" for three brokers
	@mkdir -p $(CACHE)/bin && go build -o $(CACHE)/bin/chaos ./bench/chaos
	@exec $(CACHE)/bin/chaos -imgo ./imgo -out bench/results $(ARGS)

proto: setup-go ## Generate envelope/*.pb.go anew; needs protoc in the version that this file names
	@version="$$(protoc --version 2>/dev/null || true)"; [ "$$version" = "libprotoc $(PROTOC_VERSION)" ] || \
		{ echo "make proto needs protoc $(PROTOC_VERSION) (there is: $${version:-none}); Debian 12: apt-get install protobuf-compiler" >&2; exit 1; }
	@mkdir -p $(CACHE)/bin
	GOBIN="$$PWD/$(CACHE)/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN="$$PWD/$(CACHE)/bin" go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@$(PROTOC_GEN_VTPROTO_VERSION)
	PATH="$$PWD/$(CACHE)/bin:$$PATH" go generate ./envelope

clean: ## Remove what was built and downloaded here, never data
	rm -rf imgo $(CACHE) coverage.out
	go clean -testcache
