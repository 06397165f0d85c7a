// Package metrics writes what a gateway counts in the text format of
// Prometheus. docs/metrics.md lists every name.
package metrics

import (
	"cmp"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/forecast"
	"millrace/gateway/health"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/internal/histogram"
	"millrace/spool"
	"millrace/uploader"
)

// Snapshot is everything that is exposed, read at one moment.
type Snapshot struct {
	Version, Site, Gateway string
	Uptime                 time.Duration
	Components             []health.Status
	Sources                map[string]batch.Counters
	Gaps                   map[string]batch.GapCount // by cause
	Refusals               uint64                    // times that sources which refuse found no room
	Thinned                uint64                    // samples thinned out since the start
	Clock                  batch.ClockStatus
	Sinks                  map[string]uploader.Stats
	Spool                  spool.Stats
	Commits                histogram.Snapshot // how long commits took
	Forecast               forecast.Forecast
	// Mirror is nil where the mirror is not enabled. LostStatus counts its
	// outcomes that did not go up.
	Mirror     *mirror.Status
	LostStatus uint64
}

// Set is everything that is exposed.
type Set struct {
	read  func() Snapshot
	slots chan struct{} // scrapes that are being answered
}

// New returns the set of the snapshots that read takes, beside what Go and the
// process say of themselves.
func New(read func() Snapshot) *Set { return &Set{read: read} }

