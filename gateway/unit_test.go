package gateway

import (
	"os"
	"regexp"
	"testing"
	"time"

	"millrace/gateway/config"
)

// commitGrace is left of the unit's time for the last commits on a worn disk.
const commitGrace = 10 * time.Second

// TestAStopFitsTheUnit: systemd kills what takes longer.
func TestAStopFitsTheUnit(t *testing.T) {
	unit, err := os.ReadFile("../systemd/millrace.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindSubmatch(unit)
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec")
	}
	limit, err := time.ParseDuration(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	if longest := sourceGrace + unplugGrace + config.MaxDeadline + commitGrace; longest > limit {
		t.Errorf("a stop may take %s, and the unit allows %s", longest, limit)
	}
	if d := config.DefaultShutdown(); d.Grace <= 0 || d.Deadline < d.Grace || d.Deadline > config.MaxDeadline {
		t.Errorf("the defaults are %+v", d)
	}
}
