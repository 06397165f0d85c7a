package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// The mirror's battery runs in fake time, so a trial of this row is a run of one
// test of package mirror, in a process of its own.
const (
	mirrorPackage = "millrace/gateway/mirror"
	mirrorTest    = "TestBattery"
	mirrorEnv     = "MILLRACE_MIRROR_COMMANDS"
	mirrorSeedEnv = "MILLRACE_MIRROR_SEED"
	// mirrorCommands is how many commands one seed sees.
	mirrorCommands = 10_000
)

func mirrorRow() Row {
	return Row{
		Name: "mirror", What: "commands for the mirror, most of them wrong, with kills, power cuts and a full disk at any step: no write that was not allowed then, no version twice or out of order, each refusal in the log",
		Short: 2000, Medium: 200_000, Full: 1_000_000, Run: runMirror,
	}
}

// runMirror sends so many commands; each is a trial.
func runMirror(ctx context.Context, t *Trial) (int, error) {
	program, err := t.testProgram(ctx, mirrorPackage)
	if err != nil {
		return 1, err
	}
	n := min(mirrorCommands, max(t.Left, 1))
	if t.Left == 1 { // a replay
		n = mirrorCommands
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^"+mirrorTest+"$", "-test.v", "-test.timeout", "20m")
	cmd.Dir = t.Dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", mirrorEnv, n), fmt.Sprintf("%s=%d", mirrorSeedEnv, t.Seed<<8), "TMPDIR="+t.Dir)
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "===") {
			t.Logf("%s", strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		return n, fmt.Errorf("%w: %s", err, failureOf(text))
	}
	if !strings.Contains(text, "--- PASS: "+mirrorTest) {
		return n, fmt.Errorf("%s did not run: %s", mirrorTest, text)
	}
	return n, nil
}
