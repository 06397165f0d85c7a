package csv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
)

// folder implements protocols.Connection. It keeps no file open: the folder may
// be a share that comes and goes.
type folder struct {
	dir   string
	mode  fs.FileMode // 0: as it comes
	gid   int         // -1: as it comes
	form  form
	clock clock.Clock
	log   *slog.Logger
	hook  func(step) error
	busy  chan struct{} // held by who works in the folder
}

const (
	// patience bounds an access to the folder, where the caller has no limit.
	patience = 10 * time.Second
	// closeWithin bounds the wait for an access that does not end.
	closeWithin = 2 * time.Second
)

// errLate says that the system has not come back from the folder: a share
// whose server is away holds up whoever uses it.
var errLate = errors.New("the folder does not answer in time")

// errNoFile says that something else has the file's name: a folder or a pipe.
var errNoFile = errors.New("it is not a file")

// within runs act and waits for it as long as ctx and patience allow. One that
// comes late goes on by itself, and until it has ended nothing else is begun.
func (f *folder) within(ctx context.Context, act func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case f.busy <- struct{}{}:
	case <-ctx.Done():
		return &failure{stepOpen, fmt.Errorf("an earlier access has not ended: %w", errLate)}
	}
	ended := make(chan error, 1)
	go func() {
		err := act()
		<-f.busy
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errLate
	}
}

// OpenSource implements protocols.Connection.
func (*folder) OpenSource(*protocols.SourceConfig, protocols.Health) (protocols.Source, error) {
	return nil, protocols.ErrNoSource
}

// Close implements protocols.Connection.
func (f *folder) Close() error {
	select {
	case f.busy <- struct{}{}:
		<-f.busy
	case <-time.After(closeWithin): // it ends when the share answers
	}
	return nil
}

// failure says in which step replacing a file failed.
type failure struct {
	at  step
	err error
}

// Error implements error.
func (f *failure) Error() string { return string(f.at) + ": " + f.err.Error() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// replace puts data in the place of a file, by way of another one in the same
// folder: whoever reads finds the old file or the new one, never a part. With
// durable it has reached the disk when replace returns.
func (f *folder) replace(ctx context.Context, name string, data []byte, durable bool) error {
	var renamed atomic.Bool // or given up, whoever comes first
	err := f.within(ctx, func() error { return f.steps(name, data, durable, &renamed) })
	if !errors.Is(err, errLate) || errors.As(err, new(*failure)) {
		return err
	}
	if renamed.CompareAndSwap(false, true) {
		return &failure{stepSync, errLate} // it will not be renamed any more
	}
	return &failure{stepRename, errLate}
}

// steps does what replace says. It renames nothing where renamed is true.
func (f *folder) steps(name string, data []byte, durable bool, renamed *atomic.Bool) (err error) {
	do := func(at step, act func() error) {
		if err != nil {
			return
		}
		if err = f.hook(at); err == nil {
			err = act()
		}
		if err != nil {
			err = &failure{at, err}
		}
	}
	var root *os.Root
	do(stepOpen, func() (e error) { root, e = os.OpenRoot(f.dir); return e })
	if err != nil {
		return err
	}
	defer func() {
		_ = root.Close() // nothing is written by it
	}()
	temporary := "." + name + ".part"
	first := fs.FileMode(0o600) // until it has its group
	if f.mode == 0 {
		first = 0o666 // as the umask lets it
	}
	var file *os.File
	do(stepCreate, func() (e error) {
		// One that a crash left behind is in the way.
		if e := root.Remove(temporary); e != nil && !errors.Is(e, fs.ErrNotExist) {
			return e
		}
		file, e = root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, first)
		return e
	})
	if err != nil {
		return err
	}
	do(stepWrite, func() error {
		if _, e := file.Write(data); e != nil {
			return e
		}
		if f.gid >= 0 {
			if e := file.Chown(-1, f.gid); e != nil {
				return e
			}
		}
		if f.mode == 0 {
			return nil
		}
		return file.Chmod(f.mode) // whatever the umask is
	})
	if durable {
		do(stepSync, file.Sync)
	}
	if e := file.Close(); err == nil && e != nil {
		err = &failure{stepWrite, e}
	}
	if err == nil && !renamed.CompareAndSwap(false, true) {
		err = &failure{stepRename, errLate} // nobody waits for it any more
	}
	do(stepRename, func() error { return root.Rename(temporary, name) })
	if err != nil {
		_ = root.Remove(temporary) // the next one removes it too
		return err
	}
	if durable {
		do(stepSyncDir, func() error {
			d, e := root.Open(".")
			if e != nil {
				return e
			}
			e = d.Sync()
			if errors.Is(e, syscall.EINVAL) || errors.Is(e, errors.ErrUnsupported) {
				e = nil // shares that have no such thing
			}
			return errors.Join(e, d.Close())
		})
	}
	return err
}

// read returns a file's bytes; nil where there is none in a folder that is there.
func (f *folder) read(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	err := f.within(ctx, func() (e error) { data, e = f.load(name); return e })
	if err != nil {
		return nil, err // what comes late is not looked at
	}
	return data, nil
}

func (f *folder) load(name string) ([]byte, error) {
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = root.Close() // nothing is written by it
	}()
	// A pipe that somebody has put there would hold up whoever opens it.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errNoFile, file.Close())
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch err := errors.Join(err, file.Close()); {
	case err != nil:
		return nil, err
	case len(data) > maxFile:
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return data, nil
}

// explain says what failed and what to do.
func (f *folder) explain(name string, err error) error {
	hint := "look at the folder and its disk"
	switch {
	case errors.Is(err, errLate):
		hint = "look at the share's server and the network; mount it with soft and a short timeo"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		hint = "nothing was written"
	case errors.Is(err, errNoFile):
		hint = "take it away, and find out who has put it there"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		hint = "make the folder, or mount its share: it is not made by itself"
	case errors.Is(err, fs.ErrPermission):
		hint = "let the user millrace write there, and set its group by a group that he is in; under systemd add the folder to ReadWritePaths"
	case errors.Is(err, syscall.EROFS):
		hint = "it is read-only: mount it for writing; under systemd add the folder to ReadWritePaths"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "the disk is full: free space there"
	}
	return fmt.Errorf("file %s in %s: %s: %s", name, f.dir, oneLine(err), hint)
}

// outcome tells what is known of a file that could not be replaced.
func outcome(err error) protocols.WriteOutcome {
	var failed *failure
	switch {
	case !errors.As(err, &failed):
		return protocols.Unknown
	case failed.at == stepSyncDir:
		return protocols.Unknown // it is there, and a power cut may take it back
	case failed.at == stepRename && (errors.Is(err, syscall.EIO) || errors.Is(err, errLate) || errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.ESTALE)):
		return protocols.Unknown // a share may have done it
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return protocols.Rejected
	}
	return protocols.Unsent
}
