package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
)

// raw is a connection without a library.
type raw struct {
	t testing.TB
	net.Conn
}

func (r *rig) raw() *raw {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	return &raw{t: r.t, Conn: c}
}

func (c *raw) send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// frame makes a frame of a kind, its size included.
func frameOf(kind string, body ...[]byte) []byte {
	b := append([]byte(kind), 0, 0, 0, 0)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

func words(n ...uint32) []byte {
	var b []byte
	for _, x := range n {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func hello() []byte {
	return frameOf("HELF", words(0, 65535, 65535, 0, 0, 0xffffffff))
}

// answer reads one frame; ok is false at the end of the connection.
func (c *raw) answer() (kind string, body []byte, ok bool) {
	c.t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return "", nil, false
	}
	body = make([]byte, binary.LittleEndian.Uint32(head[4:])-8)
	if _, err := io.ReadFull(c, body); err != nil {
		return "", nil, false
	}
	return string(head[:3]), body, true
}

// refused expects an error frame with a code, and the end.
func (c *raw) refused(what string, want ua.StatusCode) {
	c.t.Helper()
	kind, body, ok := c.answer()
	if !ok || kind != "ERR" || ua.StatusCode(binary.LittleEndian.Uint32(body)) != want {
		c.t.Errorf("%s: got %q %x, want ERR %v", what, kind, body, want)
		return
	}
	if _, _, ok := c.answer(); ok {
		c.t.Errorf("%s: the connection stays", what)
	}
}

func null() []byte { return words(0xffffffff) }

// openNone opens a channel without security, and returns its number and token.
func (c *raw) openNone() (channel, token uint32) {
	c.t.Helper()
	c.send(hello())
	if kind, _, ok := c.answer(); !ok || kind != "ACK" {
		c.t.Fatalf("got %q for a Hello", kind)
	}
	c.send(openNone(ua.MessageSecurityModeNone))
	kind, body, ok := c.answer()
	if !ok || kind != "OPN" {
		c.t.Fatalf("got %q for opening a channel", kind)
	}
	return binary.LittleEndian.Uint32(body), 1
}

func openNone(mode ua.MessageSecurityMode) []byte {
	req, err := ua.Encode(&ua.OpenSecureChannelRequest{
		RequestHeader: &ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0)}, SecurityMode: mode, RequestedLifetime: 60_000,
	})
	if err != nil {
		panic(err)
	}
	policy := []byte(ua.SecurityPolicyURINone)
	return frameOf("OPNF", words(0, uint32(len(policy))), policy, null(), null(), words(1, 1), []byte{1, 0, 0xbe, 0x01}, req)
}

func message(channel, token, seq, request uint32, kind string, body []byte) []byte {
	return frameOf(kind, words(channel, token, seq, request), body)
}

// request encodes a request with its type.
func request(t testing.TB, typ uint16, req any) []byte {
	t.Helper()
	b, err := ua.Encode(req)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{1, 0, byte(typ), byte(typ >> 8)}, b...)
}

func TestWhatIsNoOPCUA(t *testing.T) {
	r := start(t, plain(t), nil)
	long := frameOf("HELF", make([]byte, 10_000))
	for _, c := range []struct {
		name string
		send []byte
		want ua.StatusCode
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"), ua.StatusBadTCPMessageTypeInvalid},
		{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), ua.StatusBadTCPMessageTypeInvalid},
		{"a message before Hello", message(1, 1, 1, 1, "MSGF", []byte("x")), ua.StatusBadTCPMessageTypeInvalid},
		{"a long Hello", long, ua.StatusBadTCPMessageTooLarge},
		{"a Hello of 4 GiB", append([]byte("HELF"), words(math.MaxUint32)...), ua.StatusBadTCPMessageTooLarge},
		{"a Hello of 3 bytes", append([]byte("HELF"), words(3)...), ua.StatusBadTCPMessageTooLarge},
		{"a Hello whose URL ends early", frameOf("HELF", words(0, 65535, 65535, 0, 0, 4000)), ua.StatusBadTCPEndpointURLInvalid},
		{"a Hello with no buffers", frameOf("HELF", words(0, 1, 1, 0, 0, 0xffffffff)), ua.StatusBadConnectionRejected},
	} {
		conn := r.raw()
		conn.send(c.send)
		conn.refused(c.name, c.want)
	}
	if v := value(t, r.client(), "ns=1;s=north/meter1/state"); v.Status != ua.StatusOK {
		t.Errorf("after that: %v", v.Status)
	}
}

