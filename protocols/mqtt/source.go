package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

const (
	beatEvery = 5 * time.Second
	// stuckAfter is how long a batch may take to become durable before the
	// source stops saying that it lives.
	stuckAfter = time.Minute
	// steadyAfter is how long a connection must have lasted for the next wait
	// to be short again: two clients under one id throw each other out at once.
	steadyAfter = 30 * time.Second
	// settleTime is what a broker gets to take the last acknowledgements before
	// it is asked for the rest.
	settleTime = 100 * time.Millisecond
)

// source is one subscription to the broker.
type source struct {
	conn   *connection
	src    *protocols.SourceConfig
	router *router
	health protocols.Health
	wait   backoff.Policy

	id      string
	filters []string
	queue   *queue
	deliver *deliverer
	saidBad bool // the tags are Bad since the broker is away
}

func newSource(c *connection, src *protocols.SourceConfig, r *router, h protocols.Health) *source {
	s := &source{conn: c, src: src, router: r, health: h, wait: backoff.Policy{Max: 30 * time.Second},
		id: c.cfg.clientID(c.site, src.Name)}
	s.filters = filtersOf(&c.cfg, r)
	return s
}

func filtersOf(cfg *Config, r *router) []string {
	var filters []string
	for i := range cfg.Topics {
		filters = append(filters, cfg.Topics[i].Filter)
	}
	return subscriptions(filters, r.names())
}

// Run implements protocols.Source.
func (s *source) Run(ctx context.Context, emit protocols.Emit) error {
	s.queue = newQueue(s.conn.cfg.MaxInflight, s.conn.cfg.CleanSession)
	s.deliver = newDeliverer(s.queue, s.router, s.conn.log, emit)
	// A delivery that fails ends the source; the gateway starts it again.
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	delivered := make(chan error, 1)
	go func() {
		defer cancel()
		delivered <- s.deliver.run(ctx)
	}()
	session := s.keepConnected(inner)
	s.queue.close()
	timer := time.AfterFunc(drainTime, func() { close(s.deliver.giveUp) })
	err := <-delivered
	timer.Stop()
	if session != nil {
		session.close()
	}
	return err
}

// keepConnected connects again and again until ctx is done. It returns the
// session that is open then, on which the last messages are acknowledged.
func (s *source) keepConnected(ctx context.Context) *session {
	for attempt := 0; ; attempt++ {
		s.health.Beat()
		s.queue.fresh()
		session, err := s.conn.connect(ctx, s.id, s.conn.cfg.CleanSession, s.receive)
		if ctx.Err() != nil {
			return session
		}
		if err == nil {
			began := time.Now()
			if err = s.stay(ctx, session); err == nil {
				return session
			}
			session.close()
			if errors.Is(err, errLeft) {
				s.conn.log.Info("connecting again to have the messages that were too many at once")
				if !s.pause(ctx, settleTime) {
					return nil
				}
				continue
			}
			if time.Since(began) > steadyAfter {
				attempt = -1
			}
		}
		s.down(err)
		if !s.pause(ctx, s.wait.Wait(max(attempt, 0))) {
			return nil
		}
	}
}

// receive takes a message. It must not block: the connection's other packets
// wait behind it.
func (s *source) receive(from *session, m *message) {
	s.queue.put(item{msg: m, from: from, at: s.conn.clock.Now().UnixNano()})
}

// down reports that the broker is away, and makes every configured tag Bad.
func (s *source) down(err error) {
	s.health.Down(err)
	if !s.saidBad {
		s.saidBad = true
		tags := make([]string, len(s.src.Tags))
		for i := range s.src.Tags {
			tags[i] = s.src.Tags[i].Name
		}
		s.bad(tags, sample.BadNotConnected)
	}
}

func (s *source) bad(tags []string, q sample.Quality) {
	if len(tags) > 0 {
		s.queue.put(item{bad: tags, quality: q, at: s.conn.clock.Now().UnixNano()})
	}
}

// pause waits for d and beats meanwhile. It reports whether it waited to the end.
func (s *source) pause(ctx context.Context, d time.Duration) bool {
	for d > 0 {
		step := min(d, beatEvery)
		s.beat()
		if !backoff.Sleep(ctx, step) {
			return false
		}
		d -= step
	}
	s.beat()
	return true
}

