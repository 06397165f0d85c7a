package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The layout of bbolt's pages (internal/common of bbolt), in bytes. Numbers
// are in the order of the processor.
const (
	pageHeadLen   = 16 // u64 id, u16 flags, u16 count, u32 overflow pages
	leafElemLen   = 16 // u32 flags, u32 position, u32 key's length, u32 value's length
	branchElemLen = 16 // u32 position, u32 key's length, u64 page
	inBucketLen   = 16 // u64 root page, or 0 where the page follows; u64 sequence

	// Of a meta page: the offset within the page, the length, and the
	// checksum's offset within it.
	metaOffset   = 16
	metaLen      = 64
	metaSumStart = 56

	branchFlag = 0x01
	leafFlag   = 0x02
	bucketFlag = 0x01 // of a leaf's element

	smallestPage = 1 << 10
	largestPage  = 1 << 24
)

// pageFile reads a bbolt file by its pages, without bbolt and without mapping
// it: whatever the pages hold, reading them ends, and neither faults nor
// panics.
type pageFile struct {
	f     *os.File
	size  int64
	page  int64
	metas [2]rawMeta
	seen  []bool // pages that a walk has visited
	// sweeping is set while pages are looked at one by one: a stale one may
	// claim pages that belong to another by now.
	sweeping bool
	tick     func(bytes int64) // called with what was read, or written of a rebuilt file
}

// rawMeta is a meta page whose checksum fits, and that stands where its
// transaction wrote it.
type rawMeta struct {
	ok       bool
	root     uint64
	freelist uint64
	high     uint64 // pages from this one on were never used
	txid     uint64
}

// element is one of a leaf. Key and value are the page's memory.
type element struct {
	bucket     bool
	key, value []byte
	at         int64 // of the value in the file
}

func openPages(path string) (p *pageFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p = &pageFile{f: f, size: info.Size()}
	p.findMetas()
	p.seen = make([]bool, p.size/p.page+1)
	return p, nil
}

func (p *pageFile) close() error { return p.f.Close() }

// findMetas reads the two meta pages. The second is found by trying page sizes
// where the first does not read.
func (p *pageFile) findMetas() {
	p.page = int64(os.Getpagesize())
	size, ok := p.meta(0, 0)
	for try := int64(smallestPage); !ok && try <= largestPage; try *= 2 {
		if size, ok = p.meta(1, try); size != try {
			ok = false
		}
	}
	if ok {
		p.page = size
	}
	for i := range p.metas {
		p.metas[i].ok = false
		p.meta(i, p.page*int64(i))
	}
}

// meta reads meta page i at an offset, and returns the page size that it tells.
func (p *pageFile) meta(i int, at int64) (page int64, ok bool) {
	var b [metaLen]byte
	if _, err := p.f.ReadAt(b[:], at+metaOffset); err != nil {
		return 0, false
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSumStart])
	page = int64(binary.NativeEndian.Uint32(b[8:]))
	if sum.Sum64() != binary.NativeEndian.Uint64(b[metaSumStart:]) || page < smallestPage || page > largestPage {
		return 0, false
	}
	// A transaction writes the meta page of its parity. A copy of the older page
	// in the newer one's place has a right checksum too, and is not the newer one.
	txid := binary.NativeEndian.Uint64(b[48:])
	if txid%2 != uint64(i) {
		return page, false
	}
	p.metas[i] = rawMeta{
		ok: true, root: binary.NativeEndian.Uint64(b[16:]), freelist: binary.NativeEndian.Uint64(b[32:]),
		high: binary.NativeEndian.Uint64(b[40:]), txid: txid,
	}
	return page, true
}

// newest is the meta page of the last transaction that reads, and the other.
func (p *pageFile) newest() (newest, other rawMeta) {
	a, b := p.metas[0], p.metas[1]
	if !a.ok || b.ok && b.txid > a.txid {
		return b, a
	}
	return a, b
}

// rawPage is a page with those that overflow it.
type rawPage struct {
	id    uint64
	flags uint16
	count int
	pages uint64 // it takes
	data  []byte
}

// read reads a page whose header tells its own number.
func (p *pageFile) read(id uint64) (r rawPage, err error) {
	p.progress(pageHeadLen)
	if id < 2 || id >= uint64(p.size/p.page) {
		return r, fmt.Errorf("page %d is outside of the file", id)
	}
	var head [pageHeadLen]byte
	at := int64(id) * p.page
	if _, err := p.f.ReadAt(head[:], at); err != nil {
		return r, fmt.Errorf("page %d: %w", id, err)
	}
	r = rawPage{
		id: id, flags: binary.NativeEndian.Uint16(head[8:]), count: int(binary.NativeEndian.Uint16(head[10:])),
		pages: 1 + uint64(binary.NativeEndian.Uint32(head[12:])),
	}
	if n := binary.NativeEndian.Uint64(head[:]); n != id {
		return r, fmt.Errorf("page %d says that it is page %d", id, n)
	}
	if int64(id+r.pages)*p.page > p.size {
		return r, fmt.Errorf("page %d goes beyond the end of the file", id)
	}
	r.data = make([]byte, int64(r.pages)*p.page)
	if _, err := p.f.ReadAt(r.data, at); err != nil && !errors.Is(err, io.EOF) {
		return r, fmt.Errorf("page %d: %w", id, err)
	}
	p.progress(int64(len(r.data)))
	return r, nil
}

func (p *pageFile) progress(bytes int64) {
	if p.tick != nil {
		p.tick(bytes)
	}
}

