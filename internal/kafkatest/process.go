// Package kafkatest starts Kafka clusters for tests and for the demo: real
// Apache Kafka processes, which can be killed and paused for real, and kfake in
// this process.
package kafkatest

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// starter starts child processes from one thread that lives as long as this
// process does: Linux ends a child whose starting thread ends (Pdeathsig), and
// this way it does so exactly when this process dies, however it dies.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// StartProcess starts cmd so that it does not outlive this process.
func StartProcess(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	starter() <- func() { done <- cmd.Start() }
	return <-done
}

// FreePorts returns n ports of the loopback interface that are free now.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
