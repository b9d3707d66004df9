package process

import "syscall"

// attributes puts the process into a group of its own, so that Ctrl-C of the terminal does not reach it.
// The process dies with the tool that started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
