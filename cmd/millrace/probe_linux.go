package main

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel kill the child when the gateway is killed: it
// would hold a lock on a file that the next gateway wants to open.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
