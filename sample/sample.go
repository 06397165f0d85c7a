// Package sample holds the data model that the gateway and the cloud half
// share: a Sample is one value of one tag at one instant, with its quality.
// It is data only and depends on nothing but the standard library.
package sample

// Sample is one reading of one tag. It is passed by value or in slices that
// the receiver may not keep; strings in it may be kept.
//
// Times are nanoseconds since the Unix epoch, UTC. A SourceTime of 0 means
// that the device gave none.
type Sample struct {
	// Tag is the full name, site/device/name.
	Tag string
	// Value is null when nothing usable was read; Quality then says why.
	Value Value
	// Quality is an OPC UA status code (OPC 10000-4, 7.39).
	Quality Quality
	// Time is the gateway's wall clock when the sample was taken, in ns.
	Time int64
	// SourceTime is the device's own clock, in ns, or 0 where it has none.
	SourceTime int64
	// Producer and Seq identify the sample to its producer, so that one sent
	// again after a lost acknowledgement counts once. Empty where unknown.
	Producer string
	Seq      uint64
}

// PrimaryTime is the time by which the sample is stored and keyed, in ns:
// the device's own where it has one, else the gateway's.
func (s *Sample) PrimaryTime() int64 {
	if s.SourceTime != 0 {
		return s.SourceTime
	}
	return s.Time
}
