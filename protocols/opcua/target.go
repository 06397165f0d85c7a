package opcua

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// Target is what `write:` of a mirror target at an OPC UA server holds.
type Target struct {
	// Address is the node id, as a tag's.
	Address string `yaml:"address"`
	// ValidityAddress is a Boolean node that is true while the value may be used.
	ValidityAddress string `yaml:"validity_address"`
	// HeartbeatAddress is a UInt16 or UInt32 node that counts.
	HeartbeatAddress string `yaml:"heartbeat_address"`
	// SourceTime is auto: the time at which the value was computed goes along
	// where the server takes it; or never.
	SourceTime string `yaml:"source_time"`
}

// The words of Target.SourceTime.
const (
	sourceTimeAuto  = "auto"
	sourceTimeNever = "never"
)

// NewTarget implements protocols.Writable.
func (c *Config) NewTarget() protocols.TargetConfig { return &Target{SourceTime: sourceTimeAuto} }

// Validate implements protocols.TargetConfig.
func (t *Target) Validate(sample.Kind) []protocols.Fault {
	var out []protocols.Fault
	const hint = "write it as the server shows it: ns=2;s=Line1.Setpoint, ns=3;i=1001 or nsu=http://vendor/;s=X"
	seen := map[string]string{}
	for _, n := range []struct{ path, text string }{
		{"address", t.Address}, {"validity_address", t.ValidityAddress}, {"heartbeat_address", t.HeartbeatAddress},
	} {
		if n.text == "" && n.path != "address" {
			continue
		}
		a, err := parseAddress(n.text)
		if err != nil {
			out = append(out, protocols.Fault{Path: n.path, Problem: err.Error(), Hint: hint})
			continue
		}
		if other, twice := seen[a.name()]; twice {
			out = append(out, protocols.Fault{Path: n.path, Problem: fmt.Sprintf("node %s is %s too", n.text, other), Hint: "each needs a node of its own; leave out what the server has none for"})
		}
		seen[a.name()] = n.path
	}
	if t.SourceTime != sourceTimeAuto && t.SourceTime != sourceTimeNever {
		out = append(out, protocols.Fault{Path: "source_time", Problem: fmt.Sprintf("%q is not known", t.SourceTime), Hint: "write auto or never"})
	}
	return out
}

// Places implements protocols.TargetConfig.
func (t *Target) Places() []string {
	var out []string
	for _, text := range []string{t.Address, t.ValidityAddress, t.HeartbeatAddress} {
		if a, err := parseAddress(text); err == nil {
			out = append(out, a.name())
		}
	}
	return out
}

// name is the same for all spellings of a node id.
func (a *address) name() string {
	if a.id == nil {
		return a.text
	}
	return a.id.String()
}

// OpenTarget implements protocols.TargetOpener.
func (c *connection) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	own, ok := cfg.(*Target)
	if !ok {
		panic(fmt.Sprintf("BUG: settings of an OPC UA target are %T", cfg))
	}
	t := &target{conn: c, health: h, sourceTime: own.SourceTime != sourceTimeNever}
	for _, n := range []struct {
		to   **node
		text string
	}{{&t.value, own.Address}, {&t.validity, own.ValidityAddress}, {&t.heartbeat, own.HeartbeatAddress}} {
		if n.text == "" && n.to != &t.value {
			continue
		}
		a, err := parseAddress(n.text)
		if err != nil {
			return nil, fmt.Errorf("open target: %w", err)
		}
		*n.to = &node{address: a}
		t.nodes = append(t.nodes, *n.to)
	}
	c.writing.join()
	return t, nil
}

// target implements protocols.Target.
type target struct {
	conn       *connection
	health     protocols.Health
	sourceTime bool
	closed     bool

	nodes                      []*node // all three that are there
	value, validity, heartbeat *node

	plain     *session // in which the server takes values without status and time only
	saidPlain bool
	saidMute  bool
	saidOther bool

	last  sample.Value   // what we wrote; null where that is not known
	good  sample.Quality // of what we wrote
	valid told           // what was told last
}

