package audit

// A page holds the checksums of pageBlocks sequences in a row.
const (
	pageBlocks = 512
	pageBytes  = pageBlocks*4 + pageBlocks/8
)

type pageKey struct {
	stream streamKey
	page   uint64
}

type page struct {
	have [pageBlocks / 64]uint64
	sums [pageBlocks]uint32
}

// checksums keeps the checksums of blocks, up to most pages; the page that was
// made first goes first.
type checksums struct {
	most  int
	pages map[pageKey]*page
	order []pageKey // as made
}

// note keeps a block's checksum, unless one is kept already: that is returned,
// and every further copy is compared with it.
func (c *checksums) note(s streamKey, seq uint64, sum uint32) (before uint32, known bool) {
	k := pageKey{s, seq / pageBlocks}
	p := c.pages[k]
	if p == nil {
		if len(c.order) >= c.most {
			delete(c.pages, c.order[0])
			c.order = c.order[1:]
		}
		p = &page{}
		c.pages[k] = p
		c.order = append(c.order, k)
	}
	i := seq % pageBlocks
	if p.have[i/64]&(1<<(i%64)) != 0 {
		return p.sums[i], true
	}
	p.have[i/64] |= 1 << (i % 64)
	p.sums[i] = sum
	return 0, false
}
