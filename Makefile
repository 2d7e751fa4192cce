# What it takes: Go 1.26, a JRE 17, Maven; `make deps` says what is missing.

LIBS := resources/kafka/libs
export GOFLAGS := -buildvcs=false
VERSION := $(shell git describe --tags --always 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION) -X main.date=$(shell date -u +%Y-%m-%dT%H:%M:%SZ)
LINT_VERSION := v2.6.2

.PHONY: build test test-full bench-quick docs lint fmt deps jars clean

build:
	CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o bin/kafka-failover ./cmd/kafka-failover

# Everything, real Kafka included, with short counts.
test: jars
	go test -count=1 -timeout 15m ./internal/... ./input/... ./output/... ./processor/... ./cmd/...
	go test -count=1 -timeout 18m -p 1 .

# The same scenarios with the counts of docs/reliability.md.
test-full: jars
	KAFKA_FAILOVER_FULL=1 go test -count=1 -timeout 60m -p 1 -v ./...

# The bare franz-go loop and the relay, without and with transactions, interleaved.
bench-quick: jars build
	cd bench && go run ./quick -relay ../bin/kafka-failover

# What is generated from the plugins: docs/fields.md, resources/schema.json.
docs:
	go test -count=1 -run TestReferenceIsCurrent ./cmd/kafka-failover -rewrite

lint:
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION) run ./...

fmt:
	gofmt -l -w .

deps:
	@command -v java >/dev/null || { echo "java is missing: install a JRE 17 (Debian: apt-get install openjdk-17-jre-headless)"; exit 1; }
	@command -v mvn >/dev/null || { echo "mvn is missing: install Maven (Debian: apt-get install maven)"; exit 1; }

# The jars of Apache Kafka that the tests run.
jars: $(LIBS)/.complete

$(LIBS)/.complete: resources/kafka/pom.xml | deps
	cd resources/kafka && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs
	touch $@

clean:
	rm -rf bin $(LIBS)
