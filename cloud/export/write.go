package export

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/sample/weektable"
)

// Version is that of the index.
const Version = 1

// Index says what objects of one thing were exported in one form.
type Index struct {
	Version int      `json:"version"`
	What    string   `json:"what"`
	Objects []Object `json:"objects"` // by Key
}

// Object is one of them.
type Object struct {
	Key    string `json:"key"` // in the same place as the index
	Site   string `json:"site,omitempty"`
	Day    string `json:"day"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // of its bytes, in hexadecimal
	// Source tells whether the archive's files and the options are those that it
	// was made of.
	Source string `json:"source,omitempty"`
}

// IndexKey is the key of an index.
func IndexKey(prefix, what string) string { return prefix + what + "/index.json" }

// readIndex reads an index; one that is not there is empty.
func readIndex(ctx context.Context, to objects.Place, key, what string) (*Index, error) {
	in := &Index{Version: Version, What: what}
	body, err := to.Get(ctx, key)
	if errors.Is(err, objects.ErrNone) {
		return in, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %s", key, to, connect.Brief(err))
	}
	data, err := io.ReadAll(io.LimitReader(body, maxIndex+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", key, to, err)
	}
	if err := json.Unmarshal(data, in); err != nil || len(data) > maxIndex {
		return nil, fmt.Errorf("%s in %s is no index of an export: remove it, and all is exported anew", key, to)
	}
	if in.Version != Version {
		return nil, fmt.Errorf("%s in %s is of version %d, and this program knows %d: update millrace-cloud", key, to, in.Version, Version)
	}
	return in, nil
}

const maxIndex = 256 << 20

// find returns the place of an object, and where it would be.
func (in *Index) find(key string) (int, bool) {
	return slices.BinarySearchFunc(in.Objects, key, func(o Object, key string) int { return strings.Compare(o.Key, key) })
}

func (in *Index) set(o Object) {
	at, there := in.find(o.Key)
	if there {
		in.Objects[at] = o
		return
	}
	in.Objects = slices.Insert(in.Objects, at, o)
}

// manifest reads the manifest of a day's week, nil where there is none.
func (r *run) manifest(ctx context.Context, day time.Time) (*manifest.Manifest, error) {
	if r.Store.Archive == nil {
		return nil, nil
	}
	table := weektable.Table(r.Store.Prefix, day)
	if m, known := r.manifests[table]; known {
		return m, nil
	}
	m, err := manifest.Read(ctx, r.Store.Archive, table)
	if errors.Is(err, objects.ErrNone) {
		m, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.manifests[table] = m
	return m, nil
}

// fingerprint is of the archive's files as their manifest vouches for them, and of
// what is made of them. It is empty where a file is in no manifest.
func (r *run) fingerprint(sources []string, m *manifest.Manifest) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %s %v %v %q\n", Version, r.Format, r.Gzip, r.BOM, r.Tags)
	for _, key := range sources {
		at := slices.IndexFunc(m.Files, func(f manifest.File) bool { return f.Key == key })
		if at < 0 {
			return ""
		}
		fmt.Fprintf(sum, "%s %s\n", key, m.Files[at].SHA256)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// export writes the objects of one thing, and then their index. The index is
// written where the run ends early, too: it names what is whole.
func (r *run) export(ctx context.Context, what string, tasks []task) error {
	key := IndexKey(r.Prefix, what)
	index, err := readIndex(ctx, r.To, key, what)
	if err != nil {
		return err
	}
	changed := false
	for i := range tasks {
		var now bool
		if now, err = r.one(ctx, &tasks[i], index); err != nil {
			break
		}
		changed = changed || now
		if r.Done != nil {
			r.Done(1)
		}
	}
	if changed {
		data, e := json.MarshalIndent(index, "", " ")
		if e == nil {
			e = r.To.Put(context.WithoutCancel(ctx), key, append(data, '\n'))
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("write %s in %s: %s", key, r.To, connect.Brief(e)))
		}
	}
	if err == nil {
		r.report.Index = append(r.report.Index, key)
	}
	return err
}

// one makes an object and writes it where it differs from the one that is there.
// It tells whether the index changed.
func (r *run) one(ctx context.Context, t *task, index *Index) (changed bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	var old Object
	if at, there := index.find(t.key); there {
		old = index.Objects[at]
	}
	if t.print != "" && old.Source == t.print {
		r.kept(&old)
		return false, nil
	}
	scratch, err := os.CreateTemp(r.Dir, "millrace-export-*")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, scratch.Close(), os.Remove(scratch.Name())) }()
	problems := r.report.Problems
	out := newSink(scratch, r.Gzip)
	rows, err := r.fill(ctx, t, out)
	if err != nil {
		return false, err
	}
	if err := out.close(); err != nil {
		return false, err
	}
	if rows == 0 && old.Key == "" {
		return false, nil // nothing of that day is wanted
	}
	now := Object{Key: t.key, Site: t.site, Day: t.day.Format(time.DateOnly), Rows: rows, Bytes: out.bytes, SHA256: out.sum(), Source: t.print}
	if r.report.Problems > problems {
		now.Source = "" // another run may read more
	}
	same := old.SHA256 == now.SHA256
	if old.Key == "" {
		// An earlier run may have ended before its index.
		if same, err = r.there(ctx, t.key, now.SHA256); err != nil {
			return false, err
		}
	}
	if same {
		r.kept(&now)
	} else {
		if err := r.To.PutFile(ctx, t.key, scratch.Name()); err != nil {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, fmt.Errorf("write %s in %s: %s", t.key, r.To, connect.Brief(err))
		}
		r.report.Written++
		r.report.Rows += rows
		r.report.Bytes += out.bytes
	}
	index.set(now)
	return now != old, nil
}

func (r *run) kept(o *Object) {
	r.report.Kept++
	r.report.Rows += o.Rows
	r.report.Bytes += o.Bytes
}

// there reports whether an object has these bytes.
func (r *run) there(ctx context.Context, key, sum string) (bool, error) {
	body, err := r.To.Get(ctx, key)
	if errors.Is(err, objects.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s in %s: %s", key, r.To, connect.Brief(err))
	}
	h := sha256.New()
	_, err = io.Copy(h, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return false, fmt.Errorf("read %s in %s: %w", key, r.To, err)
	}
	return hex.EncodeToString(h.Sum(nil)) == sum, nil
}

// sink writes a scratch file and hashes it. Its gzip header has no name and no
// time, so that the same rows make the same bytes.
type sink struct {
	io.Writer
	buf   *bufio.Writer
	gz    *gzip.Writer
	hash  hash.Hash
	bytes int64
}

func newSink(file io.Writer, gz bool) *sink {
	s := &sink{hash: sha256.New()}
	s.buf = bufio.NewWriterSize(io.MultiWriter(file, s.hash, (*counter)(&s.bytes)), 256<<10)
	s.Writer = s.buf
	if gz {
		s.gz = gzip.NewWriter(s.buf)
		s.Writer = s.gz
	}
	return s
}

func (s *sink) close() error {
	var err error
	if s.gz != nil {
		err = s.gz.Close()
	}
	return errors.Join(err, s.buf.Flush())
}

func (s *sink) sum() string { return hex.EncodeToString(s.hash.Sum(nil)) }

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
