package opcua

import (
	"bytes"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/awcullen/opcua/server"
	peer "github.com/awcullen/opcua/ua"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"

	"millrace/sample"
)

// forger sits between a client and a server. It passes everything on until a
// client opens a secure channel; that it answers by itself, with a certificate
// of its own, and notes whether it can read the next thing that the client
// sends. It asks for a renewal of the channel at once.
type forger struct {
	t     testing.TB
	own   *authority // its certificate
	url   string
	up    string        // address of the real server
	read  chan []byte   // what it could decrypt
	ended chan struct{} // closed when a client that was answered hangs up
}

func startForger(t testing.TB, up string, own *authority) *forger {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{t: t, own: own, url: "opc.tcp://" + l.Addr().String(), up: strings.TrimPrefix(up, "opc.tcp://"), read: make(chan []byte, 1), ended: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *forger) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", f.up)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(client, server) }()
	for forged := false; ; {
		frame, err := readTestFrame(client)
		if err != nil {
			if forged {
				close(f.ended)
			}
			return
		}
		policy, certificate, head := openedWith(frame)
		if policy != ua.SecurityPolicyURIBasic256Sha256 {
			if !forged {
				_, _ = server.Write(frame)
			}
			continue
		}
		clientCert, err := uapolicy.ParseCertificate(certificate)
		if err != nil {
			return
		}
		algo, err := uapolicy.Asymmetric(policy, f.own.key, clientCert.PublicKey.(*rsa.PublicKey))
		if err != nil {
			return
		}
		if forged {
			if plain, err := algo.Decrypt(frame[head:]); err == nil {
				f.read <- plain
			}
			return
		}
		forged = true
		_, _ = client.Write(f.answer(algo, certificate))
	}
}

// answer is the answer to the first request on a channel, whose number is
// known although the request cannot be read.
func (f *forger) answer(algo *uapolicy.EncryptionAlgorithm, client []byte) []byte {
	var b []byte
	text := func(s []byte) { b = append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...) }
	b = append(b, "OPNF\x00\x00\x00\x00\x01\x00\x00\x00"...)
	text([]byte(ua.SecurityPolicyURIBasic256Sha256))
	text(f.own.cert.Raw)
	text(uapolicy.Thumbprint(client))
	head := len(b)
	b = append(b, 1, 0, 0, 0, 1, 0, 0, 0) // sequence and request
	body, err := ua.Encode(&ua.OpenSecureChannelResponse{
		ResponseHeader: &ua.ResponseHeader{Timestamp: time.Now(), RequestHandle: 1, ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil)},
		SecurityToken:  &ua.ChannelSecurityToken{ChannelID: 1, TokenID: 1, CreatedAt: time.Now()},
		ServerNonce:    bytes.Repeat([]byte{7}, 32),
	})
	if err != nil {
		f.t.Error(err)
	}
	id, err := ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(&ua.OpenSecureChannelResponse{})).Encode()
	if err != nil {
		f.t.Error(err)
	}
	b = append(append(b, id...), body...)
	pad := 0
	if rest := (len(b) - head + algo.SignatureLength() + 1) % algo.PlaintextBlockSize(); rest > 0 {
		pad = algo.PlaintextBlockSize() - rest
	}
	b = append(b, bytes.Repeat([]byte{byte(pad)}, pad+1)...)
	binary.LittleEndian.PutUint32(b[4:], uint32(head+(len(b)-head+algo.SignatureLength())/algo.PlaintextBlockSize()*algo.BlockSize()))
	signature, err := algo.Signature(b)
	if err != nil {
		f.t.Error(err)
	}
	sealed, err := algo.Encrypt(append(b[head:len(b):len(b)], signature...))
	if err != nil {
		f.t.Error(err)
	}
	return append(b[:head:head], sealed...)
}

func readTestFrame(r io.Reader) ([]byte, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if size < 8 || size > 1<<20 {
		return nil, errors.New("not a message")
	}
	frame := append(head, make([]byte, size-8)...)
	_, err := io.ReadFull(r, frame[8:])
	return frame, err
}

