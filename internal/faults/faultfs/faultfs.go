// Package faultfs is a file system in memory, mounted through FUSE, that
// records every call that changes it, and lets a test fail or delay any of
// them. From the recording it rebuilds what a disk could hold after a power
// cut at any moment: see Record.Cut.
//
// The process that uses the mount must not be the one that serves it: a page
// fault on a mapping would hold a thread that the server needs.
package faultfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Kind is a call that changes the file system, or a read of it.
type Kind string

// The labels of calls.
const (
	Create   Kind = "create"
	Mkdir    Kind = "mkdir"
	Open     Kind = "open"
	Read     Kind = "read"
	Write    Kind = "write"
	Truncate Kind = "truncate"
	Sync     Kind = "sync"    // fsync and fdatasync of a file
	SyncDir  Kind = "syncdir" // fsync of a directory
	Rename   Kind = "rename"
	Unlink   Kind = "unlink"
)

// Call is one call, before it is carried out.
type Call struct {
	Kind Kind
	Name string // of the file within its directory
	N    int    // of this call among all labelled calls, from 1
	Size int    // bytes, of a write
}

// Verdict is what becomes of a call. The zero Verdict carries it out.
type Verdict struct {
	Err syscall.Errno
	// Part, with Err, is how many bytes of a write are carried out first; with
	// Short they are all that the caller is told of.
	Part  int
	Short bool
}

// typeName is the file system's type in /proc/self/mounts, after "fuse.".
const typeName = "millrace-faults"

// FS is a mounted file system.
type FS struct {
	dir    string
	server *fuse.Server

	mu     sync.Mutex
	judge  func(Call) Verdict
	calls  int
	inodes uint64
	ops    []op
}

// op is one recorded change. Positions in FS.ops are moments.
type op struct {
	kind     Kind
	inode    uint64 // of the file, or of the new directory
	dir      uint64 // of the directory that holds name
	name     string
	toDir    uint64
	toName   string
	off      int64
	data     []byte // of a write
	size     int64  // of a truncate; of a sync, the moment up to which it covers
	isFolder bool
}

const rootInode = 1

// Mount mounts a new file system on dir, which it creates.
func Mount(dir string) (*FS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f := &FS{dir: dir, inodes: rootInode}
	forever := time.Hour
	root := &folder{f: f, id: rootInode}
	server, err := fs.Mount(dir, root, &fs.Options{
		EntryTimeout: &forever, AttrTimeout: &forever,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: typeName, Name: typeName, DisableXAttrs: true, MaxWrite: 1 << 20},
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	f.server = server
	return f, nil
}

// Close unmounts. Where a process has files open still, the mount goes from
// the tree at once and its server with the last of them.
func (f *FS) Close() error {
	err := f.server.Unmount()
	if err != nil {
		err = syscall.Unmount(f.dir, syscall.MNT_DETACH)
	}
	return err
}

// Sweep unmounts what a battery that was killed has left: mounts of this type
// that nobody serves any more.
func Sweep() error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for _, line := range strings.Split(string(text), "\n") {
		field := strings.Fields(line)
		if len(field) < 3 || field[2] != "fuse."+typeName {
			continue
		}
		if _, err := os.Stat(field[1]); errors.Is(err, syscall.ENOTCONN) {
			errs = append(errs, syscall.Unmount(field[1], syscall.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}

// Judge has fn called before every labelled call. fn may sleep, which delays
// the call; nil lets all calls pass.
func (f *FS) Judge(fn func(Call) Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.judge = fn
}

// Calls is how many labelled calls there were so far.
func (f *FS) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Moment is the present, as a number of recorded changes.
func (f *FS) Moment() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ops)
}

// Record returns what was recorded so far.
func (f *FS) Record() *Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Record{ops: slices.Clone(f.ops)}
}

// ask lets the judge look at a call.
func (f *FS) ask(kind Kind, name string, size int) Verdict {
	f.mu.Lock()
	f.calls++
	c := Call{Kind: kind, Name: name, N: f.calls, Size: size}
	judge := f.judge
	f.mu.Unlock()
	if judge == nil {
		return Verdict{}
	}
	return judge(c)
}

func (f *FS) note(o op) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, o)
}

func (f *FS) inode() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inodes++
	return f.inodes
}

// folder is a directory.
type folder struct {
	fs.Inode
	f  *FS
	id uint64
}

var (
	_ fs.NodeCreater   = (*folder)(nil)
	_ fs.NodeMkdirer   = (*folder)(nil)
	_ fs.NodeUnlinker  = (*folder)(nil)
	_ fs.NodeRmdirer   = (*folder)(nil)
	_ fs.NodeRenamer   = (*folder)(nil)
	_ fs.NodeGetattrer = (*folder)(nil)
	_ fs.NodeFsyncer   = (*folder)(nil)
)

