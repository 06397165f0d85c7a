package warehouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
)

// plan is what is to be looked at for one target.
type plan struct {
	target  *target
	ledger  map[string]*loaded // by folder; every folder has an entry
	folders []*folder          // that may be other than what is loaded
	kept    int                // folders that are not
	gone    int
}

func (p *plan) bytes() (n int64) {
	for _, f := range p.folders {
		for _, file := range f.files {
			n += file.Bytes
		}
	}
	return n
}

// loaded is a folder in the ledger.
type loaded struct {
	version int64
	files   map[string]File
}

// empty says that the folder was loaded as one without rows.
func (l *loaded) empty() bool {
	for _, f := range l.files {
		if f.SHA256 != "" {
			return false
		}
	}
	return true
}

func (l *loaded) rows() (n int64) {
	for _, f := range l.files {
		n += f.Rows
	}
	return n
}

// same says that the folder's files, which are hashed, are those in the ledger.
func (l *loaded) same(f *folder) bool {
	return len(l.files) == len(f.files) && !slices.ContainsFunc(f.files, func(file File) bool {
		known, there := l.files[file.Key]
		return !there || known.SHA256 != file.SHA256
	})
}

// likely says the same of files that were not read: by their sizes, and by what
// manifests say of their hashes. known is false where that does not tell.
func (l *loaded) likely(f *folder, hashes map[string]string) (same, known bool) {
	if len(l.files) != len(f.files) {
		return false, true
	}
	known = true
	for _, file := range f.files {
		entry, there := l.files[file.Key]
		hash, said := hashes[file.Key]
		if !there || entry.Bytes != file.Bytes || said && hash != entry.SHA256 {
			return false, true
		}
		known = known && said
	}
	return known, known
}

// plan lists a target's folders and holds them against the ledger.
func (l *loader) plan(ctx context.Context, t *target) (*plan, error) {
	p := &plan{target: t, ledger: map[string]*loaded{}}
	var computed map[string]analysis.File
	if !t.history {
		var err error
		if computed, err = analysis.Computed(ctx, l.Archive, t.name); err != nil {
			return nil, err
		}
		for key, f := range computed {
			if f.SHA256 != "" {
				l.hashes[key] = f.SHA256
			}
		}
	}
	rows, err := l.DB.Query(ctx, fmt.Sprintf("SELECT %s FROM %s.%s WHERE %s = %s", names([]string{"folder", "version", "file", "sha256", "bytes", "rows", "loaded_at"}),
		l.Schema, ledgerTable, name("target"), quote(t.name)))
	if err != nil {
		return nil, fmt.Errorf("read %s.%s: %w", l.Schema, ledgerTable, err)
	}
	for _, r := range rows {
		if err := p.read(r); err != nil {
			return nil, fmt.Errorf("read %s.%s: %w", l.Schema, ledgerTable, err)
		}
	}
	if err := l.forget(ctx, p); err != nil {
		return nil, err
	}
	folders, err := l.list(ctx, t)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, f := range folders {
		there[f.key] = true
		entry := p.ledger[f.key]
		if entry == nil {
			entry = &loaded{}
			p.ledger[f.key] = entry
		}
		if same, known := entry.likely(f, l.hashes); known && same {
			p.kept++
			continue
		}
		p.folders = append(p.folders, f)
	}
	for key, entry := range p.ledger {
		f, ok := t.folderOf(key + firstFile)
		if !ok || there[key] || entry.empty() || !l.wanted(f) {
			continue
		}
		// A day that was analyzed again and has no rows any more has no file. One
		// whose file is gone for another reason keeps its rows here.
		if now, known := computed[key+firstFile]; known && now.Rows == 0 {
			f.empty, f.files = true, []File{{Key: key + firstFile}}
			p.folders = append(p.folders, f)
			continue
		}
		p.gone++
	}
	slices.SortFunc(p.folders, func(a, b *folder) int { return strings.Compare(a.key, b.key) })
	return p, nil
}

