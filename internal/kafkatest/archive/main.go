// Command archive keeps the classes that a Kafka broker loads, so that those of
// the tests start faster: `make jars` runs it once.
package main

import (
	"fmt"
	"os"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

func main() {
	if err := kafkatest.Archive(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
