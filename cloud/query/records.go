package query

import (
	"fmt"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// records are what the gateways' system streams say.
type records struct {
	gaps        []format.Gap
	entries     []catalogue.Entry
	corrections *corrections
}

// take reads the records of a block of a system stream. problem is told of those
// that cannot be read.
func (rs *records) take(b *block.Block, problem func(line string)) {
	gap, clock, entry := ledger.GapTag(b.Site, b.Gateway), ledger.ClockTag(b.Site, b.Gateway), ledger.CatalogueTag(b.Site, b.Gateway)
	for s := range b.All() {
		var err error
		switch s.Tag {
		case gap:
			var g *ledger.Gap
			if g, err = ledger.ParseGap(&s); err == nil && len(rs.gaps) < maxGaps {
				rs.gaps = append(rs.gaps, format.Gap{Site: b.Site, Gateway: b.Gateway, Gap: *g})
			}
		case clock:
			var c *ledger.Correction
			if c, err = ledger.ParseCorrection(&s); err == nil {
				if rs.corrections == nil {
					rs.corrections = &corrections{byBoot: map[[16]byte][]correction{}}
				}
				rs.corrections.add(b.Site, b.Gateway, c)
			}
		case entry:
			err = rs.entry(b, &s)
		}
		if err != nil {
			problem(fmt.Sprintf("block %s: %v", b.Identity(), err))
		}
	}
}

func (rs *records) entry(b *block.Block, s *sample.Sample) error {
	e, err := ledger.ParseCatalogue(s)
	if err != nil {
		return err
	}
	for i := range rs.entries {
		if old := &rs.entries[i]; old.Tag == e.Tag && old.Stream == e.Stream && old.Site == b.Site && old.Gateway == b.Gateway {
			old.CatalogueEntry = *e
			return nil
		}
	}
	rs.entries = append(rs.entries, catalogue.Entry{Site: b.Site, Gateway: b.Gateway, CatalogueEntry: *e})
	return nil
}
