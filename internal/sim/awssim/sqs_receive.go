package awssim

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// received is a message as ReceiveMessage answers it.
type received struct {
	MessageID              string `json:"MessageId"`
	ReceiptHandle          string
	MD5OfBody              string
	Body                   string
	Attributes             map[string]string         `json:",omitempty"`
	MD5OfMessageAttributes string                    `json:",omitempty"`
	MessageAttributes      map[string]attributeValue `json:",omitempty"`
}

func (q *queues) receive(c *call) (any, *apiError) {
	var in struct {
		QueueURL                    string `json:"QueueUrl"`
		MaxNumberOfMessages         *int
		VisibilityTimeout           *int
		WaitTimeSeconds             *int
		AttributeNames              []string
		MessageSystemAttributeNames []string
		MessageAttributeNames       []string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	most := 1
	if in.MaxNumberOfMessages != nil {
		if most = *in.MaxNumberOfMessages; most < 1 || most > maxSQSEntries {
			return nil, invalidParameter("Value %d for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if provided.", most)
		}
	}
	qu.mu.Lock()
	visibility, wait := qu.seconds("VisibilityTimeout"), qu.seconds("ReceiveMessageWaitTimeSeconds")
	qu.mu.Unlock()
	if in.VisibilityTimeout != nil {
		if *in.VisibilityTimeout < 0 || *in.VisibilityTimeout > 43200 {
			return nil, invalidParameter("Value %d for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and 43200.", *in.VisibilityTimeout)
		}
		visibility = time.Duration(*in.VisibilityTimeout) * time.Second
	}
	if in.WaitTimeSeconds != nil {
		if *in.WaitTimeSeconds < 0 || *in.WaitTimeSeconds > 20 {
			return nil, invalidParameter("Value %d for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20, if provided.", *in.WaitTimeSeconds)
		}
		wait = time.Duration(*in.WaitTimeSeconds) * time.Second
	}
	out := struct {
		Messages []received `json:",omitempty"`
	}{}
	for _, m := range q.await(c, qu, most, visibility, wait) {
		out.Messages = append(out.Messages, m.answer(slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames), in.MessageAttributeNames))
	}
	return out, nil
}

// await takes messages, waiting for the first one.
func (q *queues) await(c *call, qu *queue, most int, visibility, wait time.Duration) []*message {
	deadline := time.Now().Add(wait)
	for {
		qu.mu.Lock()
		changed := qu.changed
		qu.mu.Unlock()
		to, limit := q.deadLetters(qu)
		if to == nil {
			limit = 0
		}
		taken, dead, next := qu.take(most, visibility, limit)
		if len(dead) > 0 {
			to.bury(dead, qu.attribute("QueueArn"))
		}
		left := time.Until(deadline)
		if len(taken) > 0 || left <= 0 {
			return taken
		}
		if !next.IsZero() {
			left = min(left, max(time.Until(next), time.Millisecond))
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-changed:
		case <-c.ctx.Done():
		}
		t.Stop()
		if c.ctx.Err() != nil {
			return nil
		}
	}
}

// answer keeps the attributes that were asked for.
func (m *message) answer(system, attrs []string) received {
	out := received{MessageID: m.id, ReceiptHandle: m.handle, MD5OfBody: m.md5, Body: m.body}
	all := map[string]string{
		"SenderId":                         account,
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"ApproximateReceiveCount":          strconv.Itoa(m.receives),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.firstReceived.UnixMilli(), 10),
		"MessageGroupId":                   m.group,
		"MessageDeduplicationId":           m.dedup,
		"SequenceNumber":                   m.seq,
		"DeadLetterQueueSourceArn":         m.source,
	}
	for name, v := range all {
		if v == "" || !slices.Contains(system, "All") && !slices.Contains(system, name) {
			continue
		}
		if out.Attributes == nil {
			out.Attributes = map[string]string{}
		}
		out.Attributes[name] = v
	}
	for name, v := range m.attrs {
		if !slices.ContainsFunc(attrs, func(want string) bool {
			prefix, wild := strings.CutSuffix(want, "*")
			return want == "All" || want == name || wild && strings.HasPrefix(name, strings.TrimSuffix(prefix, "."))
		}) {
			continue
		}
		if out.MessageAttributes == nil {
			out.MessageAttributes = map[string]attributeValue{}
		}
		out.MessageAttributes[name] = v
	}
	out.MD5OfMessageAttributes = md5Attributes(out.MessageAttributes)
	return out
}

// handleEntry is an entry of DeleteMessage(Batch) and ChangeMessageVisibility(Batch).
type handleEntry struct {
	ID                string `json:"Id"`
	ReceiptHandle     string
	VisibilityTimeout *int
}

func (e *handleEntry) apply(action string, qu *queue) *apiError {
	if strings.HasPrefix(action, "Delete") {
		return qu.remove(e.ReceiptHandle)
	}
	if e.VisibilityTimeout == nil || *e.VisibilityTimeout < 0 || *e.VisibilityTimeout > 43200 {
		return invalidParameter("VisibilityTimeout must be between 0 and 43200.")
	}
	return qu.show(e.ReceiptHandle, time.Duration(*e.VisibilityTimeout)*time.Second)
}

func (q *queues) one(c *call) (any, *apiError) {
	var in struct {
		QueueURL string `json:"QueueUrl"`
		handleEntry
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	if err := in.apply(c.action, qu); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

func (q *queues) batch(c *call) (any, *apiError) {
	var in struct {
		QueueURL string `json:"QueueUrl"`
		Entries  []handleEntry
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(in.Entries))
	for i := range in.Entries {
		ids[i] = in.Entries[i].ID
	}
	if err := checkBatch(ids); err != nil {
		return nil, err
	}
	type done struct {
		ID string `json:"Id"`
	}
	out := struct {
		Successful []done
		Failed     []batchFault `json:",omitempty"`
	}{Successful: []done{}}
	for i := range in.Entries {
		e := &in.Entries[i]
		if c.partial() {
			out.Failed = append(out.Failed, batchFault{e.ID, "InternalError", "The entry could not be handled.", false})
			continue
		}
		if fault := e.apply(c.action, qu); fault != nil {
			out.Failed = append(out.Failed, batchFault{e.ID, fault.code, fault.message, true})
			continue
		}
		out.Successful = append(out.Successful, done{e.ID})
	}
	return out, nil
}