// openedWith reads what stands in the open in a request for a channel.
func openedWith(frame []byte) (policy string, certificate []byte, head int) {
	if string(frame[:3]) != "OPN" {
		return "", nil, 0
	}
	b := frame[12:]
	next := func() []byte {
		n := int(int32(binary.LittleEndian.Uint32(b)))
		b = b[4:]
		if n < 0 {
			return nil
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	policy, certificate = string(next()), next()
	next()
	return policy, certificate, len(frame) - len(b)
}

// Somebody on the way answers the opening of the channel with a certificate
// that is not the one of the trust list. Nothing that he can read is sent.
func TestAForgedChannelIsLeft(t *testing.T) {
	t.Parallel()
	s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithInsecureSkipVerify())
	forger := issue(t, "forger", nil, nil)
	f := startForger(t, s.url, forger)
	cfg := s.config(t, modeEncrypt)
	cfg.URL = f.url
	if got := dialFails(t, cfg); !strings.Contains(got, f.url+" opened the channel with another certificate") {
		t.Errorf("got %s", got)
	}
	select {
	case b := <-f.read:
		t.Fatalf("the forger read %d bytes that were meant for the server", len(b))
	case <-f.ended:
	case <-time.After(patience):
		t.Fatal("the client neither hangs up nor sends anything")
	}
}

// opening is the head of an answer to OpenSecureChannel.
func opening(policy string, certificate []byte) []byte {
	b := append([]byte("OPNF"), make([]byte, openHead-4)...)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(policy))), policy...)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(certificate))), certificate...)
	b = append(b, bytes.Repeat([]byte{0xff}, 4)...) // no thumbprint
	b = append(b, "sealed"...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

func TestWhatTheGuardLetsThrough(t *testing.T) {
	const policy = ua.SecurityPolicyURIBasic256Sha256
	plc, other := issue(t, "plc", nil, nil).cert.Raw, issue(t, "other", nil, nil).cert.Raw
	chain := func(certs ...[]byte) []byte { return bytes.Join(certs, nil) }
	message := func(size int) []byte {
		b := append([]byte("MSGF"), make([]byte, size-4)...)
		binary.LittleEndian.PutUint32(b[4:], uint32(size))
		for i := frameHeader; i < size; i++ {
			b[i] = byte(i)
		}
		return b
	}
	good := opening(policy, plc)
	short := func(n uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[openHead:], n)
		return b
	}
	small := append([]byte("MSGF"), 7, 0, 0, 0)
	for _, c := range []struct {
		name string
		in   [][]byte // messages; what is refused comes last
		want string   // a piece of the error; empty for none
	}{
		{"an opening and messages", [][]byte{good, message(8), message(100), message(guardBuffer), message(5 * guardBuffer), message(9)}, ""},
		{"a renewal", [][]byte{good, message(50), good, message(50)}, ""},
		{"with its chain", [][]byte{opening(policy, chain(plc, other))}, ""},
		{"another certificate", [][]byte{opening(policy, other)}, "with another certificate"},
		{"another certificate, with ours behind it", [][]byte{opening(policy, chain(other, plc))}, "with another certificate"},
		{"another certificate at a renewal", [][]byte{good, message(50), opening(policy, other)}, "with another certificate"},
		{"half of ours", [][]byte{opening(policy, plc[:len(plc)/2])}, "with another certificate"},
		{"no certificate", [][]byte{opening(policy, nil)}, "with another certificate"},
		{"no security", [][]byte{opening(ua.SecurityPolicyURINone, plc)}, `with policy "None" and not Basic256Sha256`},
		{"an old policy", [][]byte{opening(ua.SecurityPolicyURIBasic128Rsa15, plc)}, `with policy "Basic128Rsa15"`},
		{"a policy beyond the message", [][]byte{short(1 << 31)}, `with policy ""`},
		{"no policy", [][]byte{short(1<<32 - 1)}, `with policy ""`},
		{"an opening without a header", [][]byte{{'O', 'P', 'N', 'F', 8, 0, 0, 0}}, `with policy ""`},
		{"a huge opening", [][]byte{opening(policy, make([]byte, guardBuffer))}, "bytes to open a channel"},
		{"a message shorter than its header", [][]byte{message(20), small}, "a message of 7 bytes"},
	} {
		client, library := net.Pipe()
		g := &guard{server: "opc.tcp://plc:4840", policy: policy, leaf: plc}
		ended := make(chan error, 1)
		go func() {
			ended <- g.toClient(bytes.NewReader(bytes.Join(c.in, nil)), client)
			client.Close()
		}()
		got, err := io.ReadAll(library)
		if err != nil {
			t.Fatal(err)
		}
		through := c.in
		if c.want != "" {
			through = c.in[:len(c.in)-1]
		}
		if want := bytes.Join(through, nil); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes come through, want %d", c.name, len(got), len(want))
		}
		if err := <-ended; c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// A server is told its own address and not that of the guard.
func TestTheServerIsToldItsOwnAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	url := "opc.tcp://" + l.Addr().String() + "/plant/line"
	g, err := openGuard(t.Context(), url, ua.SecurityPolicyURIBasic256Sha256, []byte("leaf"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if !strings.HasSuffix(g.url, "/plant/line") || g.url == url {
		t.Errorf("the library dials %s", g.url)
	}
	go func() { _, _ = uacp.Dial(t.Context(), g.url) }() // it waits for an answer that does not come
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	frame, err := readTestFrame(server)
	if err != nil {
		t.Fatal(err)
	}
	var hello uacp.Hello
	if _, err := hello.Decode(frame[frameHeader:]); err != nil || hello.EndpointURL != url || hello.ReceiveBufSize == 0 {
		t.Errorf("got %+v, %v, want %s", hello, err, url)
	}
}

func TestAGuardThatNobodyUsesEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g, err := openGuard(t.Context(), "opc.tcp://"+l.Addr().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	g.close() // returns once its goroutines have
	if err := g.err(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", g.listen.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

// A secured connection that is cut is found again, and the guards of the old
// connections leave nothing behind.
func TestASecuredCut(t *testing.T) {
	t.Parallel()
	s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithInsecureSkipVerify())
	id := s.add(t, "a", int32(5), peer.DataTypeIDInt32, readWrite)
	c := startCutter(t, s.url)
	cfg := s.config(t, modeEncrypt)
	cfg.URL = c.url
	// On a busy machine a subscription may begin mute; it is found out sooner here.
	r := run(t, cfg, source1(map[string]string{"plant/a": id}), func(c *connection) { c.silence = 3 * time.Second })
	for range 2 {
		r.until(t, "the value", isValue("plant/a", sample.IntValue(5)))
		r.Reset()
		c.cut()
		r.until(t, "Bad at the cut", func(v sample.Sample) bool { return v.Quality == sample.BadNotConnected })
	}
	r.until(t, "the value", isValue("plant/a", sample.IntValue(5)))
	r.stop()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "(*guard)") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("guards are left:\n%s", stacks)
		}
	}
}

// cutter passes connections on until it cuts them.
type cutter struct {
	url   string
	mu    sync.Mutex
	conns []net.Conn
}

func startCutter(t testing.TB, up string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: "opc.tcp://" + l.Addr().String()}
	t.Cleanup(func() { l.Close(); c.cut() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(up, "opc.tcp://"))
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, client, server)
			c.mu.Unlock()
			go func() { _, _ = io.Copy(client, server); client.Close() }()
			go func() { _, _ = io.Copy(server, client); server.Close() }()
		}
	}()
	return c
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// What the library does where the signature of a session is wrong: it goes on
// with none.
func TestAWrongSessionSignatureIsAnError(t *testing.T) {
	client, err := open(t, testConfig(startPlain(t)), new(logs)).dial(t.Context(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(t.Context())
	if err := survive(func() error { return client.ActivateSession(t.Context(), nil) }); !errors.Is(err, ua.StatusBadApplicationSignatureInvalid) {
		t.Errorf("got %v", err)
	}
	if err := survive(func() error { return io.EOF }); !errors.Is(err, io.EOF) || errors.Is(err, ua.StatusBadApplicationSignatureInvalid) {
		t.Errorf("got %v, want the error itself", err)
	}
}
