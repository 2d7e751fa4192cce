package kafkatest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// archiveIn is where the classes are that a broker loads, ready for use. With
// them a broker takes half as much CPU to start; a JVM that cannot use them goes
// on without.
func archiveIn(libs string) string { return filepath.Join(libs, "kafka.jsa") }

// Archive makes the archive from a broker that starts and ends.
func Archive() error {
	libs, err := Libs()
	if err != nil {
		return err
	}
	file := archiveIn(libs)
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	c, err := Launch("archive", Options{archive: file})
	if err != nil {
		return err
	}
	defer c.Remove()
	n := c.nodes[0]
	n.signal(syscall.SIGTERM)
	n.wait()
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("the JVM has written no archive of its classes: %w", err)
	}
	return nil
}