// told is a validity that was written in a session.
type told struct {
	session *session
	valid   bool
}

func unsent(err error) error {
	var known *protocols.WriteError
	if errors.As(err, &known) {
		return err
	}
	return &protocols.WriteError{Outcome: protocols.Unsent, Err: err}
}

var errClosed = errors.New("the target is closed, so nothing was sent")

// ready returns a session in which the nodes are known.
func (t *target) ready(ctx context.Context, fresh bool) (*session, error) {
	if t.closed {
		return nil, unsent(fmt.Errorf("node %s: %w", t.value.address.text, errClosed))
	}
	for again := true; ; again = false {
		s, err := t.conn.writing.get(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.health.Down(err)
			}
			return nil, unsent(err)
		}
		err = t.learn(ctx, s, fresh)
		if err == nil {
			t.health.Up()
			return s, nil
		}
		if protocols.OutcomeOf(err) == protocols.Unsuited {
			t.health.Down(err)
			return nil, err
		}
		t.conn.writing.drop(s)
		if ended(err) && again {
			continue
		}
		if ctx.Err() == nil {
			t.health.Down(err)
		}
		return nil, unsent(err)
	}
}

// Prepare implements protocols.Target.
func (t *target) Prepare(ctx context.Context, v sample.Value) (sample.Value, error) {
	if _, err := t.ready(ctx, true); err != nil {
		return sample.Value{}, err
	}
	variant, err := t.fit(v)
	if err != nil {
		return sample.Value{}, err
	}
	held, err := convert(variant)
	if err != nil {
		return sample.Value{}, protocols.Unsuitedf("node %s: %w", t.value.address.text, err)
	}
	return held, nil
}

// fitBeside checks what is to stand beside the value. A value that could not
// be called stale later is not written.
func (t *target) fitBeside() error {
	if n := t.validity; n != nil && n.typ != ua.TypeIDBoolean {
		return protocols.Unsuitedf("validity_address %s is of type %s and no Boolean: choose another node", n.address.text, typeName(n.typ))
	}
	if n := t.heartbeat; n != nil && n.typ != ua.TypeIDUint16 && n.typ != ua.TypeIDUint32 {
		return protocols.Unsuitedf("heartbeat_address %s is of type %s and neither UInt16 nor UInt32: choose another node", n.address.text, typeName(n.typ))
	}
	return nil
}

// fit converts a value for the node, or is an Unsuited error.
func (t *target) fit(v sample.Value) (*ua.Variant, error) {
	if err := t.fitBeside(); err != nil {
		return nil, err
	}
	if v.Kind() == sample.String && !utf8.ValidString(v.Str()) {
		return nil, protocols.Unsuitedf("node %s: the text is not UTF-8", t.value.address.text)
	}
	variant, err := toVariant(v, t.value.typ)
	if err != nil {
		return nil, protocols.Unsuitedf("node %s: %w", t.value.address.text, err)
	}
	return variant, nil
}

