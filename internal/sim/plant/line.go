package plant

import (
	"fmt"
	"strings"
	"time"

	"millrace/internal/sim/opcuasim"
	"millrace/internal/sim/truth"
	"millrace/sample"
)

// line is the plant's OPC UA server. What its clients receive is read from the
// wire, behind whatever the server's queues drop or join.
type line struct {
	*opcuasim.Server
	site string
	tags []*Tag
	log  *truth.Log
}

func startLine(site string, tags []*Tag, log *truth.Log) (*line, error) {
	l := &line{site: site, tags: tags, log: log}
	s, err := opcuasim.Start(opcuasim.Options{OnSent: l.sent})
	if err != nil {
		return nil, fmt.Errorf("simulated line: %w", err)
	}
	l.Server = s
	for _, t := range tags {
		t.Address, err = s.Add(t.Name, t.native(t.next()))
		if err != nil {
			return nil, fmt.Errorf("simulated line: node %s: %w", t.Name, err)
		}
	}
	return l, nil
}

// step moves every node to its next value.
func (l *line) step() {
	now := l.log.Now().UTC().Truncate(time.Millisecond)
	for _, t := range l.tags {
		l.Set(t.Name, t.native(t.next()), now)
	}
}

// native is a value in the node's own type.
func (t *Tag) native(v sample.Value) any {
	switch t.Type {
	case "double":
		return v.Float()
	case "float":
		return float32(v.Float())
	case "int32":
		return int32(v.Int())
	case "int64":
		return v.Int()
	case "boolean":
		return v.Bool()
	}
	return v.Str()
}

// sent logs a value as it leaves for the gateway.
func (l *line) sent(s opcuasim.Sent) {
	_, name, _ := strings.Cut(s.Node, ";s=")
	var v sample.Value
	switch x := s.Value.(type) {
	case float64:
		v = sample.FloatValue(x)
	case float32:
		v = sample.FloatValue(float64(x))
	case int32:
		v = sample.IntValue(int64(x))
	case int64:
		v = sample.IntValue(x)
	case bool:
		v = sample.BoolValue(x)
	case string:
		v = sample.StringValue(x)
	default:
		return // the watchdog's own node
	}
	key := ""
	if !s.SourceTime.IsZero() {
		key = truth.SourceKey(s.SourceTime.UnixNano())
	}
	l.log.Sent(l.site+"/"+name, truth.Event{Value: v, From: s.At, To: s.At, Key: key})
}
