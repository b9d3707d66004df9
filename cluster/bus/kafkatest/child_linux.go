package kafkatest

import "syscall"

// childAttributes makes a broker end when this process ends, in whatever way, and keeps
// the terminal's Ctrl-C from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