// Write implements protocols.Target. Where the node has one for validity, both
// go in one request.
func (t *target) Write(ctx context.Context, c protocols.Command) error {
	for again := true; ; again = false {
		s, err := t.ready(ctx, false)
		if err != nil {
			return err
		}
		variant, err := t.fit(c.Value)
		if err != nil {
			return err
		}
		held, err := convert(variant)
		if err != nil {
			return protocols.Unsuitedf("node %s: %w", t.value.address.text, err)
		}
		dv := &ua.DataValue{EncodingMask: ua.DataValueValue, Value: variant}
		if t.plain != s {
			t.beside(dv, c)
		}
		writes := []*ua.WriteValue{valueOf(t.value, dv)}
		if t.validity != nil {
			writes = append(writes, valueOf(t.validity, plainValue(true)))
		}
		results, err := t.send(ctx, s, writes)
		if ended(err) && again {
			continue // the server has carried out nothing
		}
		if err == nil && results[0] == ua.StatusBadWriteNotSupported && dv.EncodingMask != ua.DataValueValue {
			// It claims to take status or time, and has carried out nothing.
			t.onlyPlain(s)
			writes[0] = valueOf(t.value, &ua.DataValue{EncodingMask: ua.DataValueValue, Value: variant})
			results, err = t.send(ctx, s, writes)
		}
		if err == nil {
			err = answer(t.value, results[0])
		}
		if err != nil {
			if protocols.OutcomeOf(err) == protocols.Unknown {
				t.last, t.valid = sample.Value{}, told{}
			}
			return err
		}
		t.last, t.good = held, c.Quality
		if t.validity != nil {
			if err := answer(t.validity, results[1]); err != nil {
				return &protocols.WriteError{Outcome: protocols.Unknown, Err: fmt.Errorf("the value is written, its validity is not: %w", err)}
			}
		}
		t.valid = told{session: s, valid: true}
		return nil
	}
}

// beside adds status and time where the server lets them be written.
func (t *target) beside(dv *ua.DataValue, c protocols.Command) {
	if t.value.status && c.Quality != sample.Good {
		dv.EncodingMask |= ua.DataValueStatusCode
		dv.Status = ua.StatusCode(c.Quality)
	}
	if t.value.stamp && t.sourceTime && !c.Time.IsZero() {
		dv.EncodingMask |= ua.DataValueSourceTimestamp
		dv.SourceTimestamp = c.Time
	}
}

// onlyPlain remembers that the server takes no status and time in this session.
func (t *target) onlyPlain(s *session) {
	t.plain = s
	if !t.saidPlain {
		t.saidPlain = true
		t.conn.log.Warn("the server says that status and time can be written and refuses them; values go without: set source_time: never, and validity_address for the validity",
			"node", t.value.address.text)
	}
}

func plainValue(v any) *ua.DataValue {
	return &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(v)}
}

func valueOf(n *node, dv *ua.DataValue) *ua.WriteValue {
	return &ua.WriteValue{NodeID: n.id, AttributeID: ua.AttributeIDValue, Value: dv}
}

// send sends one request to write and returns a result for each value.
func (t *target) send(ctx context.Context, s *session, writes []*ua.WriteValue) ([]ua.StatusCode, error) {
	at := t.value.address.text
	if ctx.Err() != nil {
		return nil, unsent(fmt.Errorf("node %s: nothing was sent: %w", at, context.Cause(ctx)))
	}
	select {
	case <-s.lost:
		err := fmt.Errorf("server %s: the connection was lost before anything was sent: check that it runs, and the network", t.conn.url)
		t.health.Down(err)
		return nil, unsent(err)
	default:
	}
	resp, err := s.client.Write(ctx, &ua.WriteRequest{NodesToWrite: writes})
	switch {
	case err == nil && len(resp.Results) == len(writes):
		return resp.Results, nil
	case err == nil:
		return nil, &protocols.WriteError{Outcome: protocols.Unknown, Err: fmt.Errorf("server %s answers %d of %d values: ask its vendor", t.conn.url, len(resp.Results), len(writes))}
	}
	explained := t.conn.explain("write node "+at+" of", err)
	if refused(err) {
		return nil, &protocols.WriteError{Outcome: protocols.Rejected, Err: explained}
	}
	// The next request starts afresh: this connection may hang.
	t.conn.writing.drop(s)
	if ended(err) {
		return nil, unsent(explained)
	}
	t.health.Down(explained)
	return nil, &protocols.WriteError{Outcome: protocols.Unknown, Err: explained}
}