func TestWhatIsNoChannel(t *testing.T) {
	r := start(t, secure(t), nil)
	policy := []byte(ua.SecurityPolicyURIBasic256Sha256)
	uri := func(p []byte) []byte { return append(words(0, uint32(len(p))), p...) }
	blob := func(b []byte) []byte { return append(words(uint32(len(b))), b...) }
	own := certificates(t).own.Cert.Raw
	client := certificates(t).client.Cert.Raw
	thumb := thumbprintOf(own)
	for _, c := range []struct {
		name string
		send []byte
		want ua.StatusCode
	}{
		{"policy None in mode Sign", openNone(ua.MessageSecurityModeSign), ua.StatusBadSecurityModeRejected},
		{"an unknown policy", frameOf("OPNF", uri([]byte("http://opcfoundation.org/UA/SecurityPolicy#Basic128Rsa15")), null(), null()), ua.StatusBadSecurityPolicyRejected},
		{"no thumbprint", frameOf("OPNF", uri(policy), blob(client), null(), make([]byte, 256)), ua.StatusBadCertificateInvalid},
		{"no certificate", frameOf("OPNF", uri(policy), null(), blob(thumb), make([]byte, 256)), ua.StatusBadCertificateInvalid},
		{"a certificate of rubbish", frameOf("OPNF", uri(policy), blob([]byte("rubbish")), blob(thumb), make([]byte, 256)), ua.StatusBadCertificateInvalid},
		{"our own certificate, which is not in the list", frameOf("OPNF", uri(policy), blob(own), blob(thumb), make([]byte, 256)), ua.StatusBadCertificateUntrusted},
		{"a trusted certificate and rubbish", frameOf("OPNF", uri(policy), blob(client), blob(thumb), make([]byte, 256)), ua.StatusBadSecurityChecksFailed},
		{"a trusted certificate and nothing", frameOf("OPNF", uri(policy), blob(client), blob(thumb)), ua.StatusBadSecurityChecksFailed},
		{"more to decrypt than any request has", frameOf("OPNF", uri(policy), blob(client), blob(thumb), make([]byte, 256*17)), ua.StatusBadSecurityChecksFailed},
		{"pieces", frameOf("OPNC", uri(policy), blob(client), blob(thumb), make([]byte, 256)), ua.StatusBadTCPInternalError},
		{"one that ends early", frameOf("OPNF", words(0, 4000)), ua.StatusBadTCPInternalError},
		{"a message before there is one", message(1, 1, 1, 1, "MSGF", make([]byte, 30)), ua.StatusBadSecureChannelIDInvalid},
	} {
		conn := r.raw()
		conn.send(hello())
		conn.answer()
		conn.send(c.send)
		conn.refused(c.name, c.want)
	}
}

