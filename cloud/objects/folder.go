package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

type folder string

func (f folder) String() string { return string(f) }

func (f folder) path(key string) string { return filepath.Join(string(f), filepath.FromSlash(key)) }

// Exists says that a place can be read from: of a folder that it is there. Whether a
// bucket is shows when it is first read. The error says what is in the way.
func Exists(p Place) error {
	f, local := p.(folder)
	if !local {
		return nil
	}
	info, err := os.Stat(string(f))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s: correct the path", f)
	case err != nil:
		return fmt.Errorf("folder %s cannot be read: %w", f, err)
	case !info.IsDir():
		return fmt.Errorf("%s is no folder: correct the path", f)
	}
	return nil
}

// Put implements Place. The file has its name only when it is on the disk.
func (f folder) Put(_ context.Context, key string, data []byte) error {
	return f.put(key, func(to *os.File) error {
		_, err := to.Write(data)
		return err
	})
}

// PutFile implements Place.
func (f folder) PutFile(_ context.Context, key, name string) (err error) {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	return f.put(key, func(to *os.File) error {
		_, err := io.Copy(to, from)
		return err
	})
}

// partPrefix begins the names of files that are being written.
const partPrefix = ".part-"

func (f folder) put(key string, write func(*os.File) error) (err error) {
	name := f.path(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), partPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = write(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil // the file is there; only its name may go with a power cut
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// List implements Place. Files that are being written are none.
func (f folder) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	// The folder's own order is not that of keys: "a-b" is before "a/b".
	type object struct {
		key  string
		size int64
	}
	var all []object
	root := f.path(path.Dir(prefix + "x"))
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // there is none, or it was removed meanwhile
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.IsDir() || strings.HasPrefix(d.Name(), partPrefix):
			return nil
		}
		rel, err := filepath.Rel(string(f), name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		if !strings.HasPrefix(key, prefix) {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		all = append(all, object{key, info.Size()})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.key, b.key) })
	for _, o := range all {
		if err := fn(o.key, o.size); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements Place.
func (f folder) Delete(_ context.Context, key string) error {
	if err := os.Remove(f.path(key)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Get implements Place.
func (f folder) Get(_ context.Context, key string) (io.ReadCloser, error) {
	file, err := os.Open(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", f.path(key), ErrNone)
	}
	if err != nil {
		return nil, err
	}
	return file, nil
}
