package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
	"millrace/sample/block"
)

// lateOnly adds late blocks to the archive of a table that is there no more.
//
// The files that are there are the only ones that have the table's samples, so
// none is replaced: the late samples of a day that are not among them go to a
// part of their own, behind the others. What an earlier run has left behind
// without coming to its manifest is written anew under the same key.
func (r *run) lateOnly(ctx context.Context, _ int64) (*manifest.Manifest, error) {
	done := map[string]bool{}
	if r.old != nil {
		for _, key := range r.old.Late {
			done[key] = true
		}
	}
	late, err := r.addLate(ctx, done)
	if err != nil {
		return nil, err
	}
	if r.old == nil {
		sum, days, err := r.plan(ctx)
		if err != nil {
			return nil, err
		}
		m := manifest.New(r.table, r.o.Clock.Now(), sum, nil, late)
		return m, r.build(ctx, m, days)
	}
	m := *r.old
	m.Written = r.o.Clock.Now().UTC()
	m.Days, m.Files = slices.Clone(m.Days), slices.Clone(m.Files)
	// Keys that were archived stay, whether the objects are there or not.
	for _, key := range late {
		done[key] = true
	}
	m.Late = m.Late[:0:0]
	for key := range done {
		m.Late = append(m.Late, key)
	}
	slices.Sort(m.Late)
	_, days, err := r.plan(ctx)
	if err != nil {
		return nil, err
	}
	r.report.Kept = len(m.Days)
	bad := &bad{}
	for _, d := range days {
		if err := r.addToDay(ctx, &m, d, bad); err != nil {
			return nil, fmt.Errorf("site %s, %s: %w", d.site, d.date(), err)
		}
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	sortManifest(&m)
	return &m, nil
}

// addToDay adds a day's late samples to its files.
func (r *run) addToDay(ctx context.Context, m *manifest.Manifest, d *day, bad *bad) error {
	files := filesOf(m, d)
	marks, tags, err := r.marksOf(d)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := r.markPresent(ctx, f, marks, tags); err != nil {
			return fmt.Errorf("file %s of the archive: %w", f.Key, err)
		}
	}
	next := firstPart(r.start, d.day)
	for _, f := range files {
		if k, ok := lake.ParseKey(f.Key); ok {
			next = max(next, k.Part+1)
		}
	}
	md := manifest.Day{Site: d.site, Date: d.date()}
	i := slices.IndexFunc(m.Days, func(o manifest.Day) bool { return o.Site == d.site && o.Date == d.date() })
	if i >= 0 {
		md = m.Days[i]
	}
	hash := sha256.Sum256([]byte(md.Hash + d.hash))
	md.Hash = hex.EncodeToString(hash[:])
	p := &parts{run: r, day: d, first: next, hash: md.Hash}
	present := map[mark]bool{}
	for m, there := range marks {
		if there {
			present[m] = true
		}
	}
	if err := r.onlyWhole(d, present); err != nil {
		return err
	}
	if err := r.sortDay(ctx, d, p, bad, &duplicates{limit: r.limits.seen, present: present}); err != nil || bad.seen() {
		return errors.Join(err, p.remove())
	}
	md.Blocks, md.Rows, md.Duplicates = md.Blocks+d.blocks, md.Rows+p.rows, md.Duplicates+p.duplicates
	written, err := p.upload(ctx)
	if err != nil {
		return err
	}
	m.Files = append(m.Files, written...)
	if i >= 0 {
		m.Days[i] = md
		r.report.Kept--
	} else {
		m.Days = append(m.Days, md)
	}
	r.report.Days++
	r.o.Log.Info("late samples added to the archive", "table", r.table, "site", d.site, "date", d.date(), "rows", p.rows, "duplicates", p.duplicates)
	return nil
}

// marksOf are the marks of a day's late samples, and their tags.
func (r *run) marksOf(d *day) (map[mark]bool, []string, error) {
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, nil, err
	}
	marks, names := map[mark]bool{}, map[string]bool{}
	var buf []byte
	err = r.store.each(d, func(e *entry) error {
		b, err := dec.Decode(e.data)
		if err != nil {
			return nil //nolint:nilerr // sortDay says so
		}
		for s := range b.All() {
			var m mark
			m, buf = lateMark(buf, &lake.Row{Sample: s, Gateway: b.Gateway, Stream: b.Stream})
			marks[m] = false
			names[s.Tag] = true
		}
		return nil
	})
	tags := make([]string, 0, len(names))
	for tag := range names {
		tags = append(tags, tag)
	}
	return marks, tags, err
}

// onlyWhole leaves among the present those samples without an identity whose block
// is there whole, so is the same one. Of any other block each is a sample more.
func (r *run) onlyWhole(d *day, present map[mark]bool) error {
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	var marks []mark
	var buf []byte
	return r.store.each(d, func(e *entry) error {
		b, err := dec.Decode(e.data)
		if err != nil {
			return nil //nolint:nilerr // sortDay says so
		}
		marks = marks[:0]
		whole := true
		for s := range b.All() {
			if at := s.PrimaryTime(); at < d.day || at >= d.day+dayLength || len(lake.Identity(buf[:0], &s)) > 0 {
				continue
			}
			var m mark
			m, buf = lateMark(buf, &lake.Row{Sample: s, Gateway: b.Gateway, Stream: b.Stream})
			marks = append(marks, m)
			whole = whole && present[m]
		}
		if !whole {
			for _, m := range marks {
				delete(present, m)
			}
		}
		return nil
	})
}

// markPresent sets those marks that a file of the archive has. The file has to
// be the one that the manifest says.
func (r *run) markPresent(ctx context.Context, f manifest.File, marks map[mark]bool, tags []string) error {
	name, have, err := r.download(ctx, f.Key)
	if err != nil {
		return err
	}
	if have.Bytes != f.Bytes || have.SHA256 != f.SHA256 {
		return errors.Join(errors.New("it is not the one that the manifest names, and the table is gone; restore it: nothing was changed"), os.Remove(name))
	}
	if len(tags) > 0 {
		var buf []byte
		err = withFile(name, func(in *os.File, size int64) error {
			return lake.Read(in, size, lake.Filter{Tags: tags}, func(row *lake.Row) error {
				var m mark
				m, buf = lateMark(buf, row)
				if _, asked := marks[m]; asked {
					marks[m] = true
				}
				return nil
			})
		})
	}
	return errors.Join(err, os.Remove(name))
}
