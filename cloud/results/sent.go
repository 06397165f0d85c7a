package results

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/connect"
	"millrace/cloud/state"
	message "millrace/sample/result"
)

// The attributes of a target's item. Its partition key is the site, its sort key
// the target.
const (
	attrTurn    = "turn"    // S: random, anew with each put: what the next one's condition is on
	attrVersion = "version" // N: of the message
	attrPeriod  = "period"  // S: the row's, its start
	attrSource  = "source"  // S: what the rule took
	attrHash    = "content" // S: SHA-256 of what the message says
	attrBody    = "body"    // S: the message
	attrSent    = "sent"    // S: when it was sent; not there while that is not known
)

// sending is the last message for a target. It is stored before it is sent, so
// that after a crash the same message is sent again, byte by byte, and a version
// never stands for two contents.
type sending struct {
	turn    string // "" where there is none yet
	version uint64
	period  time.Time
	source  string
	hash    string
	body    string
	done    bool // it is known to have been sent
}

// last reads what was sent to a target; nothing where there is no table yet.
func (p *publisher) last(ctx context.Context, r *Rule) (*sending, error) {
	item, err := p.Table.Get(ctx, r.Site, r.Target)
	if errors.Is(err, state.ErrNoTable) && p.DryRun {
		return &sending{}, nil
	}
	if err != nil || item == nil {
		return &sending{}, err
	}
	s := &sending{turn: item.Text(attrTurn), version: item.Number(attrVersion), source: item.Text(attrSource),
		hash: item.Text(attrHash), body: item.Text(attrBody), done: item.Text(attrSent) != ""}
	if s.period, err = time.Parse(time.RFC3339, item.Text(attrPeriod)); err != nil || s.turn == "" || s.version == 0 {
		return nil, fmt.Errorf("table %s, item %s %s does not read; delete it once a higher version cannot be on its way", p.Table.Name, r.Site, r.Target)
	}
	return s, nil
}

// reserve stores the next message, if nobody has stored one since last was read.
// The error is errQuicker where somebody has.
func (p *publisher) reserve(ctx context.Context, r *Rule, last, next *sending) error {
	return p.put(ctx, r, last.turn, next)
}

// put stores s in place of the item whose turn is seen.
func (p *publisher) put(ctx context.Context, r *Rule, seen string, s *sending) error {
	s.turn = rand.Text()
	item := state.Item{"pk": state.Text(r.Site), "sk": state.Text(r.Target), attrTurn: state.Text(s.turn), attrVersion: state.Number(s.version),
		attrPeriod: state.Text(s.period.UTC().Format(time.RFC3339)), attrSource: state.Text(s.source), attrHash: state.Text(s.hash), attrBody: state.Text(s.body)}
	if s.done {
		item[attrSent] = state.Text(p.Now().UTC().Format(time.RFC3339))
	}
	condition, values := "attribute_not_exists(pk)", state.Item(nil)
	if seen != "" {
		condition, values = "turn = :seen", state.Item{":seen": state.Text(seen)}
	}
	err := p.Table.Put(ctx, item, condition, values)
	if !errors.Is(err, state.ErrCondition) {
		return err
	}
	// An answer may have been lost, and the condition failed on our own put.
	if now, err := p.Table.Get(ctx, r.Site, r.Target); err != nil || now.Text(attrTurn) == s.turn {
		return err
	}
	return errQuicker
}

// sendTimeout bounds one request of SQS.
const sendTimeout = 30 * time.Second

// send sends a message that is stored, and stores that it was sent. Where that
// fails, the same message goes out again with the next run; the mirror refuses
// the second copy as not newer.
func (p *publisher) send(ctx context.Context, r *Rule, s *sending) error {
	limited, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if _, err := p.Queue(r.Queue).SendMessage(limited, &sqs.SendMessageInput{QueueUrl: &r.Queue, MessageBody: &s.body}); err != nil {
		return fmt.Errorf("send version %d to queue %s: %s; the next run sends it again", s.version, r.Queue, connect.Brief(err))
	}
	p.Log.Info("result published", "site", r.Site, "target", r.Target, "version", s.version, "period", s.period.UTC().Format(time.RFC3339))
	sent := *s
	sent.done = true
	err := p.put(ctx, r, s.turn, &sent)
	if errors.Is(err, errQuicker) {
		return nil // another publisher has sent it too, or a newer one
	}
	return err
}

// contentOf is the hash of what a message says, but for what differs each time:
// its version, its id, when it was computed.
func contentOf(m *message.Result, period time.Time, key string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %s %s %q %s %d %d %d %q %q", m.Site, m.Target, m.Value.Kind(), m.Value, m.Unit, m.Quality,
		period.UnixNano(), m.ValidFrom.UnixNano(), m.ValidUntil.UnixNano(), m.Run, key)
	return hex.EncodeToString(h.Sum(nil))
}
