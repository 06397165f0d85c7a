# Everything here needs Go and make, nothing else, except where it says so.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS   = -s -w -X main.version=$(VERSION)
CACHE     = $(CURDIR)/.cache

# The linter is pinned: another version finds other things. Its cache stays in
# this checkout: shared with others, it reports what it saw in theirs, with
# exclusions that no longer match once those are gone.
LINT_VERSION = v2.12.2
LINT         = $(CACHE)/bin/golangci-lint-$(LINT_VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo demo-cloud test race lint bench faults build cloud unit interop interop-cloud clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: ## run the whole gateway against a simulated plant and cloud, 45 s
	$(GO) run ./cmd/millrace demo --duration 45s

# DuckDB is C++, whose library comes with the module for the usual platforms.
demo-cloud: ## run the whole loop through the cloud half and back into a simulated PLC, half a minute (needs a C compiler)
	@command -v $$($(GO) env CC) >/dev/null || { echo "make demo-cloud needs a C compiler for DuckDB: install gcc, or set CC"; exit 1; }
	@CGO_ENABLED=1 $(GO) build -tags duckdb -o $(CACHE)/demo/millrace-cloud ./cmd/millrace-cloud || { echo "make demo-cloud: millrace-cloud could not be built with DuckDB; see above"; exit 1; }
	$(CACHE)/demo/millrace-cloud demo

test: ## run all tests
	$(GO) test ./...

race: ## run all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

lint: $(LINT) ## gofmt, go vet, the linters and the import arrows
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./...
	GOLANGCI_LINT_CACHE=$(CACHE)/lint $(LINT) run ./...

$(LINT):
	mkdir -p $(CACHE)/bin
	GOBIN=$(CACHE)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(CACHE)/bin/golangci-lint $@

bench: ## measure what the README promises, each figure beside its bar (a quarter of an hour; 20 GB of disk)
	$(GO) run ./internal/bench

# FORM is short, medium or full; ROW and SEED replay what a table names.
faults: ## inject faults into a gateway and hold an outside ledger against it (FORM= ROW= SEED= TRIALS=)
	$(GO) run ./internal/faults/battery -form '$(or $(FORM),medium)' -row '$(ROW)' -seed '$(SEED)' -trials '$(or $(TRIALS),0)'

# What is no part of the binaries has to build for the others too: vet sees all
# packages with their tests.
build: ## static binaries in dist/: millrace for linux amd64, arm64 and armv7, millrace-cloud for amd64 and arm64
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) vet ./...
	CGO_ENABLED=0 GOOS=linux GOARCH=arm GOARM=7 $(GO) vet ./...
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/millrace-linux-amd64 ./cmd/millrace
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/millrace-linux-arm64 ./cmd/millrace
	CGO_ENABLED=0 GOOS=linux GOARCH=arm GOARM=7 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/millrace-linux-armv7 ./cmd/millrace
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/millrace-cloud-linux-amd64 ./cmd/millrace-cloud
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/millrace-cloud-linux-arm64 ./cmd/millrace-cloud
	@ls -l dist

cloud: ## bin/millrace-cloud with DuckDB in it, for `analyze` on one machine (needs a C compiler)
	CGO_ENABLED=1 $(GO) build -tags duckdb -trimpath -ldflags '$(LDFLAGS)' -o bin/millrace-cloud ./cmd/millrace-cloud
	@ls -l bin/millrace-cloud

unit: ## check the systemd unit and its exposure (needs systemd-analyze)
	scripts/check-unit.sh

interop: ## run the gateway against real servers (needs Python, Java and Maven; see scripts/interop.sh)
	scripts/interop.sh

interop-cloud: ## run the cloud half on real parts, DuckDB too (needs Python, Java, Maven, npm and a C compiler; see scripts/interop-cloud.sh)
	scripts/interop-cloud.sh

clean: ## remove what was built and installed here
	rm -rf dist bin .cache