func TestWhatIsNoMessage(t *testing.T) {
	r := start(t, plain(t), nil)
	get := request(t, 428, &ua.GetEndpointsRequest{RequestHeader: &ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0)}})
	chunks := func(n int, seq, size int) func(ch, tok uint32) []byte {
		return func(ch, tok uint32) []byte {
			var all []byte
			for i := range n {
				all = append(all, message(ch, tok, uint32(seq+i), 2, "MSGC", make([]byte, size))...)
			}
			return all
		}
	}
	for _, c := range []struct {
		name string
		send func(channel, token uint32) []byte
		want ua.StatusCode
	}{
		{"another channel", func(ch, tok uint32) []byte { return message(ch+1, tok, 2, 2, "MSGF", get) }, ua.StatusBadTCPSecureChannelUnknown},
		{"another token", func(ch, tok uint32) []byte { return message(ch, tok+1, 2, 2, "MSGF", get) }, ua.StatusBadSecureChannelTokenUnknown},
		{"a number that falls", func(ch, tok uint32) []byte { return message(ch, tok, 0, 2, "MSGF", get) }, ua.StatusBadSecurityChecksFailed},
		{"a number twice", func(ch, tok uint32) []byte { return message(ch, tok, 1, 2, "MSGF", get) }, ua.StatusBadSecurityChecksFailed},
		{"a message without an end", chunks(maxChunks+1, 2, 10), ua.StatusBadTCPMessageTooLarge},
		{"a message of a stranger beyond his limit", chunks(3, 2, 30_000), ua.StatusBadTCPMessageTooLarge},
		{"two messages mixed", func(ch, tok uint32) []byte {
			return append(message(ch, tok, 2, 2, "MSGC", get[:4]), message(ch, tok, 3, 3, "MSGC", get[:4])...)
		}, ua.StatusBadTCPInternalError},
		{"a message whose middle is taken out on the way", func(ch, tok uint32) []byte {
			return append(message(ch, tok, 2, 2, "MSGC", get[:4]), message(ch, tok, 4, 2, "MSGF", get[4:])...)
		}, ua.StatusBadSecurityChecksFailed},
		{"a chunk of no kind", func(ch, tok uint32) []byte { return message(ch, tok, 2, 2, "MSGX", get) }, ua.StatusBadTCPMessageTypeInvalid},
		{"a chunk beyond the buffer", func(ch, tok uint32) []byte { return append([]byte("MSGF"), words(70_000)...) }, ua.StatusBadTCPMessageTooLarge},
		{"rubbish", func(ch, tok uint32) []byte { return message(ch, tok, 2, 2, "MSGF", bytes.Repeat([]byte{0xff}, 40)) }, ua.StatusBadDecodingError},
		{"a second Hello", func(_, _ uint32) []byte { return hello() }, ua.StatusBadTCPMessageTypeInvalid},
		{"a renewal of another channel", func(ch, _ uint32) []byte { return openNone(ua.MessageSecurityModeNone) }, ua.StatusBadSecurityChecksFailed},
	} {
		conn := r.raw()
		ch, tok := conn.openNone()
		conn.send(c.send(ch, tok))
		conn.refused(c.name, c.want)
	}
	// What was given up is forgotten, and the next message counts.
	conn := r.raw()
	ch, tok := conn.openNone()
	conn.send(message(ch, tok, 2, 2, "MSGC", []byte("half of a")))
	conn.send(message(ch, tok, 3, 2, "MSGA", words(0, 0xffffffff)))
	conn.send(message(ch, tok, 5, 3, "MSGF", get)) // and some clients leave numbers out
	if kind, _, ok := conn.answer(); !ok || kind != "MSG" {
		t.Errorf("after a message that was given up: %q", kind)
	}
	conn.send(message(ch, tok, 6, 4, "CLOF", request(t, 452, &ua.CloseSecureChannelRequest{RequestHeader: &ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0)}})))
	if _, _, ok := conn.answer(); ok {
		t.Error("the channel stays open")
	}
}

