//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"imgo/internal/process"
)

// The ports of a node. Each node has its own address.
const httpPort, tcpPort, wsPort, gossipPort, rpcPort = "7172", "8080", "8090", "7946", "7170"

// node is a sequence of imgo processes with the same address and data folder.
type node struct {
	process.Process
	role, ip, data string
}

func newNode(binary, dir, name, role, ip string) *node {
	n := &node{role: role, ip: ip, data: filepath.Join(dir, name)}
	n.Process = process.Process{Binary: binary, Name: name, HTTP: net.JoinHostPort(ip, httpPort), Log: n.data + ".log"}
	return n
}

// wipe deletes the data folder of the node.
func (n *node) wipe() error {
	if n.Running() {
		return fmt.Errorf("remove the disk of %s: it runs", n.Name)
	}
	if err := os.RemoveAll(n.data); err != nil {
		return fmt.Errorf("remove the disk of %s: %w", n.Name, err)
	}
	return nil
}

// cpu returns the CPU time that the process has used, or 0 if it does not run.
func (n *node) cpu() time.Duration {
	used, err := process.CPU(n.PID())
	if !n.Running() || err != nil {
		return 0
	}
	return used
}
