package server

import (
	"math"
	"reflect"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	// maxQueue is how many values of an item wait for a publish at most.
	maxQueue = 20
	// maxSampling is the longest sampling interval.
	maxSampling = time.Hour
	// overflowBits say that values before this one are lost: OPC 10000-4, 7.39.1,
	// the info type DataValue with Overflow.
	overflowBits ua.StatusCode = 0x00000480
	// forever is when what never changes is sampled again.
	forever = 24 * time.Hour
)

// item is a monitored item, OPC 10000-4, 5.12. Its fields are guarded by its
// session.
type item struct {
	id         uint32
	handle     uint32
	of         *ua.ReadValueID
	node       *node
	mode       ua.MonitoringMode
	timestamps ua.TimestampsToReturn
	sampling   time.Duration
	filter     ua.DataChangeFilter
	size       int
	oldest     bool // discard the oldest when the queue is full

	next  time.Time // when it is sampled
	has   bool      // whether last is anything
	last  reading
	queue []sampled
}

type sampled struct {
	reading
	at       time.Time
	overflow bool
}

// sample takes the value where it is due, and queues it where it has changed.
func (m *item) sample(s *Server, now, wall time.Time) {
	if m.mode == ua.MonitoringModeDisabled || now.Before(m.next) {
		return
	}
	m.next = now.Add(m.sampling)
	if m.fixed() {
		m.next = now.Add(forever)
	}
	r := s.attribute(m.of, wall)
	if m.has && !m.changed(r) {
		return
	}
	m.has, m.last = true, r
	if m.mode == ua.MonitoringModeReporting {
		m.push(sampled{reading: r, at: wall})
	}
}

// fixed reports whether what is monitored never changes.
func (m *item) fixed() bool {
	return m.node.constant || m.of.AttributeID != ua.AttributeIDValue && m.of.AttributeID != ua.AttributeIDDataType
}

// changed compares with the last value that was taken, as the filter has it:
// OPC 10000-4, 7.22.2.
func (m *item) changed(r reading) bool {
	if r.status != m.last.status {
		return true
	}
	if m.filter.Trigger == ua.DataChangeTriggerStatus {
		return false
	}
	if m.filter.Trigger == ua.DataChangeTriggerStatusValueTimestamp && !r.source.Equal(m.last.source) {
		return true
	}
	a, b := valueOf(m.last), valueOf(r)
	if m.filter.DeadbandType == uint32(ua.DeadbandTypeAbsolute) {
		x, ok := number(a)
		y, ok2 := number(b)
		if ok && ok2 && !math.IsNaN(x) && !math.IsNaN(y) {
			return math.Abs(x-y) > m.filter.DeadbandValue
		}
	}
	if x, ok := a.(float64); ok && math.IsNaN(x) {
		y, ok := b.(float64)
		return !ok || !math.IsNaN(y)
	}
	return !reflect.DeepEqual(a, b)
}

func valueOf(r reading) any {
	if r.value == nil {
		return nil
	}
	return r.value.Value()
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case float32:
		return float64(v), true
	case int64:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint16:
		return float64(v), true
	case uint32:
		return float64(v), true
	case uint64:
		return float64(v), true
	case uint8:
		return float64(v), true
	}
	return 0, false
}

// push queues a value. A full queue loses one, and says so: OPC 10000-4,
// 5.12.1.5. A queue of one has the newest, and says nothing.
func (m *item) push(v sampled) {
	if len(m.queue) < m.size {
		m.queue = append(m.queue, v)
		return
	}
	if m.oldest {
		m.queue = append(m.queue[:0], m.queue[len(m.queue)-m.size+1:]...)
		m.queue = append(m.queue, v)
		if m.size > 1 {
			m.queue[0].overflow = true
		}
		return
	}
	m.queue = m.queue[:m.size]
	v.overflow = m.size > 1
	m.queue[m.size-1] = v
}