// Services that are not there are refused by a fault with the request's handle.
func TestUnknownServicesAreFaults(t *testing.T) {
	r := start(t, plain(t), nil)
	conn := r.raw()
	ch, tok := conn.openNone()
	header := &ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0), RequestHandle: 4711}
	for i, typ := range []uint16{488, 494, 500, 506, 664, 700, 712, 615, 775, 841, 437, 12208, 9999} {
		conn.send(message(ch, tok, uint32(2+i), uint32(2+i), "MSGF", request(t, typ, header)))
		_, body, ok := conn.answer()
		if !ok {
			t.Fatalf("service %d ends the connection", typ)
		}
		d := newDecoder(body[16:])
		if what := d.expandedNodeID(); what.NodeID.IntID() != 397 {
			t.Fatalf("service %d is answered by %v", typ, what)
		}
		d.time()
		if handle, code := d.u32(), ua.StatusCode(d.u32()); handle != 4711 || code != ua.StatusBadServiceUnsupported {
			t.Errorf("service %d: handle %d, %v", typ, handle, code)
		}
	}
}

// Who connects and says nothing, or says it too slowly, is cut off.
func TestSlowClientsAreCutOff(t *testing.T) {
	r := start(t, plain(t), func(r *rig) {
		r.times = times{open: 50 * time.Millisecond, stranger: 100 * time.Millisecond, chunk: 50 * time.Millisecond}
	})
	silent, slow, half, idle := r.raw(), r.raw(), r.raw(), r.raw()
	idle.openNone() // and no session
	slow.send(hello()[:5])
	ch, tok := half.openNone()
	half.send(message(ch, tok, 2, 2, "MSGF", make([]byte, 100))[:50])
	for name, c := range map[string]*raw{"silent": silent, "slow": slow, "half": half, "idle": idle} {
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Errorf("the %s one is not cut off: %v", name, err)
		}
	}
	if v := value(t, r.client(), "ns=1;s=north/meter1/state"); v.Status != ua.StatusOK {
		t.Errorf("after that: %v", v.Status)
	}
	// Who is logged in may be silent until the channel is over.
	c := r.offline()
	if got, want := c.until(), c.since.Add(r.times.stranger); !got.Equal(want) {
		t.Errorf("without a session: until %s, want %s", got, want)
	}
	if c.active.Store(true); !c.until().Equal(c.ch.expires()) {
		t.Errorf("with a session: until %s, want %s", c.until(), c.ch.expires())
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// A message that names a huge array costs its own bytes and no more.
func TestHugeArraysCostNothing(t *testing.T) {
	var before, after runtime.MemStats
	head, err := ua.Encode(&ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0)})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&before)
	for _, n := range []uint32{math.MaxInt32, 1 << 24, maxElements + 1, 0xfffffffe} {
		body := append(append(bytes.Clone(head), words(0, 0, 0)...), words(n)...)
		if err := newDecoder(body).decodeInto(new(ua.ReadRequest)); err == nil {
			t.Errorf("an array of %d is taken", n)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	// A value within a value within …
	deep := append(words(1), []byte{0, 1, 13, 0, 0, 0}...)
	deep = append(deep, words(0xffffffff)...)
	deep = append(deep, ua.DataValueValue)
	deep = append(deep, bytes.Repeat([]byte{byte(ua.TypeIDVariant)}, 1<<16)...)
	if err := newDecoder(append(bytes.Clone(head), deep...)).decodeInto(new(ua.WriteRequest)); err == nil || !strings.Contains(err.Error(), "within") {
		t.Errorf("got %v", err)
	}
}

// nowhere is a connection whose answers nobody reads.
type nowhere struct{ net.Conn }

func (nowhere) Write(b []byte) (int, error)      { return len(b), nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }
func (nowhere) Close() error                     { return nil }
func (nowhere) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// offline is a connection with a channel and no client.
func (r *rig) offline() *conn {
	r.t.Helper()
	c := newConn(r.Server, nowhere{})
	c.ctx = context.Background()
	c.wire.limits = limits{receive: bufferSize, send: bufferSize}
	if err := c.ch.open(frame{kind: "OPN", last: 'F', raw: openNone(ua.MessageSecurityModeNone)}); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// FuzzRequests has a logged-in client send whatever; the server answers or cuts
// it off, and neither panics nor grows.
func FuzzRequests(f *testing.F) {
	r := start(f, plain(f), nil)
	c := r.offline()
	s := &session{srv: r.Server, token: make([]byte, 4), timeout: time.Hour, activated: true, conn: c, seen: time.Now(), over: make(chan struct{}), wake: make(chan struct{}, 1)}
	if err := r.sessions.add(s, 10, time.Now()); err != nil {
		f.Fatal(err)
	}
	h := &ua.RequestHeader{AuthenticationToken: ua.NewByteStringNodeID(0, s.token), RequestHandle: 1}
	node := ua.NewStringNodeID(1, "north/meter1/power")
	read := &ua.ReadValueID{NodeID: node, AttributeID: 13, DataEncoding: &ua.QualifiedName{}}
	filter := ua.NewExtensionObject(&ua.DataChangeFilter{Trigger: 1, DeadbandType: 1, DeadbandValue: 1})
	params := &ua.MonitoringParameters{ClientHandle: 1, SamplingInterval: 100, Filter: filter, QueueSize: 10, DiscardOldest: true}
	for typ, req := range map[uint16]any{
		422: &ua.FindServersRequest{RequestHeader: h}, 428: &ua.GetEndpointsRequest{RequestHeader: h, ProfileURIs: []string{"x"}},
		461: &ua.CreateSessionRequest{RequestHeader: h, ClientDescription: &ua.ApplicationDescription{ApplicationName: ua.NewLocalizedText("x")}},
		467: &ua.ActivateSessionRequest{RequestHeader: h, ClientSignature: &ua.SignatureData{}, UserIdentityToken: ua.NewExtensionObject(&ua.UserNameIdentityToken{UserName: "x"}), UserTokenSignature: &ua.SignatureData{}},
		631: &ua.ReadRequest{RequestHeader: h, NodesToRead: []*ua.ReadValueID{read}},
		527: &ua.BrowseRequest{RequestHeader: h, View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, RequestedMaxReferencesPerNode: 1, NodesToBrowse: []*ua.BrowseDescription{{NodeID: ua.NewTwoByteNodeID(85), BrowseDirection: 2, ReferenceTypeID: ua.NewTwoByteNodeID(33), IncludeSubtypes: true, ResultMask: 63}}},
		533: &ua.BrowseNextRequest{RequestHeader: h, ContinuationPoints: [][]byte{{1}}},
		554: &ua.TranslateBrowsePathsToNodeIDsRequest{RequestHeader: h, BrowsePaths: []*ua.BrowsePath{{StartingNode: ua.NewTwoByteNodeID(85), RelativePath: &ua.RelativePath{Elements: []*ua.RelativePathElement{{ReferenceTypeID: ua.NewTwoByteNodeID(33), IncludeSubtypes: true, TargetName: &ua.QualifiedName{NamespaceIndex: 1, Name: "Live"}}}}}}},
		673: &ua.WriteRequest{RequestHeader: h, NodesToWrite: []*ua.WriteValue{{NodeID: node, AttributeID: 13, Value: &ua.DataValue{EncodingMask: 1, Value: ua.MustVariant([]string{"a", "b"})}}}},
		787: &ua.CreateSubscriptionRequest{RequestHeader: h, RequestedPublishingInterval: 1000, RequestedLifetimeCount: 10, RequestedMaxKeepAliveCount: 3, PublishingEnabled: true},
		751: &ua.CreateMonitoredItemsRequest{RequestHeader: h, SubscriptionID: 1, ItemsToCreate: []*ua.MonitoredItemCreateRequest{{ItemToMonitor: read, MonitoringMode: 2, RequestedParameters: params}}},
		763: &ua.ModifyMonitoredItemsRequest{RequestHeader: h, SubscriptionID: 1, ItemsToModify: []*ua.MonitoredItemModifyRequest{{MonitoredItemID: 1, RequestedParameters: params}}},
		769: &ua.SetMonitoringModeRequest{RequestHeader: h, SubscriptionID: 1, MonitoringMode: 1, MonitoredItemIDs: []uint32{1}},
		781: &ua.DeleteMonitoredItemsRequest{RequestHeader: h, SubscriptionID: 1, MonitoredItemIDs: []uint32{1}},
		826: &ua.PublishRequest{RequestHeader: h, SubscriptionAcknowledgements: []*ua.SubscriptionAcknowledgement{{SubscriptionID: 1, SequenceNumber: 1}}},
		832: &ua.RepublishRequest{RequestHeader: h, SubscriptionID: 1, RetransmitSequenceNumber: 1},
		847: &ua.DeleteSubscriptionsRequest{RequestHeader: h, SubscriptionIDs: []uint32{1}},
	} {
		f.Add(request(f, typ, req))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxMessage {
			return
		}
		// Errors end the connection, or not; either is right.
		_ = c.serve(1, b)
		s.mu.Lock()
		n := len(s.publishes)
		s.mu.Unlock()
		if n > maxPublishes {
			t.Errorf("%d requests wait", n)
		}
	})
}

func TestSequenceNumbers(t *testing.T) {
	header := func(n uint32) []byte { return words(n, 1) }
	for _, c := range []struct {
		before, next uint32
		ok           bool
	}{
		{5, 6, true}, {5, 9, true}, {5, 5, false}, {5, 4, false}, {0, 0, false},
		{seqLast, 1, true}, {math.MaxUint32, 1, true}, {math.MaxUint32, 0, true}, {math.MaxUint32, seqWrap, false}, {seqLast - 1, 1, false}, {math.MaxUint32, math.MaxUint32, false},
	} {
		ch := &channel{lastSeq: c.before, seen: true}
		if _, _, err := ch.sequence(header(c.next)); (err == nil) != c.ok {
			t.Errorf("%d after %d: %v", c.next, c.before, err)
		}
	}
}

// Nothing is taken under keys whose time is over.
func TestTokensExpire(t *testing.T) {
	c := start(t, plain(t), nil).offline()
	raw := func(seq uint32) []byte { return message(c.ch.id, 1, seq, 2, "MSGF", []byte("body")) }
	if _, got, whole, err := c.ch.read(frame{kind: "MSG", last: 'F', raw: raw(2)}); err != nil || !whole || string(got) != "body" {
		t.Errorf("%q, %v", got, err)
	}
	c.ch.tokens[0].expires = time.Now().Add(-time.Millisecond)
	var we *wireError
	if _, _, _, err := c.ch.read(frame{kind: "MSG", last: 'F', raw: raw(3)}); !errors.As(err, &we) || we.code != ua.StatusBadSecureChannelTokenUnknown {
		t.Errorf("got %v", err)
	}
}

// FuzzFrames has a stranger send whatever as a frame.
func FuzzFrames(f *testing.F) {
	r := start(f, secure(f), nil)
	own := certificates(f).own.Cert.Raw
	policy := []byte(ua.SecurityPolicyURIBasic256Sha256)
	f.Add(openNone(ua.MessageSecurityModeNone))
	f.Add(message(1, 1, 2, 2, "MSGF", []byte{1, 0, 0xac, 1}))
	f.Add(frameOf("OPNF", words(0, uint32(len(policy))), policy, words(uint32(len(own))), own, words(20), thumbprintOf(own), make([]byte, 256)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 12 || len(b) > bufferSize {
			return
		}
		for _, opened := range []bool{false, true} {
			c := newConn(r.Server, nowhere{})
			c.wire.limits = limits{receive: bufferSize, send: bufferSize}
			if opened {
				if err := c.ch.open(frame{kind: "OPN", last: 'F', raw: openNone(ua.MessageSecurityModeNone)}); err != nil {
					t.Fatal(err)
				}
			}
			// Errors end the connection, or not; either is right.
			_ = c.ch.open(frame{kind: "OPN", last: b[3], raw: b})
			_, _, _, _ = c.ch.read(frame{kind: "MSG", last: b[3], raw: b})
		}
	})
}
