package main

import (
	"fmt"
	"strings"
	"time"

	"millrace/gateway/batch"
)

// clockLine says in one line how far the times of samples can be trusted.
func clockLine(c *batch.ClockStatus) string {
	var parts []string
	switch c.State {
	case "synchronised":
		parts = append(parts, "synchronised")
	case "holdover":
		parts = append(parts, "no longer synchronised; carried on from the last synchronisation in this boot")
	case "unknown":
		parts = append(parts, "taken as it is: the kernel does not say whether it is synchronised")
	default:
		parts = append(parts, "not synchronised since the boot")
	}
	if c.Holding {
		parts = append(parts, fmt.Sprintf("samples wait for it, %s at most", c.HoldLeft.Round(time.Second)))
	}
	if c.Uncorrected {
		parts = append(parts, "a record that corrects samples' times follows once it is")
	}
	if c.Off.Abs() >= time.Second {
		parts = append(parts, fmt.Sprintf("the wall clock is %s off what samples get", c.Off.Round(time.Second)))
	}
	if c.Steps > 0 {
		parts = append(parts, fmt.Sprintf("%d steps followed", c.Steps))
	}
	return strings.Join(parts, "; ")
}
