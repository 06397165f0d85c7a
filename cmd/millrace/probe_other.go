//go:build !linux

package main

import "os/exec"

// endWithParent leaves the child to its time limit.
func endWithParent(*exec.Cmd) {}
