package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/protocols"
	"millrace/sample"
)

// Target is what `write:` of a mirror target at a broker holds.
type Target struct {
	// Topic is where the value is published.
	Topic string `yaml:"topic"`
	// Format is json, an object with value, validity, time and version, or
	// value, the value as text.
	Format string `yaml:"format"`
	// QoS is 1, which the broker acknowledges, or 0.
	QoS int `yaml:"qos"`
	// Retain makes the broker keep the value for those who come later, and for
	// reading it back.
	Retain bool `yaml:"retain"`
	// ConfirmTopic is where the device says what it has taken; reading back
	// then asks that and not the broker.
	ConfirmTopic string `yaml:"confirm_topic"`
	// ValidityTopic gets true or false.
	ValidityTopic string `yaml:"validity_topic"`
	// HeartbeatTopic gets a count, not retained.
	HeartbeatTopic string `yaml:"heartbeat_topic"`

	kind sample.Kind // as described
}

// NewTarget implements protocols.Writable.
func (c *Config) NewTarget() protocols.TargetConfig {
	return &Target{Format: payloadJSON, QoS: 1, Retain: true}
}

// Describe implements protocols.Described: text has no type of its own.
func (t *Target) Describe(info protocols.TargetInfo) { t.kind = info.Kind }

// Validate implements protocols.TargetConfig.
func (t *Target) Validate(sample.Kind) []protocols.Fault {
	var faults []protocols.Fault
	add := func(bad bool, path, problem, hint string) {
		if bad {
			faults = append(faults, protocols.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	seen := map[string]string{}
	for _, n := range []struct{ path, topic string }{
		{"topic", t.Topic}, {"confirm_topic", t.ConfirmTopic}, {"validity_topic", t.ValidityTopic}, {"heartbeat_topic", t.HeartbeatTopic},
	} {
		if n.topic == "" && n.path != "topic" {
			continue
		}
		if err := checkTopic(n.topic); err != nil {
			add(true, n.path, err.Error(), "write the whole topic, for example plant/boiler/setpoint")
			continue
		}
		other, twice := seen[n.topic]
		add(twice, n.path, fmt.Sprintf("topic %q is %s too", n.topic, other), "each needs a topic of its own")
		seen[n.topic] = n.path
	}
	add(t.Format != payloadJSON && t.Format != payloadValue, "format", fmt.Sprintf("format %q is not known", t.Format), "write json or value")
	add(t.QoS != 0 && t.QoS != 1, "qos", fmt.Sprintf("qos %d is not 0 or 1", t.QoS), "use 1: the broker acknowledges it")
	add(!t.Retain && t.ConfirmTopic == "", "confirm_topic", "is missing, and nothing is retained, so no write could be verified",
		"name the topic by which the device confirms, or set retain: true to read back what the broker holds")
	return faults
}

// Places implements protocols.TargetConfig.
func (t *Target) Places() []string {
	out := []string{t.Topic}
	for _, topic := range []string{t.ValidityTopic, t.HeartbeatTopic} {
		if topic != "" {
			out = append(out, topic)
		}
	}
	return out
}

// OpenTarget implements protocols.TargetOpener.
func (c *connection) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	own, ok := cfg.(*Target)
	if !ok {
		panic(fmt.Sprintf("BUG: settings of an MQTT target are %T", cfg))
	}
	t := &publisher{conn: c, cfg: *own, health: h, news: make(chan struct{}, 1)}
	c.publishing.join(t)
	return t, nil
}

// noneRetained is how long after its answer to a subscription a broker may take
// to send the retained message: where there is none, it does not say so.
const noneRetained = 300 * time.Millisecond

// publisher implements protocols.Target.
type publisher struct {
	conn   *connection
	cfg    Target
	health protocols.Health
	closed bool

	asked    *stay // in which the topic that is read is subscribed to
	last     *note // what we published last; nil where that is not known
	told     *bool // the validity that was published last; nil where it is not known
	saidMute bool

	mu        sync.Mutex
	retained  heard // on the topic itself
	confirmed heard // on the confirm topic
	news      chan struct{}
}

// heard is the last message on a topic, nil before the first.
type heard struct {
	*message
	at time.Time
}

// reads is the topic that is read back.
func (t *publisher) reads() string {
	if t.cfg.ConfirmTopic != "" {
		return t.cfg.ConfirmTopic
	}
	return t.cfg.Topic
}

// hears reports whether messages of a topic are of use for the target.
func (t *publisher) hears(topic string) bool {
	return topic == t.cfg.Topic || topic == t.cfg.ConfirmTopic
}

// take keeps a message for Read. An echo of what we publish, which is not
// marked as retained, does not prove that the broker keeps it: 3.1.1, 3.3.1.3.
func (t *publisher) take(m *message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := heard{m, t.conn.clock.Now()}
	if m.topic == t.cfg.ConfirmTopic {
		t.confirmed = h
		return
	}
	if m.retained {
		t.retained = h
		select {
		case t.news <- struct{}{}:
		default:
		}
	}
}

func unsent(err error) error { return &protocols.WriteError{Outcome: protocols.Unsent, Err: err} }

func (t *publisher) unsuited(err error) error {
	return protocols.Unsuitedf("topic %s: %w", t.cfg.Topic, err)
}

// ready returns a session in which the topic that is read is subscribed to.
func (t *publisher) ready(ctx context.Context) (*stay, error) {
	if t.closed {
		return nil, unsent(fmt.Errorf("topic %s: the target is closed, so nothing was sent", t.cfg.Topic))
	}
	s, err := t.conn.publishing.get(ctx)
	if err == nil && t.asked != s {
		t.mu.Lock()
		t.confirmed = heard{}
		t.mu.Unlock()
		if err = t.subscribe(ctx, s, t.reads()); err == nil {
			t.asked = s
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			t.health.Down(err)
		}
		return nil, unsent(err)
	}
	return s, nil
}

// subscribe asks the broker for a topic; the retained message comes each time
// that is asked: 3.1.1, 3.8.4.
func (t *publisher) subscribe(ctx context.Context, s *stay, topic string) error {
	limited, cancel := context.WithTimeout(ctx, t.conn.cfg.ConnectTimeout)
	defer cancel()
	refused, err := s.subscribe(limited, []string{topic}, 1)
	switch {
	case err != nil:
		t.conn.publishing.drop(s)
		return t.conn.explain("subscribe to "+topic, err)
	case len(refused) > 0:
		return fmt.Errorf("mqtt %s: the broker refuses a subscription to %s, so no write could be verified; allow user %q to read it in the broker's access list",
			t.conn.cfg.URL, topic, t.conn.cfg.Username)
	}
	return nil
}

// Prepare implements protocols.Target. It needs no broker.
func (t *publisher) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	p, err := protocols.Exactly(v, t.cfg.kind)
	switch {
	case err != nil:
		return sample.Value{}, t.unsuited(err)
	case t.cfg.Format == payloadValue && t.cfg.Retain && p.Kind() == sample.String && p.Str() == "":
		return sample.Value{}, t.unsuited(errors.New("an empty text, retained, makes the broker forget the topic: use format: json"))
	}
	if n := len(t.payload(note{value: p, valid: true})); n > int(t.conn.cfg.MaxMessage) {
		return sample.Value{}, t.unsuited(fmt.Errorf("a message of %d bytes could not be read back, connection.max_message is %s", n, t.conn.cfg.MaxMessage))
	}
	return p, nil
}

func (t *publisher) payload(n note) []byte {
	if t.cfg.Format == payloadValue {
		return protocols.AppendPlain(nil, n.value)
	}
	return n.append(nil)
}

// Write implements protocols.Target. It returns once the broker has
// acknowledged; what a device has taken is known by Read.
func (t *publisher) Write(ctx context.Context, c protocols.Command) error {
	v, err := t.Prepare(ctx, c.Value)
	if err != nil {
		return err
	}
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	c.Value = v
	n := noteOf(c)
	if err := t.publish(ctx, s, t.cfg.Topic, t.payload(n), t.cfg.Retain); err != nil {
		if protocols.OutcomeOf(err) == protocols.Unknown {
			t.last, t.told = nil, nil
		}
		return err
	}
	t.last, t.told = &n, nil
	if t.cfg.ValidityTopic != "" {
		if err := t.publish(ctx, s, t.cfg.ValidityTopic, []byte("true"), t.cfg.Retain); err != nil {
			return &protocols.WriteError{Outcome: protocols.Unknown, Err: fmt.Errorf("the value is published, its validity is not: %w", err)}
		}
	}
	valid := true
	t.told = &valid
	return nil
}

// publish publishes one message, once.
func (t *publisher) publish(ctx context.Context, s *stay, topic string, payload []byte, retain bool) error {
	if ctx.Err() != nil {
		return unsent(fmt.Errorf("topic %s: nothing was sent: %w", topic, context.Cause(ctx)))
	}
	select {
	case <-s.down:
		err := fmt.Errorf("mqtt %s: publish to %s: the connection was lost before anything was sent; check that the broker runs, and the network", t.conn.cfg.URL, topic)
		t.health.Down(err)
		return unsent(err)
	default:
	}
	limited, cancel := context.WithTimeout(ctx, t.conn.cfg.ConnectTimeout)
	defer cancel()
	token := s.client.Publish(topic, byte(t.cfg.QoS), retain, payload)
	var err error
	select {
	case <-token.Done():
		if err = token.Error(); err == nil {
			t.health.Up()
			return nil
		}
	case <-s.down:
		err = errors.New("the connection was lost before the broker acknowledged")
	case <-limited.Done():
		err = fmt.Errorf("the broker did not acknowledge in time: %w", context.Cause(limited))
	}
	// The next one starts afresh: an answer must not be taken for another's.
	t.conn.publishing.drop(s)
	explained := t.conn.explain("publish to "+topic, err)
	t.health.Down(explained)
	if errors.Is(err, paho.ErrNotConnected) {
		return unsent(explained)
	}
	return &protocols.WriteError{Outcome: protocols.Unknown, Err: explained}
}

// Read implements protocols.Target: what the device has confirmed last, else
// what the broker retains. Where there is neither, the reading is null and Bad.
func (t *publisher) Read(ctx context.Context) (protocols.Reading, error) {
	s, err := t.ready(ctx)
	if err != nil {
		return protocols.Reading{}, err
	}
	var m heard
	if t.cfg.ConfirmTopic != "" {
		t.mu.Lock()
		m = t.confirmed
		t.mu.Unlock()
	} else if m, err = t.askRetained(ctx, s); err != nil {
		return protocols.Reading{}, err
	}
	t.health.Up()
	if m.message == nil {
		return protocols.Reading{Quality: sample.Bad, Time: t.conn.clock.Now()}, nil
	}
	n, err := t.parse(m.message)
	if err != nil {
		return protocols.Reading{}, fmt.Errorf("topic %s: the message there cannot be read: %w; see what else publishes to it", t.reads(), err)
	}
	r := protocols.Reading{Value: n.value, Quality: n.quality, Time: m.at, Version: n.version}
	if !n.time.IsZero() {
		r.SourceTime = n.time
	}
	return r, nil
}

// askRetained makes the broker send what it retains on the topic, and waits for
// it; the message is nil where there is none.
func (t *publisher) askRetained(ctx context.Context, s *stay) (heard, error) {
	t.mu.Lock()
	t.retained = heard{}
	select {
	case <-t.news:
	default:
	}
	t.mu.Unlock()
	if err := t.subscribe(ctx, s, t.cfg.Topic); err != nil {
		if ctx.Err() == nil {
			t.health.Down(err)
		}
		return heard{}, unsent(err)
	}
	none := time.NewTimer(noneRetained)
	defer none.Stop()
	select {
	case <-t.news:
	case <-none.C:
	case <-s.down:
		err := fmt.Errorf("mqtt %s: read topic %s: the connection was lost; check that the broker runs, and the network", t.conn.cfg.URL, t.cfg.Topic)
		t.health.Down(err)
		return heard{}, unsent(err)
	case <-ctx.Done():
		return heard{}, unsent(fmt.Errorf("topic %s: the broker has sent nothing that it retains: %w", t.cfg.Topic, context.Cause(ctx)))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retained, nil
}

// parse reads a message: ours, or a device's confirmation, which may be the
// value alone.
func (t *publisher) parse(m *message) (note, error) {
	if m.large {
		return note{}, errTooLarge
	}
	object := bytes.HasPrefix(bytes.TrimLeft(m.payload, " \t\r\n"), []byte("{"))
	if t.cfg.ConfirmTopic == "" && t.cfg.Format == payloadValue || !object || t.cfg.Format == payloadValue && t.cfg.kind == sample.String {
		v, err := plain(m.payload, typeOf(t.cfg.kind))
		return note{value: v, valid: true}, err
	}
	return parseNote(m.payload, t.cfg.kind)
}

// Tell implements protocols.Target. The heartbeat is published each time, the
// validity when it changes.
func (t *publisher) Tell(ctx context.Context, state protocols.State) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	if t.cfg.HeartbeatTopic != "" {
		if err := t.publish(ctx, s, t.cfg.HeartbeatTopic, strconv.AppendUint(nil, uint64(state.Heartbeat), 10), false); err != nil {
			return err
		}
	}
	if t.told != nil && *t.told == state.Valid {
		return nil
	}
	if t.cfg.ValidityTopic != "" {
		if err := t.publish(ctx, s, t.cfg.ValidityTopic, strconv.AppendBool(nil, state.Valid), t.cfg.Retain); err != nil {
			return err
		}
	}
	if err := t.mark(ctx, s, state.Valid); err != nil {
		return err
	}
	t.told = &state.Valid
	return nil
}

// mark publishes the last message again, with its new validity. A plain value
// has no room for that: where there is no other place either, it is taken away.
func (t *publisher) mark(ctx context.Context, s *stay, valid bool) error {
	switch {
	case t.cfg.Format == payloadJSON:
		n, err := t.lastNote(ctx, s)
		if err != nil || n == nil || n.valid == valid {
			return err
		}
		changed := *n
		changed.valid = valid
		if err := t.publish(ctx, s, t.cfg.Topic, changed.append(nil), t.cfg.Retain); err != nil {
			if protocols.OutcomeOf(err) == protocols.Unknown {
				t.last = nil
			}
			return err
		}
		t.last = &changed
	case valid || t.cfg.ValidityTopic != "":
	case t.cfg.Retain:
		return t.publish(ctx, s, t.cfg.Topic, nil, true) // 3.1.1, 3.3.1.3: an empty one removes it
	case !t.saidMute:
		t.saidMute = true
		t.conn.log.Warn("a plain value that is not retained has no place for its validity: who reads it cannot see that it is stale; set validity_topic, or format: json",
			"topic", t.cfg.Topic)
	}
	return nil
}

// lastNote is what stands at the broker: what we published last or, after a
// restart, what it retains of ours. Nil where that is nothing.
func (t *publisher) lastNote(ctx context.Context, s *stay) (*note, error) {
	if t.last != nil || !t.cfg.Retain {
		return t.last, nil
	}
	m, err := t.askRetained(ctx, s)
	if err != nil || m.message == nil {
		return nil, err
	}
	n, err := parseNote(m.payload, t.cfg.kind)
	if err != nil || n.version == 0 {
		return nil, nil // another one's
	}
	return &n, nil
}

// Close implements protocols.Target.
func (t *publisher) Close() error {
	if !t.closed {
		t.closed = true
		t.conn.publishing.leave(t)
	}
	return nil
}