// beat says that the source lives, unless the delivery is stuck.
func (s *source) beat() {
	if !s.deliver.stuck(stuckAfter) {
		s.health.Beat()
	}
}

// errLeft ends a connection on purpose: what was left at the broker is sent
// again on a new one only.
var errLeft = errors.New("messages were left at the broker")

// stay subscribes and stays until the connection is lost. It returns nil when
// ctx is done.
func (s *source) stay(ctx context.Context, session *session) error {
	if !session.present {
		s.queue.forget()
	}
	refused, err := session.subscribe(ctx, s.filters, byte(s.conn.cfg.QoS))
	// Some brokers take the identifier of a SUBSCRIBE for that of a message
	// which they have in flight, and refuse; so the first refusals of a session
	// that goes on are not believed.
	for try := 0; err == nil && len(refused) > 0 && session.present && try < 5; try++ {
		if s.pause(ctx, 50*time.Millisecond<<try) {
			refused, err = session.subscribe(ctx, refused, byte(s.conn.cfg.QoS))
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return s.conn.explain("subscribe", err)
	}
	s.saidBad = false
	s.subscribed(refused, true)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	retry, tries := time.Now().Add(s.wait.Wait(0)), 0
	var dropped overflowLog
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-session.lost:
			return s.conn.explain("connection lost", err)
		case <-s.queue.idle:
			return s.leave(ctx, session)
		case <-tick.C:
		}
		s.beat()
		dropped.report(s)
		if len(refused) == 0 || time.Now().Before(retry) {
			continue
		}
		tries++
		retry = time.Now().Add(s.wait.Wait(tries))
		if refused, err = session.subscribe(ctx, refused, byte(s.conn.cfg.QoS)); err != nil && ctx.Err() == nil {
			return s.conn.explain("subscribe", err)
		}
		s.subscribed(refused, false)
	}
}

// leave ends a stay for the sake of messages that were left. The broker must
// have read every acknowledgement first, or those messages come again too: a
// broker that still sends when the connection ends may never read on. It
// answers a PINGREQ after all that was sent before.
func (s *source) leave(ctx context.Context, session *session) error {
	if s.conn.cfg.CleanSession {
		return errLeft // nothing comes again
	}
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var answer <-chan struct{}
	var late <-chan time.Time
	for {
		if answer == nil && s.queue.leave() {
			answer = session.wire.ping()
			timer := time.NewTimer(pingTimeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-session.lost:
			return s.conn.explain("connection lost", err)
		case <-answer:
			return errLeft
		case <-late:
			return errLeft
		case <-s.queue.idle:
		case <-tick.C:
			s.beat()
		}
	}
}

// subscribed reports how subscribing went: tags whose topics are refused are
// Bad, once.
func (s *source) subscribed(refused []string, sayBad bool) {
	if len(refused) == 0 {
		s.health.Up()
		return
	}
	s.health.Down(s.conn.refusedError(refused, len(s.filters)))
	if !sayBad {
		return
	}
	var tags []string
	for i := range s.src.Tags {
		topic, _, err := parseAddress(s.src.Tags[i].Address)
		for _, f := range refused {
			if err == nil && matches(unshared(f), topic) {
				tags = append(tags, s.src.Tags[i].Name)
				break
			}
		}
	}
	s.bad(tags, sample.BadConfigurationError)
}

func (c *connection) refusedError(refused []string, of int) error {
	const most = 3
	names := strings.Join(refused[:min(len(refused), most)], ", ")
	if len(refused) > most {
		names += fmt.Sprintf(" and %d more", len(refused)-most)
	}
	return fmt.Errorf("mqtt %s: partly: the broker refuses %d of %d subscriptions: %s; allow user %q to read these topics in the broker's access list",
		c.cfg.URL, len(refused), of, names, c.cfg.Username)
}

// overflowLog says once when messages were too many to hold.
type overflowLog struct {
	left bool
	lost int
}

func (o *overflowLog) report(s *source) {
	left, lost := s.queue.overflow()
	if left && !o.left {
		s.conn.log.Warn("more messages came at once than max_inflight allows; the broker is asked for the rest later", "max_inflight", s.conn.cfg.MaxInflight)
	}
	o.left = left
	if lost > 0 && o.lost == 0 {
		s.conn.log.Warn("messages came faster than they can be stored and were lost: publish and subscribe with QoS 1, and leave clean_session out", "lost", lost)
	}
	o.lost += lost
}
