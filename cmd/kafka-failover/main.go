// Command kafka-failover is a Benthos command line with the kafka_failover
// plugins built in.
package main

import (
	"context"
	"fmt"
	"os"
	_ "time/tzdata" // a container from scratch has no time zones

	"github.com/redpanda-data/benthos/v4/public/service"
	_ "github.com/redpanda-data/connect/v4/public/components/io"
	_ "github.com/redpanda-data/connect/v4/public/components/prometheus"
	_ "github.com/redpanda-data/connect/v4/public/components/pure"
	_ "github.com/redpanda-data/connect/v4/public/components/pure/extended"
	_ "github.com/redpanda-data/connect/v4/public/components/redis"

	kafkafailover "github.com/kafka-failover/kafka-failover"
)

// version and date are set by the linker.
var version, date = "dev", "unknown"

func main() { os.Exit(run()) }

// run returns the exit code: 1 also when a relay has stopped for good and was
// asked to end the process with it.
func run() int {
	describe()
	tuneMemory()
	go endWithFatal(os.Args)
	go showProgress(os.Args)
	code, err := service.RunCLIToCode(context.Background(),
		service.CLIOptSetVersion(version, date),
		service.CLIOptSetBinaryName("kafka-failover"),
		service.CLIOptSetProductName("kafka-failover"),
		service.CLIOptSetDocumentationURL("https://github.com/kafka-failover/kafka-failover/tree/main/docs"),
		service.CLIOptSetDefaultConfigPaths("./kafka-failover.yaml", "/kafka-failover.yaml", "/etc/kafka-failover/config.yaml"),
		service.CLIOptOnConfigParse(onConfig),
		service.CLIOptAddCommand(demoCommand()),
		service.CLIOptAddCommand(checkCommand()),
		service.CLIOptAddCommand(statusCommand()),
		service.CLIOptAddCommand(verifyCommand()),
		service.CLIOptAddCommand(convertCommand()),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if code == 0 && kafkafailover.MustExit() {
		return 1
	}
	return code
}
