package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// exitWithin is how soon the daemon must give up on a directory.
const exitWithin = 20 * time.Second

func refusalRow() Row {
	return Row{
		Name: "directory", What: "read-only, another owner's, a file, or held by a second instance: one clear line, code 1, no damage",
		Short: 4, Medium: 12, Full: 100, Needs: []Need{needRoot()}, Run: runRefusal,
	}
}

// daemon builds the program as it is shipped.
func (b *Bench) daemon() (string, error) { return b.build("millrace/cmd/millrace", "") }

// refusal is a spool directory that the daemon must not use.
type refusal struct {
	name    string
	prepare func(dir string) (undo func() error, err error)
	uid     uint32
	says    string // what the message must hold, besides the directory
}

func refusals() []refusal {
	none := func() error { return nil }
	return []refusal{
		{name: "read-only", says: "read-only", prepare: func(dir string) (func() error, error) {
			if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
				return none, err
			}
			undo := func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
			if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				return none, errors.Join(err, undo())
			}
			return undo, nil
		}},
		{name: "another owner's", uid: 65534, says: "chown", prepare: func(dir string) (func() error, error) {
			// The daemon gets as far as the directory, and not into it.
			for above := filepath.Dir(dir); len(above) > len(os.TempDir()) && above != "/dev/shm"; above = filepath.Dir(above) {
				if err := os.Chmod(above, 0o777); err != nil { //nolint:gosec // a directory of the trial's own
					return none, err
				}
			}
			return none, nil
		}},
		{name: "a file", says: "director", prepare: func(dir string) (func() error, error) {
			return none, errors.Join(os.RemoveAll(dir), os.WriteFile(dir, []byte("not a spool"), 0o600))
		}},
	}
}

// runRefusal starts the daemon on a directory that it must not touch.
func runRefusal(ctx context.Context, t *Trial) (int, error) {
	program, err := t.daemon()
	if err != nil {
		return 0, err
	}
	// A spool with data in it, to be left as it is.
	p, err := NewPlant("cloud")
	if err != nil {
		return 0, err
	}
	c := t.childConfig()
	s := &stage{t: t, p: p, c: c, cloud: newCloud(t.Rand), program: t.self, rnd: t.Rand}
	p.Cloud = s.cloud.answer
	if _, err := busy(cloudDown, 150*time.Millisecond)(ctx, s, nil); err != nil {
		return 0, err
	}
	n := 0
	for _, r := range refusals() {
		n++
		dir := filepath.Join(t.Dir, "r-"+strings.Fields(r.name)[0], "spool")
		if err := copyTree(c.spool(), dir); err != nil {
			return n, err
		}
		if err := t.refused(ctx, program, dir, &r); err != nil {
			return n, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	n++
	if err := t.secondInstance(ctx, p, program, c); err != nil {
		return n, fmt.Errorf("second instance: %w", err)
	}
	return n, nil
}

func (t *Trial) refused(ctx context.Context, program, dir string, r *refusal) (err error) {
	undo, err := r.prepare(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	before, err := fingerprint(dir)
	if err != nil {
		return err
	}
	if err := t.givesUp(ctx, program, dir, r.uid, r.says); err != nil {
		return err
	}
	after, err := fingerprint(dir)
	if err != nil {
		return err
	}
	if before != after {
		return errors.New("the directory has changed")
	}
	return nil
}

// givesUp runs the daemon and expects one clear line and code 1.
func (t *Trial) givesUp(ctx context.Context, program, dir string, uid uint32, says string) error {
	work, err := os.MkdirTemp(t.Dir, "daemon-")
	if err != nil {
		return err
	}
	if err := os.Chown(work, int(uid), -1); err != nil {
		return err
	}
	config := filepath.Join(work, "millrace.yaml")
	port, err := freePort()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("gateway: {site: plant, id: gw1}\nspool: {dir: %q, max_size: 64MiB}\ncontrol: {socket: %q}\nsources: [{name: in, type: http, connection: {listen: \"127.0.0.1:%d\"}}]\nsinks: [{name: cloud, type: file, dir: %q}]\n",
		dir, filepath.Join(work, "c.sock"), port, filepath.Join(work, "out"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil { //nolint:gosec // another user reads it
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, exitWithin)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "run", "--config", config)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		if err := os.Chmod(filepath.Dir(program), 0o755); err != nil { //nolint:gosec // holds programs alone
			return err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	err = cmd.Run()
	said := strings.TrimSpace(out.String())
	if ctx.Err() != nil {
		return fmt.Errorf("it runs on: %s", said)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("it ended with code %d, not 1: %s", cmd.ProcessState.ExitCode(), said)
	}
	if strings.Count(said, "\n") > 0 || !strings.Contains(said, dir) || !strings.Contains(strings.ToLower(said), says) {
		return fmt.Errorf("it does not say in one line what is wrong with %s (%q): %q", dir, says, said)
	}
	return nil
}

// secondInstance starts the daemon on a spool that a gateway holds.
func (t *Trial) secondInstance(ctx context.Context, p *Plant, program string, c *childConfig) error {
	k, err := p.start(t.self, c)
	if err != nil {
		return err
	}
	defer k.kill()
	if err := k.waitReady(ctx); err != nil {
		return err
	}
	if err := t.givesUp(ctx, program, c.spool(), 0, fmt.Sprintf("process %d", k.cmd.Process.Pid)); err != nil {
		return err
	}
	p.Cloud = nil
	if err := k.settle(ctx); err != nil {
		return fmt.Errorf("the first one: %w", err)
	}
	return p.Ledger.Check(NoLoss)
}

// fingerprint is a hash over a tree: names, modes, sizes and contents.
func fingerprint(root string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, info.Mode(), info.ModTime().UnixNano())
		if !info.Mode().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		h.Write(data)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// freePort returns a loopback port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
