package opcua

import (
	"context"
	"fmt"
	"sync"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// writer implements protocols.Writer with a session of its own, which is
// opened at the first use and again after it was lost.
type writer struct {
	conn   *connection
	health protocols.Health

	mu         sync.Mutex
	client     *link
	namespaces []string
	lost       chan struct{}
	lostOnce   *sync.Once
}

// session returns a session that is up. Callers hold w.mu.
func (w *writer) session(ctx context.Context) error {
	if w.client != nil {
		select {
		case <-w.lost:
			w.drop()
		default:
			return nil
		}
	}
	lost, once := make(chan struct{}), new(sync.Once)
	client, err := w.conn.dial(ctx, func() { once.Do(func() { close(lost) }) })
	if err != nil {
		w.health.Down(err)
		return err
	}
	namespaces, err := client.NamespaceArray(ctx)
	if err != nil {
		w.conn.hangUp(client)
		return w.conn.explain("read the namespaces of", err)
	}
	w.client, w.namespaces, w.lost, w.lostOnce = client, namespaces, lost, once
	w.health.Up()
	return nil
}

func (w *writer) drop() {
	if w.client != nil {
		w.conn.hangUp(w.client)
		w.client = nil
	}
}

// Write implements protocols.Writer. It reads the node's type and access level
// first and refuses, before the wire, what does not fit exactly.
func (w *writer) Write(ctx context.Context, target, _ string, v sample.Value) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, err := parseAddress(target)
	if err != nil {
		return err
	}
	if err := w.session(ctx); err != nil {
		return err
	}
	id, err := a.resolve(w.namespaces)
	if err != nil {
		return err
	}
	resp, err := w.client.Read(ctx, &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither, NodesToRead: []*ua.ReadValueID{
		{NodeID: id, AttributeID: ua.AttributeIDUserAccessLevel}, {NodeID: id, AttributeID: ua.AttributeIDValue}, {NodeID: id, AttributeID: ua.AttributeIDDataType},
	}})
	if err != nil {
		w.drop()
		return w.conn.explain("read node "+target+" of", err)
	}
	if s := resp.Results[0].Status; s == ua.StatusOK && resp.Results[0].Value != nil {
		if level, ok := resp.Results[0].Value.Value().(byte); ok && level&byte(ua.AccessLevelTypeCurrentWrite) == 0 {
			return fmt.Errorf("node %s is not writable for our user: give it the right on the server", target)
		}
	}
	typ, err := builtIn(target, resp.Results[1], resp.Results[2])
	if err != nil {
		return err
	}
	variant, err := toVariant(v, typ)
	if err != nil {
		return fmt.Errorf("node %s: %w", target, err)
	}
	answer, err := w.client.Write(ctx, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
		NodeID: id, AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: variant},
	}}})
	if err != nil {
		w.drop()
		return w.conn.explain("write node "+target+" of", err)
	}
	if answer.Results[0] != ua.StatusOK {
		return nodeError(target, answer.Results[0])
	}
	return nil
}

// builtIn is the type of a node's value: from the value that stands there, or
// from its DataType where that is a built-in type.
func builtIn(target string, value, dataType *ua.DataValue) (ua.TypeID, error) {
	if uint32(value.Status)&0x80000000 != 0 {
		return 0, nodeError(target, value.Status)
	}
	if value.Value != nil && value.Value.Value() != nil {
		return value.Value.Type(), nil
	}
	if dataType.Value != nil {
		if id, ok := dataType.Value.Value().(*ua.NodeID); ok && id.Namespace() == 0 && id.IntID() >= 1 && id.IntID() <= 25 {
			return ua.TypeID(id.IntID()), nil // OPC 10000-6, 5.1.2: built-in types have their own numbers
		}
	}
	return 0, fmt.Errorf("node %s has no value and no built-in type, so nothing is written", target)
}

// Read implements protocols.Writer.
func (w *writer) Read(ctx context.Context, target, _ string) (sample.Value, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, err := parseAddress(target)
	if err != nil {
		return sample.Value{}, err
	}
	if err := w.session(ctx); err != nil {
		return sample.Value{}, err
	}
	dv, err := w.conn.readOne(ctx, w.client, &a, w.namespaces)
	if err != nil {
		return sample.Value{}, err
	}
	return convert(dv.Value)
}

// Close implements protocols.Writer.
func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop()
	return nil
}
