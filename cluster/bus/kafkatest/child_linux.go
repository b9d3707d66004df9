package kafkatest

import "syscall"

// child are a broker's ties to this process: it ends with it, however that
// ends, and the terminal's Ctrl-C does not reach it.
func child() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
