package weektable

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/uploader"
)

const week = 7 * 24 * time.Hour

// cutTag cuts a full tag name into its parts.
func cutTag(tag string) (site, device, name string) {
	site, rest, _ := strings.Cut(tag, "/")
	device, name, _ = strings.Cut(rest, "/")
	return site, device, name
}

// parseInt reads a number of DynamoDB's; what is none is 0.
func parseInt(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ahead is how far the other gateway's clock may be before ours.
const ahead = time.Second

// newest returns the newest sample of the tag that is young enough, or nil.
func (f *feed) newest(ctx context.Context) (*sample.Sample, error) {
	if err := f.locate(ctx); err != nil {
		return nil, err
	}
	now := f.clock.Now()
	oldest := now.Add(-f.conf.ValidFor)
	var best *sample.Sample
	// A block that starts in the week before may reach into this one's time.
	for at := now; ; at = at.Add(-week) {
		err := f.walk(ctx, f.stream, at, func(last int64, data []byte) bool {
			if last < oldest.UnixNano() || best != nil && last <= best.PrimaryTime() {
				return false
			}
			f.samples(data, func(s *sample.Sample) {
				if s.Tag != f.conf.Tag {
					return
				}
				// The guards would refuse it, and its time would keep all others away.
				if s.PrimaryTime() > now.Add(ahead).UnixNano() {
					f.passedOver = "a value of the tag has a time that is to come: set the clock of gateway " + f.conf.Gateway
					return
				}
				if best == nil || s.PrimaryTime() > best.PrimaryTime() {
					c := *s
					best = &c
				}
			})
			return true
		})
		if err != nil || best != nil || at.Before(oldest) {
			if best != nil && best.PrimaryTime() < oldest.UnixNano() {
				best = nil
			}
			return best, err
		}
	}
}

// samples hands over what a block holds. One that does not read is passed over.
func (f *feed) samples(data []byte, fn func(*sample.Sample)) {
	b, err := f.dec.Decode(data)
	if err != nil {
		f.passedOver = "a block of stream " + f.conf.Gateway + "/" + f.stream + " does not read: " + err.Error()
		return
	}
	for s := range b.All() {
		fn(&s)
	}
}

// locate learns from the gateway's catalogue records which stream carries the
// tag, and its unit, where the settings do not say them.
func (f *feed) locate(ctx context.Context) error {
	if f.stream != "" && (f.unit != "" || f.known) {
		return nil
	}
	site, _, _ := cutTag(f.conf.Tag)
	catalogue := ledger.CatalogueTag(site, f.conf.Gateway)
	var found *ledger.CatalogueEntry
	at := f.clock.Now()
	for range f.conf.CatalogueWeeks {
		err := f.walk(ctx, ledger.SystemStream, at, func(_ int64, data []byte) bool {
			f.samples(data, func(s *sample.Sample) {
				var e ledger.CatalogueEntry
				if s.Tag != catalogue || json.Unmarshal([]byte(s.Value.Str()), &e) != nil || e.Tag != f.conf.Tag {
					return
				}
				found = &e // the last in the block is the newest
			})
			return found == nil
		})
		if err != nil {
			return err
		}
		if found != nil {
			break
		}
		at = at.Add(-week)
	}
	if found == nil && f.stream == "" {
		return &uploader.SendError{Class: uploader.Hold, Op: "find tag", Object: f.conf.Tag,
			Err:  fmt.Errorf("gateway %s has no catalogue record of it in the tables %s-samples-… of the last %d weeks", f.conf.Gateway, f.conf.TablePrefix, f.conf.CatalogueWeeks),
			Hint: "correct tag, gateway and table_prefix, or name the stream"}
	}
	f.known = true
	if found == nil {
		return nil
	}
	if f.stream == "" {
		f.stream = found.Stream
	}
	if f.unit == "" {
		f.unit = found.Unit
	}
	return nil
}
