package analysis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// Source is a file on this machine.
type Source struct {
	Site string
	Path string
}

// Query is a step for an engine that reads files of this machine.
type Query struct {
	Result result.Result
	Day    time.Time // 00:00 UTC
	Text   string    // the result's SQL
	// Files are what the views are made of; those of one site stand together.
	Files map[View][]Source
	// NextDay is what the view next_day is made of.
	NextDay []Gateway
	// Out is where the rows go, as Parquet, in the result's columns and sorted by
	// its key.
	Out string
}

// Local computes one query and returns how many rows there are. It is
// duckdb.Engine.
type Local interface {
	Compute(ctx context.Context, q Query) (int64, error)
}

// Machine is an Engine of this machine. Files of S3 are brought to a work
// directory first, and removed when the steps at hand need them no more.
type Machine struct {
	Place objects.Place
	Local Local
	Dir   string // work directory; it is made where it is missing

	fetched map[string]bool // paths in Dir that the last step has used
}

// Batch implements Engine: a step's inputs are known when those before it are
// done.
func (m *Machine) Batch() int { return 1 }

// Compute implements Engine.
func (m *Machine) Compute(ctx context.Context, steps []Step, done func(int, File) error) error {
	for i := range steps {
		f, err := m.step(ctx, &steps[i])
		if err != nil {
			return fmt.Errorf("%s: %w", &steps[i], err)
		}
		if err := done(i, f); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) step(ctx context.Context, s *Step) (File, error) {
	text, err := Text(s.Result.Name)
	if err != nil {
		return File{}, err
	}
	q := Query{Result: s.Result, Day: s.Day, Text: text, Files: map[View][]Source{}, NextDay: s.NextDay, Out: filepath.Join(m.Dir, "result.parquet")}
	if err := os.MkdirAll(filepath.Join(m.Dir, "fetched"), 0o750); err != nil {
		return File{}, fmt.Errorf("make the work directory: %w", err)
	}
	used := map[string]bool{}
	paths := make([]string, 0, len(s.Inputs))
	for _, in := range s.Inputs {
		path, err := m.path(ctx, in)
		if err != nil {
			return File{}, fmt.Errorf("read %s: %w", in.Key, err)
		}
		used[path] = true
		paths = append(paths, path)
		q.Files[in.View] = append(q.Files[in.View], Source{Site: in.Site, Path: path})
	}
	for path := range m.fetched {
		if !used[path] {
			if err := os.Remove(path); err != nil {
				return File{}, err
			}
		}
	}
	if m.remote() {
		m.fetched = used
	}
	defer os.Remove(q.Out)
	rows, err := m.Local.Compute(ctx, q)
	if err != nil && ctx.Err() == nil {
		// An engine names the copy at best, and not what to do.
		for i, path := range paths {
			if !wholeParquet(path) {
				return File{}, &BrokenError{Place: m.Place.String(), Key: s.Inputs[i].Key, Cause: err}
			}
		}
	}
	if err != nil {
		return File{}, err
	}
	if rows == 0 {
		return File{}, m.Place.Delete(ctx, s.Output())
	}
	f := File{Rows: rows}
	if f.SHA256, f.Bytes, err = hashFile(q.Out); err != nil {
		return File{}, err
	}
	if err := m.Place.PutFile(ctx, s.Output(), q.Out); err != nil {
		return File{}, fmt.Errorf("store %s: %w", s.Output(), err)
	}
	return f, nil
}

// Close removes what was fetched.
func (m *Machine) Close() error { return os.RemoveAll(filepath.Join(m.Dir, "fetched")) }

func (m *Machine) remote() bool { return strings.HasPrefix(m.Place.String(), "s3://") }

// path is where an input is on this machine, after it was fetched where it was
// not.
func (m *Machine) path(ctx context.Context, in Input) (string, error) {
	if !m.remote() {
		return filepath.Abs(filepath.Join(m.Place.String(), filepath.FromSlash(in.Key)))
	}
	name := sha256.Sum256([]byte(fmt.Sprintf("%s %d %s", in.Key, in.Size, in.Hash)))
	path := filepath.Join(m.Dir, "fetched", hex.EncodeToString(name[:])+".parquet")
	if info, err := os.Stat(path); err == nil && info.Size() == in.Size && m.fetched[path] {
		return path, nil
	}
	return path, m.fetch(ctx, in, path)
}

func (m *Machine) fetch(ctx context.Context, in Input, path string) (err error) {
	r, err := m.Place.Get(ctx, in.Key)
	if err != nil {
		return err
	}
	defer r.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	n, err := io.Copy(tmp, r)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if n != in.Size {
		return fmt.Errorf("%d bytes came of %d; it was replaced meanwhile: run it again", n, in.Size)
	}
	return os.Rename(tmp.Name(), path)
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
