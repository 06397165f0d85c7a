package main

import (
	"testing"
	"time"

	"millrace/gateway/batch"
)

func TestClockLine(t *testing.T) {
	for want, c := range map[string]batch.ClockStatus{
		"synchronised": {State: "synchronised"},
		"not synchronised since the boot; samples wait for it, 9m58s at most":                                                           {State: "free", Holding: true, HoldLeft: 598 * time.Second},
		"not synchronised since the boot; a record that corrects samples' times follows once it is":                                     {State: "free", Uncorrected: true},
		"no longer synchronised; carried on from the last synchronisation in this boot; the wall clock is -1h0m0s off what samples get": {State: "holdover", Off: -time.Hour},
		"taken as it is: the kernel does not say whether it is synchronised; 2 steps followed":                                          {State: "unknown", Steps: 2},
	} {
		if got := clockLine(&c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
