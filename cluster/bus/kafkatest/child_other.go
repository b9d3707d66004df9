//go:build !linux

package kafkatest

import "syscall"

// child are a broker's ties to this process.
func child() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
