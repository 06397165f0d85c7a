package faultfs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// Mode is what becomes of writes that no fsync has covered.
type Mode int

// The modes. Entries of directories fare alike: without an fsync of the
// directory they are there or not, one by one or as in a journal.
const (
	Dropped   Mode = iota // none is there
	Kept                  // all are
	Some                  // each is there or not, as if reordered
	Torn                  // each sector of each is there or not
	InOrder               // all up to some moment, the last one torn
	modeCount             // how many modes there are
)

func (m Mode) String() string {
	return [...]string{"dropped", "kept", "some", "torn", "in order"}[m]
}

// Cut writes to dir what the directory path of the recorded file system could
// hold after a power cut at moment at, and returns which mode was drawn. What
// an fsync that had returned by then has covered is there; of the rest, rnd
// decides.
func (r *Record) Cut(rnd *rand.Rand, at int, path []string, dir string) (Mode, error) {
	mode := Mode(rnd.IntN(int(modeCount)))
	ops := r.ops[:at]
	t := r.entries(rnd, ops, mode)
	at0 := uint64(rootInode)
	for _, name := range path {
		next, ok := t[at0][name]
		if !ok {
			return mode, nil // the directory itself is lost
		}
		at0 = next
	}
	return mode, r.write(rnd, ops, mode, t, at0, dir)
}

// entries is what the directories hold.
func (r *Record) entries(rnd *rand.Rand, ops []op, mode Mode) tree {
	synced := map[uint64]int{} // directory to the moment up to which its entries are durable
	for i := range ops {
		if ops[i].kind == SyncDir {
			synced[ops[i].inode] = max(synced[ops[i].inode], int(ops[i].size))
		}
	}
	journal := rnd.IntN(2) == 0 // entries are lost from some moment on
	until := len(ops)
	if mode != Kept && journal {
		until = rnd.IntN(len(ops) + 1)
	}
	live := tree{rootInode: {}}
	kept := tree{rootInode: {}}
	for i := range ops {
		o := &ops[i]
		var inode uint64
		switch o.kind {
		case Create, Mkdir:
			inode = o.inode
			live.set(o.dir, o.name, inode)
			if o.kind == Mkdir {
				live[inode], kept[inode] = map[string]uint64{}, map[string]uint64{}
			}
		case Rename:
			inode = live[o.dir][o.name]
			delete(live[o.dir], o.name)
			live.set(o.toDir, o.toName, inode)
		case Unlink:
			delete(live[o.dir], o.name)
		default:
			continue
		}
		durable := i < synced[o.dir] || mode == Kept
		switch {
		case durable:
		case mode == Dropped:
			continue
		case journal && i >= until, !journal && rnd.IntN(2) == 0:
			continue
		}
		switch o.kind {
		case Create, Mkdir:
			kept.set(o.dir, o.name, inode)
		case Rename:
			if kept[o.dir][o.name] == inode {
				delete(kept[o.dir], o.name)
			}
			kept.set(o.toDir, o.toName, inode)
		case Unlink:
			delete(kept[o.dir], o.name)
		}
	}
	return kept
}

func (t tree) set(dir uint64, name string, inode uint64) {
	if t[dir] == nil {
		t[dir] = map[string]uint64{}
	}
	t[dir][name] = inode
}

// write rebuilds a directory's files.
func (r *Record) write(rnd *rand.Rand, ops []op, mode Mode, t tree, folder uint64, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names := make([]string, 0, len(t[folder]))
	for name := range t[folder] {
		names = append(names, name)
	}
	slices.Sort(names) // rnd is drawn from in their order
	for _, name := range names {
		inode := t[folder][name]
		path := filepath.Join(dir, name)
		if _, isFolder := t[inode]; isFolder {
			if err := r.write(rnd, ops, mode, t, inode, path); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, content(rnd, ops, mode, inode), 0o600); err != nil {
			return fmt.Errorf("rebuild %s: %w", name, err)
		}
	}
	return nil
}

// content is what a file holds.
func content(rnd *rand.Rand, ops []op, mode Mode, inode uint64) (data []byte) {
	synced := 0 // changes before this moment are durable
	last := 0
	for i := range ops {
		o := &ops[i]
		if o.inode != inode {
			continue
		}
		switch o.kind {
		case Sync:
			synced = max(synced, int(o.size))
		case Write, Truncate:
			last = i
		}
	}
	until := synced
	if last >= synced {
		until = synced + rnd.IntN(last-synced+1)
	}
	for i := range ops {
		o := &ops[i]
		if o.inode != inode || o.kind != Write && o.kind != Truncate {
			continue
		}
		part := mode
		if i < synced {
			part = Kept
		}
		if o.kind == Truncate {
			if part == Kept || part == InOrder && i <= until || (part == Some || part == Torn) && rnd.IntN(2) == 0 {
				data = resize(data, o.size)
			}
			continue
		}
		switch part {
		case Kept:
			data = patch(data, o.off, o.data)
		case Some:
			if rnd.IntN(2) == 0 {
				data = patch(data, o.off, o.data)
			}
		case InOrder:
			if i < until {
				data = patch(data, o.off, o.data)
			} else if i == until {
				n := rnd.IntN(len(o.data)/sector + 1)
				data = patch(data, o.off, o.data[:n*sector])
			}
		case Torn:
			for s := 0; s < len(o.data); s += sector {
				if rnd.IntN(2) == 0 {
					data = patch(data, o.off+int64(s), o.data[s:min(s+sector, len(o.data))])
				}
			}
		}
	}
	return data
}