func (d *folder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o700
	return 0
}

func (d *folder) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if v := d.f.ask(Mkdir, name, 0); v.Err != 0 {
		return nil, v.Err
	}
	child := &folder{f: d.f, id: d.f.inode()}
	d.f.note(op{kind: Mkdir, inode: child.id, dir: d.id, name: name, isFolder: true})
	out.Mode = 0o700
	return d.NewPersistentInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: child.id}), 0
}

func (d *folder) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if v := d.f.ask(Create, name, 0); v.Err != 0 {
		return nil, nil, 0, v.Err
	}
	child := &file{f: d.f, id: d.f.inode(), mode: mode & 0o777}
	d.f.note(op{kind: Create, inode: child.id, dir: d.id, name: name})
	out.Mode = child.mode
	node := d.NewPersistentInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFREG, Ino: child.id})
	return node, nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (d *folder) Unlink(_ context.Context, name string) syscall.Errno {
	if v := d.f.ask(Unlink, name, 0); v.Err != 0 {
		return v.Err
	}
	d.f.note(op{kind: Unlink, dir: d.id, name: name})
	return 0
}

func (d *folder) Rmdir(_ context.Context, name string) syscall.Errno {
	d.f.note(op{kind: Unlink, dir: d.id, name: name})
	return 0
}

func (d *folder) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := parent.(*folder)
	if !ok || flags != 0 {
		return syscall.ENOTSUP
	}
	if v := d.f.ask(Rename, name, 0); v.Err != 0 {
		return v.Err
	}
	d.f.note(op{kind: Rename, dir: d.id, name: name, toDir: to.id, toName: newName})
	return 0
}

func (d *folder) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	at := d.f.Moment()
	if v := d.f.ask(SyncDir, "", 0); v.Err != 0 {
		return v.Err
	}
	d.f.note(op{kind: SyncDir, inode: d.id, size: int64(at)})
	return 0
}

// file is a regular file.
type file struct {
	fs.Inode
	f    *FS
	id   uint64
	mode uint32

	mu   sync.Mutex
	data []byte
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeFlusher   = (*file)(nil)
)

// name is the file's present name, for labels.
func (n *file) name() string {
	name, _ := n.Parent()
	return name
}

// Open keeps the kernel's pages, which all writes go through: a mapping reads
// them, so that direct I/O is out of the question.
func (n *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if v := n.f.ask(Open, n.name(), 0); v.Err != 0 {
		return nil, 0, v.Err
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *file) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

func (n *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.mu.Lock()
	defer n.mu.Unlock()
	out.Mode, out.Size = n.mode, uint64(len(n.data))
	out.Blocks = (out.Size + 511) / 512
	return 0
}

func (n *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if v := n.f.ask(Read, n.name(), len(dest)); v.Err != 0 {
		return nil, v.Err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if off >= int64(len(n.data)) {
		return fuse.ReadResultData(nil), 0
	}
	got := copy(dest, n.data[off:])
	return fuse.ReadResultData(dest[:got]), 0
}

func (n *file) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	v := n.f.ask(Write, n.name(), len(data))
	if v.Err != 0 {
		data = data[:min(v.Part, len(data))]
		if len(data) == 0 {
			return 0, v.Err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.data = patch(n.data, off, data)
	n.f.note(op{kind: Write, inode: n.id, off: off, data: slices.Clone(data)})
	if v.Err != 0 && !v.Short {
		return 0, v.Err
	}
	return uint32(len(data)), 0
}

func (n *file) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if mode, ok := in.GetMode(); ok {
		n.mu.Lock()
		n.mode = mode & 0o777
		n.mu.Unlock()
	}
	if size, ok := in.GetSize(); ok {
		if v := n.f.ask(Truncate, n.name(), 0); v.Err != 0 {
			return v.Err
		}
		n.mu.Lock()
		n.data = resize(n.data, int64(size))
		n.f.note(op{kind: Truncate, inode: n.id, size: int64(size)})
		n.mu.Unlock()
	}
	return n.Getattr(ctx, h, out)
}

func (n *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	// What is written from here on is not promised by this call.
	at := n.f.Moment()
	if v := n.f.ask(Sync, n.name(), 0); v.Err != 0 {
		return v.Err
	}
	n.f.note(op{kind: Sync, inode: n.id, size: int64(at)})
	return 0
}

func patch(to []byte, off int64, data []byte) []byte {
	if end := off + int64(len(data)); end > int64(len(to)) {
		to = resize(to, end)
	}
	copy(to[off:], data)
	return to
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// Record is a recording of what happened to a file system.
type Record struct{ ops []op }

// Len is how many changes were recorded: the moments are 0..Len.
func (r *Record) Len() int { return len(r.ops) }

// tree is directories by inode, each a map of names to inodes.
type tree map[uint64]map[string]uint64
