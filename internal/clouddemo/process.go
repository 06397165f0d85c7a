package clouddemo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopWithin bounds the gateway's stop: it delivers what is left.
const stopWithin = 45 * time.Second

// build makes the gateway's program from the sources in the present folder.
func build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "millrace")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "millrace/cmd/millrace")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", errInterrupted
		}
		return "", fmt.Errorf("build millrace: %w: %s; run it in the folder of millrace's sources, with Go, or give --millrace PATH", err, lastLine(out))
	}
	return path, nil
}

// process is a running gateway.
type process struct {
	path, socket, logPath string

	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // what it ended with; read after ended
}

// start runs `millrace run`.
func start(path, config, socket, logPath string) (*process, error) {
	out, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	p := &process{path: path, socket: socket, logPath: logPath, cmd: exec.Command(path, "run", "--config", config), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the gateway: %w; give --millrace PATH", err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// failure is why the gateway ended before it was told to.
func (p *process) failure() error {
	text, err := os.ReadFile(p.logPath)
	return errors.Join(fmt.Errorf("the gateway ended by itself (%s): %s", p.cmd.ProcessState, lastLine(text)), err)
}

// stop has the gateway deliver what is left and end. It kills one that does not.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return p.failure()
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the gateway: %w", err)
	}
	late := time.NewTimer(stopWithin)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		p.kill()
		return fmt.Errorf("the gateway did not stop within %s", stopWithin)
	}
	if p.err != nil {
		return p.failure()
	}
	return nil
}

// kill ends the gateway at once, where it still runs.
func (p *process) kill() {
	// One that has ended cannot be killed, and need not be.
	_ = p.cmd.Process.Kill()
	<-p.ended
}

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}
