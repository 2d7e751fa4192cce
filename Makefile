# What it takes: Go 1.26, a JRE 17, Maven, redis-server; `make deps` says what is missing.

LIBS := resources/kafka/libs
export GOFLAGS := -buildvcs=false
VERSION := $(shell git describe --tags --always 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION) -X main.date=$(shell date -u +%Y-%m-%dT%H:%M:%SZ)
LINT_VERSION := v2.6.2

.PHONY: build test test-full test-alerts bench bench-quick bench-soak bench-peers docs lint tidy fmt deps jars clean

build:
	CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o bin/kafka-failover ./cmd/kafka-failover

# Everything, real Kafka included, with short counts.
test: jars test-alerts
	go test -count=1 -timeout 15m ./internal/... ./input/... ./output/... ./processor/... ./cmd/...
	go test -count=1 -timeout 18m -p 1 -parallel 6 .

# The alert rules, by Prometheus' own tool where it is installed (Debian: package
# prometheus).
test-alerts:
	@if command -v promtool >/dev/null; then promtool test rules resources/alerts/kafka-failover_test.yaml; \
	else echo "promtool is missing: the alert rules are not tested"; fi

# The same scenarios with the counts of docs/reliability.md.
test-full: jars
	KAFKA_FAILOVER_FULL=1 go test -count=1 -timeout 90m -p 1 -parallel 4 -v ./...

# The relay beside a bare franz-go loop and its peers, with other data, in latency
# and growth; writes bench/RESULTS.md. About half an hour.
bench: jars build bench-peers
	cd bench && go run . all

# The bare loop and the relay, without and with transactions, interleaved.
bench-quick: jars build
	cd bench && go run . quick

# Ten minutes of steady load: memory and goroutines stay what they are.
bench-soak: jars build
	cd bench && go run . soak

# Those whom the relay is compared with: MirrorMaker 2, Connect, kaf-relay.
bench-peers: | deps
	cd bench/mirrormaker && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs
	cd bench/connect && go build -o ../bin/connect .
	cd bench/kaf-relay && go build -o ../bin/kaf-relay github.com/zerodha/kaf-relay

# What is generated from the plugins: docs/fields.md, resources/schema.json, and
# the table of docs/metrics.md.
docs:
	go test -count=1 -run TestTableIsCurrent ./internal/metrics -rewrite
	go test -count=1 -run TestReferenceIsCurrent ./cmd/kafka-failover -rewrite

lint:
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION) run ./...

# Compares go.mod of each module with what it imports, and lists differences. It
# fetches much that nothing else needs.
tidy:
	for m in . bench bench/connect bench/kaf-relay; do (cd $$m && GONOSUMDB=github.com/zerodha/kaf-relay go mod tidy -diff) || exit 1; done

fmt:
	gofmt -l -w .

deps:
	@command -v java >/dev/null || { echo "java is missing: install a JRE 17 (Debian: apt-get install openjdk-17-jre-headless)"; exit 1; }
	@command -v mvn >/dev/null || { echo "mvn is missing: install Maven (Debian: apt-get install maven)"; exit 1; }
	@command -v redis-server >/dev/null || { echo "redis-server is missing: install it (Debian: apt-get install redis-server)"; exit 1; }

# The jars of Apache Kafka that the tests run.
jars: $(LIBS)/.complete

$(LIBS)/.complete: resources/kafka/pom.xml | deps
	cd resources/kafka && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs
	go run ./internal/kafkatest/archive
	touch $@

clean:
	rm -rf bin $(LIBS) bench/bin bench/mirrormaker/libs