// forget takes from the ledger what it has of a table that is empty: somebody has
// dropped it and made it anew. The versions stay, so that the loads to come are
// others than those before.
func (l *loader) forget(ctx context.Context, p *plan) error {
	if !slices.ContainsFunc(slices.Collect(maps.Values(p.ledger)), func(e *loaded) bool { return e.rows() > 0 }) {
		return nil
	}
	table := l.Schema + "." + p.target.name
	some, err := l.DB.Query(ctx, "SELECT 1 FROM "+table+" LIMIT 1")
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	if len(some) > 0 {
		return nil
	}
	l.Log.Warn("the table is empty, though the ledger says otherwise: all of it is loaded again", "table", table)
	for _, e := range p.ledger {
		e.files = map[string]File{}
	}
	return nil
}

// firstFile is the name of a folder's first file.
const firstFile = "part-00000.parquet"

// read takes a row of the ledger.
func (p *plan) read(r []string) error {
	version, err1 := strconv.ParseInt(r[1], 10, 64)
	bytes, err2 := strconv.ParseInt(r[4], 10, 64)
	rows, err3 := strconv.ParseInt(r[5], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("file %s: %w", r[2], err)
	}
	entry := p.ledger[r[0]]
	if entry == nil {
		entry = &loaded{files: map[string]File{}}
		p.ledger[r[0]] = entry
	}
	entry.version = max(entry.version, version)
	entry.files[r[2]] = File{Key: r[2], SHA256: r[3], Bytes: bytes, Rows: rows, loadedAt: r[6]}
	return nil
}

// prefix is what the keys of all files of a target begin with.
func (t *target) prefix() string {
	if t.history {
		return t.name + "/"
	}
	return result.Prefix + t.name + "/"
}

// list lists a target's folders, in the order of their keys.
func (l *loader) list(ctx context.Context, t *target) ([]*folder, error) {
	byKey := map[string]*folder{}
	err := l.Archive.List(ctx, t.prefix(), func(key string, size int64) error {
		f, ok := t.folderOf(key)
		if !ok || !l.wanted(f) {
			return nil // a temporary file, or another program's
		}
		if have := byKey[f.key]; have != nil {
			f = have
		}
		f.files = append(f.files, File{Key: key, Bytes: size})
		byKey[f.key] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of the archive at %s: %w", t.prefix(), l.Archive, err)
	}
	out := make([]*folder, 0, len(byKey))
	for _, f := range byKey {
		slices.SortFunc(f.files, func(a, b File) int { return strings.Compare(a.Key, b.Key) })
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *folder) int { return strings.Compare(a.key, b.key) })
	return out, nil
}

// folderOf is the folder of a file's key, without its files. ok is false for
// what is no file of this target.
func (t *target) folderOf(key string) (*folder, bool) {
	f := &folder{key: key[:strings.LastIndexByte(key, '/')+1]}
	if t.history {
		k, ok := lake.ParseKey(key)
		f.site, f.day = k.Site, k.Day
		return f, ok && string(k.Kind) == t.name
	}
	name, day, _, ok := result.ParseKey(key)
	f.day = day
	return f, ok && name == t.name
}

// wanted says that a folder's day is within the bounds.
func (l *loader) wanted(f *folder) bool {
	return f.day.IsZero() || (l.From.IsZero() || !f.day.Before(l.From)) && (l.To.IsZero() || f.day.Before(l.To))
}

// manifestHashes are the hashes of the archive's files that manifests have. With
// them a file that is loaded already need not be read again.
func manifestHashes(ctx context.Context, archive objects.Place) (map[string]string, error) {
	var weeks []string
	err := archive.List(ctx, "manifests/", func(key string, _ int64) error {
		table, ok := strings.CutSuffix(strings.TrimPrefix(key, "manifests/"), ".json")
		if ok && !strings.Contains(table, "/") {
			weeks = append(weeks, table)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the manifests of the archive at %s: %w", archive, err)
	}
	out := map[string]string{}
	for _, table := range weeks {
		m, err := manifest.Read(ctx, archive, table)
		if err != nil {
			return nil, err
		}
		for _, f := range m.Files {
			if _, twice := out[f.Key]; twice {
				// Two weeks say it: which one is right is found by reading the file.
				out[f.Key] = ""
				continue
			}
			out[f.Key] = f.SHA256
		}
	}
	return out, nil
}
