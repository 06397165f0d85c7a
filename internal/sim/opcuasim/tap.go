package opcuasim

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	// frameHeader is message type 3 bytes, chunk type 1, size 4: OPC 10000-6,
	// 7.1.2.2.
	frameHeader = 8
	// symmetricHeader is what follows in a MSG of security None: secure channel
	// id, token id, sequence number, request id, 4 bytes each: OPC 10000-6, 6.7.2.
	symmetricHeader = 16
	maxFrame        = 16 << 20
)

// readFrame reads one message chunk with its header.
func readFrame(r io.Reader) ([]byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if size < frameHeader || size > maxFrame {
		return nil, fmt.Errorf("message of %d bytes", size)
	}
	frame := make([]byte, size)
	copy(frame, head[:])
	_, err := io.ReadFull(r, frame[frameHeader:])
	return frame, err
}

// tap follows one connection: which client handle stands for which node, and
// which values are published.
type tap struct {
	sent func(Sent)

	mu      sync.Mutex
	handles map[uint32]string
	in, out assembly
}

// assembly joins the chunks of a message by its request id.
type assembly map[uint32][]byte

// add takes a chunk and returns a whole message's body, or nil.
func (a *assembly) add(frame []byte) []byte {
	if string(frame[:3]) != "MSG" || len(frame) < frameHeader+symmetricHeader {
		return nil
	}
	if *a == nil {
		*a = assembly{}
	}
	id := binary.LittleEndian.Uint32(frame[frameHeader+12:])
	body := append((*a)[id], frame[frameHeader+symmetricHeader:]...)
	switch frame[3] {
	case 'C':
		(*a)[id] = body
		return nil
	case 'A':
		delete(*a, id)
		return nil
	}
	delete(*a, id)
	return body
}

func (t *tap) request(frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	body := t.in.add(frame)
	if body == nil {
		return
	}
	_, message, err := ua.DecodeService(body)
	if err != nil {
		return // the server will say so
	}
	if m, ok := message.(*ua.CreateMonitoredItemsRequest); ok {
		for _, item := range m.ItemsToCreate {
			t.handles[item.RequestedParameters.ClientHandle] = item.ItemToMonitor.NodeID.String()
		}
	}
}

func (t *tap) response(frame []byte, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	body := t.out.add(frame)
	if body == nil || t.sent == nil {
		return
	}
	_, message, err := ua.DecodeService(body)
	if err != nil {
		return
	}
	p, ok := message.(*ua.PublishResponse)
	if !ok || p.NotificationMessage == nil {
		return
	}
	for _, data := range p.NotificationMessage.NotificationData {
		change, ok := data.Value.(*ua.DataChangeNotification)
		if !ok {
			continue
		}
		for _, item := range change.MonitoredItems {
			out := Sent{Node: t.handles[item.ClientHandle], Status: uint32(item.Value.Status), SourceTime: item.Value.SourceTimestamp, At: at}
			if item.Value.Value != nil {
				out.Value = item.Value.Value.Value()
			}
			t.sent(out)
		}
	}
}