// refused reports whether the server says of a whole request that nothing of
// it was carried out: OPC 10000-4, 7.38.2 and 5.10.4.3.
func refused(err error) bool {
	return isOneOf(err,
		ua.StatusBadNothingToDo, ua.StatusBadTooManyOperations, ua.StatusBadServiceUnsupported, ua.StatusBadDecodingError, ua.StatusBadRequestTooLarge,
		ua.StatusBadEncodingLimitsExceeded, ua.StatusBadUserAccessDenied, ua.StatusBadSecurityModeInsufficient, ua.StatusBadRequestTypeInvalid,
		ua.StatusBadServerHalted, ua.StatusBadTooManySessions, ua.StatusBadIdentityTokenRejected, ua.StatusBadIdentityTokenInvalid, ua.StatusBadIdentityChangeNotSupported)
}

// answer classifies the server's answer for one node. A code that speaks of the
// device behind the server does not tell what the device has done.
func answer(n *node, code ua.StatusCode) error {
	at := n.address.text
	failed := func(o protocols.WriteOutcome, hint string) error {
		return &protocols.WriteError{Outcome: o, Err: fmt.Errorf("write node %s: %w: %s", at, code, hint)}
	}
	switch code {
	case ua.StatusBadTimeout, ua.StatusBadCommunicationError, ua.StatusBadRequestTimeout, ua.StatusBadRequestInterrupted, ua.StatusBadRequestCancelledByClient,
		ua.StatusBadRequestCancelledByRequest, ua.StatusBadConnectionClosed, ua.StatusBadDeviceFailure, ua.StatusBadInternalError, ua.StatusBadUnexpectedError,
		ua.StatusBadUnknownResponse, ua.StatusBadShutdown, ua.StatusBadOperationAbandoned, ua.StatusBadResourceUnavailable, ua.StatusBadOutOfMemory:
		return failed(protocols.Unknown, "whether the device behind the server has taken it is not known: look at the server's connection to it")
	case ua.StatusGoodClamped:
		return failed(protocols.Unknown, "the server has written another value, within its own limits: set min and max of the target to these")
	case ua.StatusBadNotWritable, ua.StatusBadUserAccessDenied:
		return failed(protocols.Rejected, "it is not writable for our user: give it the right on the server")
	case ua.StatusBadTypeMismatch, ua.StatusBadOutOfRange:
		return failed(protocols.Rejected, "the server does not take this value: compare its type and limits with the target's")
	case ua.StatusBadNodeIDUnknown, ua.StatusBadNodeIDInvalid:
		return failed(protocols.Rejected, "the server has no such node any more: check the address")
	}
	switch uint32(code) >> 30 {
	case 0: // Good
		return nil
	case 1: // Uncertain
		return failed(protocols.Unknown, "the server is not certain that it was written")
	}
	return failed(protocols.Rejected, "look at the node on the server")
}

// Read implements protocols.Target.
func (t *target) Read(ctx context.Context) (protocols.Reading, error) {
	s, err := t.ready(ctx, false)
	if err != nil {
		return protocols.Reading{}, err
	}
	dv, err := t.readValue(ctx, s)
	if err != nil {
		return protocols.Reading{}, err
	}
	now := t.conn.clock.Now()
	got, err := toSample("", dv, now)
	if err != nil {
		return protocols.Reading{}, fmt.Errorf("node %s: %w", t.value.address.text, err)
	}
	r := protocols.Reading{Value: got.Value, Quality: got.Quality, Time: now}
	if got.SourceTime != 0 {
		r.SourceTime = dv.SourceTimestamp.UTC()
	}
	return r, nil
}

// readValue reads the node. A status that says that the node itself is no good
// is an error.
func (t *target) readValue(ctx context.Context, s *session) (*ua.DataValue, error) {
	at := t.value.address.text
	resp, err := s.client.Read(ctx, &ua.ReadRequest{
		TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: t.value.id, AttributeID: ua.AttributeIDValue}},
	})
	if err == nil && len(resp.Results) != 1 {
		err = fmt.Errorf("it answers %d values for one", len(resp.Results))
	}
	if err != nil {
		t.conn.writing.drop(s)
		err = t.conn.explain("read node "+at+" from", err)
		if ctx.Err() == nil {
			t.health.Down(err)
		}
		return nil, unsent(err)
	}
	dv := resp.Results[0]
	if missing(dv.Status) || dv.Status == ua.StatusBadUserAccessDenied {
		return nil, nodeError(at, dv.Status)
	}
	return dv, nil
}

