package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
)

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// parts writes a day's rows to files on the local disk, another where one is
// large, and brings them into the archive when all are whole.
type parts struct {
	run   *run
	day   *day
	first int    // number of the first part
	hash  string // noted in each; the day's where it is empty

	now        *local
	done       []*local
	rows       int64
	duplicates int64
}

// local is a file on the local disk.
type local struct {
	f    *os.File
	out  *bufio.Writer
	w    *lake.Writer
	sum  hash.Hash
	size int64
	rows int64
}

// Write counts and hashes what is written.
func (l *local) Write(p []byte) (int, error) {
	n, err := l.out.Write(p)
	l.size += int64(n)
	l.sum.Write(p[:n])
	return n, err
}

func (p *parts) write(r *lake.Row) error {
	if p.now != nil && p.now.size >= p.run.limits.partBytes {
		if err := p.close(false); err != nil {
			return err
		}
	}
	if p.now == nil {
		if len(p.done) == partsOf {
			return fmt.Errorf("more than %d files in a day", partsOf)
		}
		f, err := p.run.temp("part-*.parquet")
		if err != nil {
			return err
		}
		p.now = &local{f: f, out: bufio.NewWriterSize(f, 1<<20), sum: sha256.New()}
		p.now.w = lake.NewWriter(p.now)
	}
	if err := p.now.w.Write(r); err != nil || p.now.w.Rows()%p.run.limits.groupRows != 0 {
		return err
	}
	return p.now.w.Flush()
}

// close ends the file that is written.
func (p *parts) close(last bool) error {
	l := p.now
	hash := p.hash
	if hash == "" {
		hash = p.day.hash
	}
	l.w.Note(noteTable, p.run.table)
	l.w.Note(noteBlocks, hash)
	l.w.Note(notePart, strconv.Itoa(len(p.done)))
	if last {
		l.w.Note(noteLast, "true")
		l.w.Note(noteDuplicates, strconv.FormatInt(p.duplicates, 10))
	}
	if err := errors.Join(l.w.Close(), l.out.Flush()); err != nil {
		return err
	}
	l.rows = l.w.Rows()
	p.rows += l.rows
	l.w, l.out = nil, nil // a row group's worth of buffers
	p.done, p.now = append(p.done, l), nil
	return l.f.Close()
}

// end ends the last file.
func (p *parts) end() error {
	if p.now == nil {
		return nil
	}
	return p.close(true)
}

// remove removes what is on the local disk.
func (p *parts) remove() error {
	var err error
	if p.now != nil {
		err = errors.Join(p.now.f.Close(), os.Remove(p.now.f.Name()))
	}
	for _, l := range p.done {
		err = errors.Join(err, os.Remove(l.f.Name()))
	}
	return err
}

// upload brings the files into the archive, in place of those of the same keys,
// and removes them here.
func (p *parts) upload(ctx context.Context) ([]manifest.File, error) {
	var files []manifest.File
	for i, l := range p.done {
		f := manifest.File{Key: lake.SamplesKey(p.day.site, p.day.at(), p.first+i), Bytes: l.size, Rows: l.rows, SHA256: hex.EncodeToString(l.sum.Sum(nil))}
		if err := p.run.put(ctx, f, l.f.Name(), true); err != nil {
			return nil, errors.Join(err, p.remove())
		}
		files = append(files, f)
	}
	return files, p.remove()
}

// put brings a file into the archive. One that the manifest will name is read
// back before that is written.
func (r *run) put(ctx context.Context, f manifest.File, name string, named bool) error {
	if err := r.o.Place.PutFile(ctx, f.Key, name); err != nil {
		return fmt.Errorf("write %s in %s: %w", f.Key, r.o.Place, err)
	}
	r.mark(func() {
		if named {
			r.written = append(r.written, f)
		}
		r.report.WrittenFiles++
		r.report.WrittenBytes += f.Bytes
	})
	return nil
}

// download brings a file of the archive to the local disk.
func (r *run) download(ctx context.Context, key string) (name string, f manifest.File, err error) {
	in, err := r.o.Place.Get(ctx, key)
	if err != nil {
		return "", f, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := r.temp("have-*.parquet")
	if err != nil {
		return "", f, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if err = errors.Join(err, out.Close()); err != nil {
		return "", f, errors.Join(err, os.Remove(out.Name()))
	}
	return out.Name(), manifest.File{Key: key, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}