// Write writes all of it.
func (set *Set) Write(w io.Writer) error {
	s := set.read()
	e := emitter{}
	e.gauge("build_info", "The version that runs, of which site and gateway.", 1, labels{"version", s.Version, "site", s.Site, "gateway", s.Gateway})
	e.gauge("uptime_seconds", "Time since the gateway started.", s.Uptime.Seconds(), nil)
	for _, c := range s.Components {
		e.gauge("component_up", "1 where the part works.", truth(c.State == health.Up), labels{"kind", string(c.Kind), "name", c.Name})
	}
	e.sources(&s)
	e.sinks(&s)
	e.spool(&s)
	e.forecast(&s)
	e.clock(&s)
	if s.Mirror != nil {
		e.mirror(s.Mirror, s.LostStatus)
	}
	return e.write(w)
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// moment is a time as Prometheus has it, 0 where there is none.
func moment(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

func (e emitter) sources(s *Snapshot) {
	for _, name := range sorted(s.Sources) {
		c := s.Sources[name]
		l := labels{"source", name}
		e.gauge("source_tags", "Tags of the source.", float64(c.Tags), l)
		e.counter("source_samples_total", "Samples that the source emitted.", c.In, l)
		e.counter("source_produced_samples_total", "Samples that the pipeline let through.", c.Kept, l)
		e.counter("source_suppressed_samples_total", "Samples that a deadband held back.", c.Suppressed, l)
		e.counter("source_bad_samples_total", "Samples produced with Bad quality.", c.Bad, l)
		e.counter("source_out_of_range_samples_total", "Samples produced outside their tag's range.", c.OutOfRange, l)
		e.counter("source_refused_samples_total", "Samples that were not taken.", c.Refused, l)
		e.counter("source_bad_time_samples_total", "Samples whose device's time was not to be believed.", c.BadTime, l)
	}
	for _, cause := range sorted(s.Gaps) {
		c := s.Gaps[cause]
		l := labels{"cause", cause}
		e.counter("gaps_total", "Losses declared by a gap record.", c.Records, l)
		e.counter("lost_samples_total", "Samples in them, as far as they are countable.", c.Samples, l)
	}
}

func (e emitter) sinks(s *Snapshot) {
	for _, name := range sorted(s.Sinks) {
		c := s.Sinks[name]
		l := labels{"sink", name}
		e.counter("sink_requests_total", "Requests to the sink.", c.Requests, l)
		e.counter("sink_sent_bytes_total", "Bytes of the requests, as the sink counts them, retries included.", c.Sent, l)
		e.counter("sink_retried_blocks_total", "Blocks sent again.", c.Retries, l)
		e.counter("sink_refused_blocks_total", "Blocks refused for good, now dead letters.", c.Buried, l)
		e.gauge("sink_last_delivery_timestamp_seconds", "Time of the last confirmation; 0 before the first.", moment(c.LastDelivery), l)
		for _, state := range []uploader.State{uploader.StateIdle, uploader.StateUp, uploader.StateRetry, uploader.StateHeld, uploader.StateBlocked} {
			e.gauge("sink_state", "1 for the state that the sink is in.", truth(c.State == state), labels{"sink", name, "state", string(state)})
		}
		for _, lane := range sorted(c.Lanes) {
			c := c.Lanes[lane]
			l := labels{"sink", name, "lane", string(lane)}
			e.counter("sink_delivered_blocks_total", "Blocks that the sink confirmed.", c.Blocks, l)
			e.counter("sink_delivered_samples_total", "Samples in them.", c.Samples, l)
			e.counter("sink_delivered_bytes_total", "Packed bytes of them.", c.Bytes, l)
			e.histogram("sink_latency_seconds", "Time of a block from the seal to the confirmation.", c.Latency, l)
			e.gauge("sink_recent_latency_max_seconds", "The longest of the last five minutes.", c.Recent.Max.Seconds(), l)
			e.gauge("sink_recent_latency_median_seconds", "The median of the last five minutes.", c.Recent.Median.Seconds(), l)
		}
	}
	for _, name := range sorted(s.Spool.Sinks) {
		c := s.Spool.Sinks[name]
		l := labels{"sink", name}
		e.gauge("sink_configured", "0 for a sink that the configuration does not name any more.", truth(c.Configured), l)
		e.gauge("sink_pending_blocks", "Blocks that the sink does not have yet.", float64(c.PendingBlocks), l)
		e.gauge("sink_pending_samples", "Samples in them.", float64(c.PendingSamples), l)
		e.gauge("sink_pending_bytes", "Packed bytes of them.", float64(c.PendingBytes), l)
		e.gauge("sink_oldest_pending_timestamp_seconds", "First sample of the oldest of them; 0 where there is none.", moment(c.Oldest), l)
	}
}

func (e emitter) spool(s *Snapshot) {
	st := &s.Spool
	e.gauge("spool_disk_bytes", "Size of the spool's files.", float64(st.DiskBytes), nil)
	e.gauge("spool_max_bytes", "Their bound, spool.max_size.", float64(st.MaxBytes), nil)
	e.gauge("spool_room_bytes", "What may still wait before the bound's policy sets in, an estimate.", float64(st.RoomBytes), nil)
	e.gauge("spool_segments", "Segments.", float64(st.Segments), nil)
	e.gauge("spool_corrupt_files", "Files that did not read and were put aside.", float64(st.CorruptFiles), nil)
	e.gauge("spool_open_samples", "Samples in open batches that are on the disk.", float64(st.OpenSamples), nil)
	e.gauge("spool_dead_letters", "Blocks that a sink refused for good.", float64(st.DeadLetters), nil)
	e.gauge("spool_dead_letters_bytes", "What they take on the disk.", float64(st.DeadBytes), nil)
	e.gauge("spool_unsettled_losses", "Losses whose gap records are not stored yet.", float64(st.Losses), nil)
	e.gauge("spool_broken", "1 where nothing more is stored.", truth(st.Broken != ""), nil)
	e.counter("spool_commits_total", "Transactions.", st.Commits, nil)
	e.counter("spool_written_bytes_total", "Pages written by them.", st.BytesWritten, nil)
	e.counter("spool_evicted_segments_total", "Segments that the bound took.", st.Evicted, nil)
	e.counter("spool_rewritten_segments_total", "Segments that were written anew without what was given up.", st.Rewritten, nil)
	e.counter("spool_refusals_total", "Times that the spool had no room for sources with when_full refuse.", s.Refusals, nil)
	e.counter("spool_thinned_samples_total", "Samples that were thinned out for want of room.", s.Thinned, nil)
	e.counter("spool_corrupt_total", "Blocks and segments that did not read.", st.Corrupt, nil)
	e.counter("spool_salvaged_files_total", "Damaged files that were rebuilt from what reads.", st.Salvaged, nil)
	e.counter("spool_mended_total", "Failures of the disk that were overcome.", st.Mended, nil)
	e.histogram("spool_commit_duration_seconds", "How long commits took, the disk's syncs included.", s.Commits, nil)
}

func (e emitter) forecast(s *Snapshot) {
	f := &s.Forecast
	full, drained := math.Inf(1), math.Inf(1)
	switch f.State {
	case forecast.Filling:
		full = f.Left.Seconds()
	case forecast.Full:
		full = 0
	case forecast.Draining:
		drained = f.Left.Seconds()
	case forecast.Steady:
		drained = 0
	}
	e.gauge("spool_inflow_bytes_per_second", "What comes in, on the disk, smoothed over half an hour.", f.In, nil)
	e.gauge("spool_outflow_bytes_per_second", "What the sink that is furthest behind takes, smoothed over five minutes.", f.Out, nil)
	e.gauge("spool_full_in_seconds", "Time until the spool is full at the present rate; +Inf where it does not fill.", full, nil)
	e.gauge("spool_drained_in_seconds", "Time until the backlog is gone at the present rate; +Inf where it does not fall.", drained, nil)
}

func (e emitter) clock(s *Snapshot) {
	e.gauge("clock_synchronised", "1 where the kernel says that the wall clock is synchronised.", truth(s.Clock.Kernel == "synchronised"), nil)
	e.gauge("clock_offset_seconds", "The wall clock less the time that samples get.", s.Clock.Off.Seconds(), nil)
	e.counter("clock_steps_total", "Steps of the clock of a second or more.", s.Clock.Steps, nil)
}

func (e emitter) mirror(s *mirror.Status, lost uint64) {
	for i := range s.Targets {
		t := &s.Targets[i]
		l := labels{"target", t.Name}
		for _, mode := range []guard.Mode{guard.Off, guard.DryRun, guard.Armed} {
			e.gauge("mirror_mode", "1 for the mode that the target is in.", truth(t.Mode == mode), labels{"target", t.Name, "mode", string(mode)})
		}
		for _, o := range mirror.Outcomes() {
			e.counter("mirror_outcomes_total", "Results by what became of them.", t.Outcomes[string(o)], labels{"target", t.Name, "outcome", string(o)})
		}
		for _, reason := range sorted(t.Refused) {
			e.counter("mirror_refused_total", "Results that a guard refused, by its reason.", t.Refused[reason], labels{"target", t.Name, "reason", reason})
		}
		var applied time.Time
		if t.Last != nil {
			applied = t.Last.Time
		}
		e.gauge("mirror_last_applied_timestamp_seconds", "Time of the last value written and read back; 0 before the first.", moment(applied), l)
		e.gauge("mirror_pending", "1 where an accepted result waits to be written.", truth(t.Pending != nil), l)
		e.gauge("mirror_stale", "1 where results have stopped.", truth(t.Stale), l)
		e.gauge("mirror_unverified", "1 where the last write did not read back.", truth(t.Unverified), l)
	}
	for i := range s.Feeds {
		f := &s.Feeds[i]
		l := labels{"feed", f.Name}
		var answered time.Time
		if f.LastReceive != nil {
			answered = *f.LastReceive
		}
		e.counter("mirror_feed_messages_total", "Messages that the feed brought.", f.Received, l)
		e.counter("mirror_feed_malformed_total", "Of these, what was no result.", f.Malformed, l)
		e.counter("mirror_feed_strange_total", "Of these, results for no target of the feed.", f.Strange, l)
		e.counter("mirror_feed_errors_total", "Calls of the feed that failed.", f.Errors, l)
		e.gauge("mirror_feed_last_answer_timestamp_seconds", "Time of its last answer; 0 before the first.", moment(answered), l)
	}
	e.gauge("mirror_audit_records", "Number of the last record of the audit log.", float64(s.Audit.Records), nil)
	e.gauge("mirror_audit_broken", "1 where nothing can be recorded, and so nothing is written.", truth(s.Audit.Error != ""), nil)
	e.counter("mirror_lost_status_samples_total", "Outcomes that did not go up, for want of room; the audit log has them.", lost, nil)
}