// pop takes up to n values.
func (m *item) pop(n int) []*ua.MonitoredItemNotification {
	n = min(n, len(m.queue))
	out := make([]*ua.MonitoredItemNotification, n)
	for i, v := range m.queue[:n] {
		r := v.reading
		if v.overflow {
			r.status |= overflowBits
		}
		out[i] = &ua.MonitoredItemNotification{ClientHandle: m.handle, Value: dataValue(r, m.of.AttributeID, m.timestamps, v.at)}
	}
	if m.queue = m.queue[n:]; len(m.queue) == 0 {
		m.queue = nil
	}
	return out
}

// setMode changes the mode. What begins again begins with its value.
func (m *item) setMode(mode ua.MonitoringMode, now time.Time) {
	if mode == m.mode {
		return
	}
	if m.mode == ua.MonitoringModeDisabled || mode == ua.MonitoringModeReporting {
		m.has, m.next = false, now
	}
	if m.mode = mode; mode != ua.MonitoringModeReporting {
		m.queue = nil
	}
	if mode == ua.MonitoringModeDisabled {
		m.has, m.last = false, reading{}
	}
}

// set takes the parameters of a request, revised.
func (m *item) set(s *Server, p *ua.MonitoringParameters, publishing time.Duration, now time.Time) ua.StatusCode {
	filter, code := m.filterOf(p.Filter)
	if code != ua.StatusOK {
		return code
	}
	m.filter = filter
	m.handle, m.oldest = p.ClientHandle, p.DiscardOldest
	m.size = int(min(max(p.QueueSize, 1), maxQueue))
	m.sampling = publishing
	if p.SamplingInterval >= 0 {
		m.sampling = interval(p.SamplingInterval, s.cfg.MinSampling, maxSampling)
	}
	m.next = now
	for len(m.queue) > m.size {
		m.queue = m.queue[1:]
		m.queue[0].overflow = m.size > 1
	}
	return ua.StatusOK
}

// filterOf checks a filter: OPC 10000-4, 7.22.
func (m *item) filterOf(x *ua.ExtensionObject) (ua.DataChangeFilter, ua.StatusCode) {
	none := ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue}
	if x.EncodingMask == ua.ExtensionObjectEmpty {
		return none, ua.StatusOK
	}
	f, ok := x.Value.(*ua.DataChangeFilter)
	if !ok {
		return none, ua.StatusBadMonitoredItemFilterUnsupported // events and aggregates
	}
	if m.of.AttributeID != ua.AttributeIDValue {
		return none, ua.StatusBadFilterNotAllowed
	}
	if f.Trigger > ua.DataChangeTriggerStatusValueTimestamp {
		return none, ua.StatusBadMonitoredItemFilterInvalid
	}
	switch ua.DeadbandType(f.DeadbandType) {
	case ua.DeadbandTypeNone:
	case ua.DeadbandTypeAbsolute:
		if !(f.DeadbandValue >= 0) || math.IsInf(f.DeadbandValue, 0) {
			return none, ua.StatusBadDeadbandFilterInvalid
		}
		if !numeric(m.node.dataType()) {
			return none, ua.StatusBadFilterNotAllowed
		}
	default: // a percentage is of a range, which no variable here has
		return none, ua.StatusBadDeadbandFilterInvalid
	}
	return *f, ua.StatusOK
}

// numeric reports whether values of a data type may be numbers.
func numeric(dataType uint32) bool {
	switch dataType {
	case id.Boolean, id.String, id.DateTime, id.UtcTime, id.LocaleID, id.LocalizedText, id.ServerStatusDataType, id.BuildInfo, id.EUInformation:
		return false
	}
	return true
}

// interval brings milliseconds within bounds; what is no number gets the least.
func interval(ms float64, low, high time.Duration) time.Duration {
	switch {
	case !(ms > milliseconds(low)):
		return low
	case ms >= milliseconds(high):
		return high
	}
	return time.Duration(ms * float64(time.Millisecond))
}
