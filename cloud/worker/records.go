package worker

import (
	"context"
	"errors"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
)

// settle sees to blocks that are where they belong: their messages are deleted,
// at once or after what they say of the catalogue is in its tables too. Only the
// header is looked at.
func (b *batch) settle(work context.Context, list []*parcel) {
	done := list[:0:0]
	for _, p := range list {
		if b.w.o.Records != nil && b.w.o.Records.Wants(&p.header) {
			b.told = append(b.told, p)
		} else {
			done = append(done, p)
		}
	}
	if len(done) > 0 {
		b.delete(work, done)
	}
}

// takeRecords brings the records and newest readings of the batch's blocks into
// their tables, each thing once, and then deletes the messages. A failure holds
// the messages as a failed put does: the blocks are put again under their keys.
func (b *batch) takeRecords(stop, work context.Context) {
	if len(b.told) == 0 {
		return
	}
	w := b.w
	told := map[string][]*parcel{"": b.told}
	records := w.o.Records.NewBatch()
	for _, p := range b.told {
		// What cannot be read now cannot be read ever; the block itself is stored.
		if err := records.Add(&p.header, p.data); err != nil && w.say.now("unreadable") {
			w.o.Log.Error("records of a stored block cannot be taken into the catalogue; the rest of it is", "error", err)
		}
	}
	for attempt := 0; ; attempt++ {
		before := records.Len()
		err := records.Write(work)
		w.counts.records.Add(uint64(before - records.Len()))
		if err == nil {
			b.delete(work, b.told)
			return
		}
		table := ""
		var write *catalogue.WriteError
		if errors.As(err, &write) {
			table = write.Table
		}
		switch connect.ClassOf(err) {
		case connect.Missing, connect.Refused:
			if w.say.now("records " + table) {
				w.o.Log.Error("held: the table of records is missing, not ACTIVE yet, or its keys are not pk and sk; run `millrace-cloud tables ensure`",
					"table", table, "error", connect.Brief(err))
			}
			w.counts.held.Add(uint64(len(b.told)))
			b.held = true
			b.putAside(told, w.o.Hold)
			return
		case connect.Throttled:
			b.throttled = true
			w.counts.throttled.Add(1)
		case connect.Transient, connect.Held:
			if work.Err() == nil && w.say.now("records "+table) {
				w.o.Log.Warn("the table of records cannot be written; trying on", "table", table, "error", connect.Brief(err))
			}
		}
		if !b.again(stop, attempt) {
			b.putAside(told, 0)
			return
		}
	}
}
