//go:build !linux

package kafkatest

import "syscall"

// childAttributes returns the attributes of a broker's process.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