// leaf returns the elements of a leaf page, which lies at an offset of the
// file. Those that lie outside of the page are left out. The error says where
// the page is not as bbolt writes one: keys and values in order, without gaps.
func leaf(data []byte, count int, at int64) (elems []element, err error) {
	note := func(i int, what string) {
		if err == nil {
			err = fmt.Errorf("element %d of the leaf at %d %s", i, at, what)
		}
	}
	want := int64(pageHeadLen + count*leafElemLen)
	for i := range count {
		start := pageHeadLen + i*leafElemLen
		if start+leafElemLen > len(data) {
			note(i, "is outside of it")
			break
		}
		e := data[start:]
		flags := binary.NativeEndian.Uint32(e)
		pos := int64(start) + int64(binary.NativeEndian.Uint32(e[4:]))
		key, value := int64(binary.NativeEndian.Uint32(e[8:])), int64(binary.NativeEndian.Uint32(e[12:]))
		if pos+key+value > int64(len(data)) || pos < int64(pageHeadLen) {
			note(i, "has no place in it")
			continue
		}
		if pos != want || key == 0 || flags > 1 {
			note(i, "is out of order")
		}
		want = pos + key + value
		elems = append(elems, element{
			bucket: flags&bucketFlag != 0, key: data[pos : pos+key : pos+key],
			value: data[pos+key : want : want], at: at + pos + key,
		})
	}
	return elems, err
}

// children returns the pages under a branch page.
func (r *rawPage) children() (ids []uint64, err error) {
	want := int64(pageHeadLen + r.count*branchElemLen)
	for i := range r.count {
		start := pageHeadLen + i*branchElemLen
		if start+branchElemLen > len(r.data) {
			return ids, fmt.Errorf("page %d has too many elements", r.id)
		}
		e := r.data[start:]
		pos, key := int64(start)+int64(binary.NativeEndian.Uint32(e)), int64(binary.NativeEndian.Uint32(e[4:]))
		if (pos != want || key == 0 || pos+key > int64(len(r.data))) && err == nil {
			err = fmt.Errorf("element %d of page %d is out of order", i, r.id)
		}
		want = pos + key
		ids = append(ids, binary.NativeEndian.Uint64(e[8:]))
	}
	if r.count == 0 {
		err = fmt.Errorf("page %d is an empty branch", r.id)
	}
	return ids, err
}

// walk calls fn for every element of the tree under page id that can be
// reached, and returns what is wrong with the tree. A page that was visited
// before is not visited again, so that it ends on pages that run in circles.
func (p *pageFile) walk(id uint64, fn func(e element)) error {
	r, err := p.read(id)
	if err != nil {
		return err
	}
	for n := id; n < id+r.pages; n++ {
		if p.seen[n] {
			return fmt.Errorf("page %d is used twice", n)
		}
	}
	for n := id; n < id+r.pages; n++ {
		p.seen[n] = true
	}
	switch r.flags {
	case leafFlag:
		elems, err := leaf(r.data, r.count, int64(id)*p.page)
		for _, e := range elems {
			fn(e)
		}
		return err
	case branchFlag:
		ids, err := r.children()
		r.data = nil
		for _, child := range ids {
			if werr := p.walk(child, fn); err == nil {
				err = werr
			}
		}
		return err
	}
	return fmt.Errorf("page %d has flags %#x", id, r.flags)
}

// inside calls fn for the elements of a bucket, given its value: a page of its
// own within it, or the root of a tree.
func (p *pageFile) inside(bucket element, fn func(e element)) error {
	v := bucket.value
	if len(v) < inBucketLen {
		return fmt.Errorf("the bucket at %d is cut", bucket.at)
	}
	if root := binary.NativeEndian.Uint64(v); root != 0 && p.sweeping {
		return p.alone(root, fn)
	} else if root != 0 {
		return p.walk(root, fn)
	}
	v = v[inBucketLen:]
	if len(v) < pageHeadLen || binary.NativeEndian.Uint16(v[8:]) != leafFlag {
		return fmt.Errorf("the bucket at %d holds no leaf", bucket.at)
	}
	elems, err := leaf(v, int(binary.NativeEndian.Uint16(v[10:])), bucket.at+inBucketLen)
	end := pageHeadLen
	if n := len(elems); n > 0 {
		end = int(elems[n-1].at - bucket.at - inBucketLen + int64(len(elems[n-1].value)))
	}
	if err == nil && end != len(v) {
		err = fmt.Errorf("the bucket at %d does not end where its last element does", bucket.at)
	}
	for _, e := range elems {
		fn(e)
	}
	return err
}

// alone calls fn for the elements of a page that is a leaf.
func (p *pageFile) alone(id uint64, fn func(e element)) error {
	r, err := p.read(id)
	if err != nil {
		return err
	}
	if r.flags != leafFlag {
		return fmt.Errorf("page %d has flags %#x", id, r.flags)
	}
	elems, err := leaf(r.data, r.count, int64(id)*p.page)
	for _, e := range elems {
		fn(e)
	}
	return err
}

// sweep calls fn for the elements of every leaf page, whatever leads to it:
// also those of damaged trees, and those that were freed and not used again.
func (p *pageFile) sweep(fn func(e element)) {
	p.sweeping = true
	defer func() { p.sweeping = false }()
	for id := uint64(2); id < uint64(p.size/p.page); id++ {
		r, err := p.read(id)
		if err != nil || r.flags != leafFlag {
			continue
		}
		elems, _ := leaf(r.data, r.count, int64(id)*p.page)
		for _, e := range elems {
			fn(e)
		}
	}
}

// bytes reads what an element held.
func (p *pageFile) bytes(at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := p.f.ReadAt(b, at)
	p.progress(max(int64(n), p.page))
	if err != nil {
		return nil, err
	}
	return b, nil
}