// Tell implements protocols.Target. The heartbeat is written each time, the
// validity when it changes and in each new session.
func (t *target) Tell(ctx context.Context, state protocols.State) error {
	s, err := t.ready(ctx, false)
	if err != nil {
		return err
	}
	if err := t.fitBeside(); err != nil {
		return err
	}
	var writes []*ua.WriteValue
	var to []*node
	add := func(n *node, dv *ua.DataValue) {
		writes, to = append(writes, valueOf(n, dv)), append(to, n)
	}
	if t.heartbeat != nil {
		if t.heartbeat.typ == ua.TypeIDUint32 {
			add(t.heartbeat, plainValue(uint32(state.Heartbeat)))
		} else {
			add(t.heartbeat, plainValue(state.Heartbeat))
		}
	}
	change := t.valid != told{session: s, valid: state.Valid}
	if change && t.validity != nil {
		add(t.validity, plainValue(state.Valid))
	}
	marking := false
	if change && t.value.status && t.plain != s {
		dv, err := t.mark(ctx, s, state.Valid)
		if err != nil {
			return err
		}
		if marking = dv != nil; marking {
			add(t.value, dv)
		}
	}
	if change && !state.Valid && t.validity == nil && !t.value.status && !t.saidMute {
		t.saidMute = true
		t.conn.log.Warn("the server takes no status for the node and there is no validity_address: who reads it cannot see that the value is stale",
			"node", t.value.address.text)
	}
	if len(writes) == 0 {
		t.valid = told{session: s, valid: state.Valid}
		return nil
	}
	results, err := t.send(ctx, s, writes)
	if err != nil {
		return err
	}
	for i, n := range to {
		if marking && n == t.value && results[i] == ua.StatusBadWriteNotSupported {
			t.onlyPlain(s)
			continue
		}
		if err := answer(n, results[i]); err != nil {
			return err
		}
	}
	t.valid = told{session: s, valid: state.Valid}
	return nil
}

// badOutOfService is Bad_OutOfService, OPC 10000-4, 7.39.2: the source of the
// value is not operational.
const badOutOfService ua.StatusCode = 0x808D0000

// mark returns the node's value with the status that says whether it may be
// used; nil where that stands there already, or where another one has written
// the node since we did: what he wrote is his.
func (t *target) mark(ctx context.Context, s *session, valid bool) (*ua.DataValue, error) {
	there, err := t.readValue(ctx, s)
	if err != nil {
		return nil, err
	}
	bad := uint32(there.Status)&0x80000000 != 0
	if there.Value == nil || there.Value.Value() == nil || bad != valid {
		return nil, nil
	}
	if valid && there.Status != badOutOfService {
		return nil, nil // Bad for a reason of its own
	}
	v, err := convert(there.Value)
	if err != nil || t.last.Kind() != sample.Null && v != t.last {
		if !t.saidOther {
			t.saidOther = true
			t.conn.log.Warn("another one has written the node since, so its status is left as it is", "node", t.value.address.text)
		}
		return nil, nil
	}
	dv := &ua.DataValue{EncodingMask: ua.DataValueValue | ua.DataValueStatusCode, Value: there.Value}
	if dv.Status = ua.StatusCode(t.good); !valid {
		dv.Status = badOutOfService
	}
	if t.value.stamp && t.sourceTime && there.EncodingMask&ua.DataValueSourceTimestamp != 0 {
		dv.EncodingMask |= ua.DataValueSourceTimestamp
		dv.SourceTimestamp = there.SourceTimestamp
	}
	return dv, nil
}

// Close implements protocols.Target.
func (t *target) Close() error {
	if !t.closed {
		t.closed = true
		t.conn.writing.leave()
	}
	return nil
}
