package warehouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/objects"
)

// Options say what is loaded, and from where to where.
type Options struct {
	Archive objects.Place
	DB      Database
	Schema  string
	Results []string // none: all
	History bool     // samples and gaps too
	// From and To bound the days, [From, To); zero is open. The catalogue has no
	// days.
	From, To time.Time
	// Dir is a folder for local copies of the files under way, up to some hundred
	// MB; "" is the system's own for such.
	Dir string
	Log *slog.Logger
	// Progress is told bytes that were read of those that are to be; nil is allowed.
	Progress func(done, total int64)
}

// Report says what was done, one entry for each table.
type Report struct{ Targets []TargetReport }

// TargetReport is what was done for one table. A folder is all files of a
// result's day, of a site's day of samples or gaps, or of a site's catalogue.
type TargetReport struct {
	Name    string
	Folders int   // loaded
	Files   int   // of these; a day without rows counts as one
	Rows    int64 // of these, counted in the table too
	Kept    int   // folders that were as they are
	// Gone are folders that were loaded once and that the archive has no more.
	// Their rows stay.
	Gone int
}

// Rows are all rows that were loaded.
func (r *Report) Rows() (n int64) {
	for _, t := range r.Targets {
		n += t.Rows
	}
	return n
}

// How much goes into one transaction: days of a result, and bytes of files.
const (
	daysTogether  = 28
	bytesTogether = 256 << 20
)

// prepare finds the targets that are asked for, which must have their tables, and
// what the manifests say of the archive.
func prepare(ctx context.Context, o Options) (*loader, []*target, error) {
	ts, err := chosen(o.Results, o.History)
	if err != nil {
		return nil, nil, err
	}
	if err := checkTables(ctx, o.DB, o.Schema, ts); err != nil {
		return nil, nil, err
	}
	l := &loader{Options: o}
	if l.hashes, err = manifestHashes(ctx, o.Archive); err != nil {
		return nil, nil, err
	}
	return l, ts, nil
}

// Load brings the warehouse up to date with the archive: every folder whose
// files are not those that the ledger has is loaded, in transactions that write
// the ledger, too. So it may be interrupted anywhere and run again, and where
// nothing has changed it does nothing.
func Load(ctx context.Context, o Options) (*Report, error) {
	l, ts, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	plans := make([]*plan, len(ts))
	for i, t := range ts {
		if plans[i], err = l.plan(ctx, t); err != nil {
			return nil, fmt.Errorf("plan %s: %w", t.name, err)
		}
		l.total += plans[i].bytes()
	}
	if l.dir, err = os.MkdirTemp(o.Dir, "millrace-warehouse-"); err != nil {
		return nil, err
	}
	report := &Report{}
	for _, p := range plans {
		done, err := l.load(ctx, p)
		report.Targets = append(report.Targets, done)
		if ctx.Err() != nil && err != nil {
			err = fmt.Errorf("interrupted; what is loaded stays, and the same load goes on from there: %w", err)
		}
		if err != nil {
			return report, errors.Join(err, os.RemoveAll(l.dir))
		}
	}
	return report, os.RemoveAll(l.dir)
}

type loader struct {
	Options
	hashes      map[string]string // of files by key, as manifests say
	dir         string
	copies      int
	done, total int64
}

// load loads the folders of a plan that turn out to be other than the ledger
// says.
func (l *loader) load(ctx context.Context, p *plan) (TargetReport, error) {
	r := TargetReport{Name: p.target.name, Kept: p.kept, Gone: p.gone}
	var together []*folder
	var size int64
	flush := func() error {
		if len(together) == 0 {
			return nil
		}
		began := time.Now()
		b := p.target.transaction(l.Schema, together)
		if err := l.DB.Run(ctx, b); err != nil {
			return err
		}
		var rows int64
		for _, f := range together {
			r.Folders++
			r.Files += len(f.files)
			rows += f.rows()
			if err := f.drop(); err != nil {
				return err
			}
		}
		r.Rows += rows
		l.Log.Info("loaded", "what", b.Name, "rows", rows, "took", time.Since(began).Round(time.Millisecond))
		together, size = nil, 0
		return nil
	}
	for _, f := range p.folders {
		if err := l.fetch(ctx, p.target, f); err != nil {
			return r, err
		}
		if p.ledger[f.key].same(f) {
			r.Kept++
			if err := f.drop(); err != nil {
				return r, err
			}
			continue
		}
		f.version = p.ledger[f.key].version + 1
		together = append(together, f)
		for _, file := range f.files {
			size += file.Bytes
		}
		if p.target.history || len(together) == daysTogether || size >= bytesTogether {
			if err := flush(); err != nil {
				return r, err
			}
		}
	}
	return r, flush()
}

// fetch makes local copies of a folder's files, and checks and hashes them.
// Redshift reads the archive itself; but what it would load wrongly without a
// word is found here, and the rows that there have to be are counted.
func (l *loader) fetch(ctx context.Context, t *target, f *folder) error {
	if f.empty {
		return nil
	}
	for i := range f.files {
		file := &f.files[i]
		l.copies++
		file.path = l.dir + "/" + strconv.Itoa(l.copies) + ".parquet"
		err := l.copyOf(ctx, file)
		if err == nil {
			err = file.open(t.file, func(p *parquet.File) error {
				file.Rows = p.NumRows()
				return longTexts(p, t.file)
			})
		}
		if err != nil {
			return fmt.Errorf("%s of the archive at %s: %w", file.Key, l.Archive, err)
		}
	}
	return nil
}

func (l *loader) copyOf(ctx context.Context, file *File) (err error) {
	in, err := l.Archive.Get(ctx, file.Key)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(file.path)
	if err != nil {
		return err
	}
	hash := sha256.New()
	file.Bytes, err = io.Copy(io.MultiWriter(out, hash), in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	file.SHA256 = hex.EncodeToString(hash.Sum(nil))
	if l.done += file.Bytes; l.Progress != nil {
		l.Progress(l.done, max(l.total, l.done))
	}
	return nil
}

// drop removes the local copies.
func (f *folder) drop() (err error) {
	if f.empty {
		return nil
	}
	for _, file := range f.files {
		err = errors.Join(err, os.Remove(file.path))
	}
	return err
}
