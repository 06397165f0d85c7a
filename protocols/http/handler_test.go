package http

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/secret"
	"millrace/internal/tlsfile"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// running is a source that listens.
type running struct {
	*protocolstest.Collector
	health *protocolstest.HealthRecorder
	addr   string
	stop   func() error
}

func run(t *testing.T, cfg *Config, emit protocols.Emit) *running {
	t.Helper()
	conn, err := cfg.Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Collector: &protocolstest.Collector{}, health: &protocolstest.HealthRecorder{}}
	src, err := conn.OpenSource(&protocols.SourceConfig{Name: "lab", MaxTags: 10}, r.health)
	if err != nil {
		t.Fatal(err)
	}
	if emit == nil {
		emit = r.Emit
	}
	bound := make(chan net.Addr, 1)
	src.(*source).bound = func(a net.Addr) { bound <- a }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx, emit) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	r.addr = (<-bound).String()
	return r
}

func ref(t *testing.T, text string) secret.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var r secret.Ref
	if err := r.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return r
}

func zip(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

func TestRequests(t *testing.T) {
	cfg := testConfig()
	cfg.MaxBody, cfg.MaxDecompressed, cfg.MaxSamples = 1024, 2048, 3
	cfg.Tokens = []secret.Ref{ref(t, "first-token"), ref(t, "second-token")}
	r := run(t, cfg, nil)
	const good = `{"samples":[{"tag":"a","value":1}]}`
	bomb := zip(`{"samples":[` + strings.Repeat(" ", 256<<10) + `]}`)
	for _, c := range []struct {
		name, method, path, header, body string
		status                           int
		answer, answerHeader             string
	}{
		{name: "JSON", body: good, status: 200, answer: `{"accepted":1}`, answerHeader: "Content-Type: application/json"},
		{name: "the second token", header: "Authorization: bearer second-token", body: good, status: 200, answer: `{"accepted":1}`},
		{name: "with its charset", header: "Content-Type: application/json; charset=UTF-8", body: good, status: 200, answer: `{"accepted":1}`},
		{name: "SenML", header: "Content-Type: application/senml+json", body: `[{"n":"a","v":1},{"n":"b","vb":true}]`, status: 200, answer: `{"accepted":2}`},
		{name: "gzip", header: "Content-Encoding: gzip", body: zip(good), status: 200, answer: `{"accepted":1}`},
		{name: "health", method: "GET", path: "/v1/health", header: "Authorization:", status: 200, answer: `{"status":"ok"}`},
		{name: "post to health", path: "/v1/health", status: 405, answer: `{"error":"/v1/health takes GET"}`, answerHeader: "Allow: GET, HEAD"},
		{name: "another path", path: "/v2/samples", body: good, status: 404, answer: `{"error":"there is only POST /v1/samples and GET /v1/health"}`},
		{name: "get", method: "GET", status: 405, answer: `{"error":"/v1/samples takes POST"}`, answerHeader: "Allow: POST"},
		{name: "no token", header: "Authorization:", body: good, status: 401,
			answer: `{"error":"a token is needed: send the header Authorization: Bearer TOKEN"}`, answerHeader: `Www-Authenticate: Bearer realm="millrace"`},
		{name: "a wrong token", header: "Authorization: Bearer first-toke", body: good, status: 401, answer: `{"error":"a token is needed: send the header Authorization: Bearer TOKEN"}`},
		{name: "another scheme", header: "Authorization: Basic first-token", body: good, status: 401, answer: `{"error":"a token is needed: send the header Authorization: Bearer TOKEN"}`},
		{name: "a form", header: "Content-Type: application/x-www-form-urlencoded", body: good, status: 415,
			answer: `{"error":"Content-Type \"application/x-www-form-urlencoded\" is not taken: send application/json or application/senml+json, in UTF-8"}`},
		{name: "latin 1", header: "Content-Type: application/json; charset=iso-8859-1", body: good, status: 415,
			answer: `{"error":"Content-Type \"application/json; charset=iso-8859-1\" is not taken: send application/json or application/senml+json, in UTF-8"}`},
		{name: "zstd", header: "Content-Encoding: zstd", body: good, status: 415, answer: `{"error":"Content-Encoding \"zstd\" is not taken: send gzip or none"}`},
		{name: "no gzip", header: "Content-Encoding: gzip", body: good, status: 400, answer: `{"error":"the body is not gzip: gzip: invalid header"}`},
		{name: "half a gzip", header: "Content-Encoding: gzip", body: zip(good)[:30], status: 400, answer: `{"error":"the body is not gzip: unexpected EOF"}`},
		{name: "too large", body: good + strings.Repeat(" ", 1024), status: 413, answer: `{"error":"the body is larger than max_body, 1KiB"}`},
		{name: "too large, in chunks", header: "Transfer-Encoding: chunked", body: good + strings.Repeat(" ", 1024), status: 413, answer: `{"error":"the body is larger than max_body, 1KiB"}`},
		{name: "in chunks", header: "Transfer-Encoding: chunked", body: good, status: 200, answer: `{"accepted":1}`},
		{name: "a gzip bomb", header: "Content-Encoding: gzip", body: bomb, status: 413, answer: `{"error":"the body is larger than max_decompressed, 2KiB, once unpacked"}`},
		{name: "no body", status: 400, answer: `{"error":"nothing of the body was taken","faults":[{"index":-1,"problem":"not JSON: byte 0: nothing where an object is expected"}]}`},
		{name: "every fault", body: `{"samples":[{"tag":"a"},{"tag":"a","value":1},{"value":1}]}`, status: 400,
			answer: `{"error":"nothing of the body was taken","faults":[{"index":0,"field":"value","problem":"it is missing, and the quality is not Bad"},{"index":2,"field":"tag","problem":"it is missing"}]}`},
		{name: "too many", body: `{"samples":[` + strings.Repeat(`{"tag":"a","value":1},`, 3) + `{}]}`, status: 400,
			answer: `{"error":"nothing of the body was taken","faults":[{"index":3,"problem":"too many samples in one body: the most is 3"}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.Reset()
			method, path := c.method, c.path
			if method == "" {
				method = "POST"
			}
			if path == "" {
				path = pathSamples
			}
			var body io.Reader = strings.NewReader(c.body)
			name, value, _ := strings.Cut(c.header, ":")
			value = strings.TrimSpace(value)
			if name == "Transfer-Encoding" {
				body = io.MultiReader(body) // of unknown length
				name = ""
			}
			req, err := nethttp.NewRequest(method, "http://"+r.addr+path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer first-token")
			if name != "" {
				req.Header.Set(name, value)
			}
			resp, err := nethttp.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || strings.TrimSuffix(string(text), "\n") != c.answer {
				t.Errorf("got %d %s\nwant %d %s", resp.StatusCode, text, c.status, c.answer)
			}
			if name, value, ok := strings.Cut(c.answerHeader, ": "); ok && resp.Header.Get(name) != value {
				t.Errorf("header %s is %q, want %q", name, resp.Header.Get(name), value)
			}
			if taken := len(r.Samples()); (taken > 0) != (c.status == 200 && path == pathSamples) {
				t.Errorf("%d samples were taken", taken)
			}
		})
	}
}

const oneSample = `{"samples":[{"tag":"a","value":1}]}`

func send(t testing.TB, url string) (int, string) {
	t.Helper()
	status, text, err := post(t.Context(), nethttp.DefaultClient, url, "application/json", []byte(oneSample))
	if err != nil {
		t.Error(err)
	}
	return status, strings.TrimSpace(text)
}

// TestRefusalsOfTheGateway answers as the gateway does.
func TestRefusalsOfTheGateway(t *testing.T) {
	for _, c := range []struct {
		err        error
		late       bool
		status     int
		answer     string
		retryAfter string
	}{
		{&protocols.RefusedError{Reason: "the spool is full", RetryAfter: 1500 * time.Millisecond}, false, 503, `{"error":"nothing of the body was taken: the spool is full"}`, "2"},
		{fmt.Errorf("emit: %w", &protocols.RefusedError{Reason: "the disk failed", RetryAfter: time.Second}), true, 503, `{"error":"nothing of the body was taken: the disk failed"}`, "1"},
		{&protocols.RefusedError{Reason: "too many tags"}, false, 422, `{"error":"nothing of the body was taken: too many tags"}`, ""},
		{errors.New("broken"), true, 503, `{"error":"nothing of the body was taken: broken"}`, "5"},
	} {
		r := run(t, testConfig(), nil)
		r.Refuse(c.err, c.late)
		resp, err := nethttp.Post("http://"+r.addr+pathSamples, "application/json", strings.NewReader(oneSample))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || strings.TrimSpace(string(text)) != c.answer || resp.Header.Get("Retry-After") != c.retryAfter {
			t.Errorf("%v: got %d %s, Retry-After %q, %v", c.err, resp.StatusCode, text, resp.Header.Get("Retry-After"), err)
		}
	}
}

// TestACommitMayTakeLongerThanReading fails when the read deadline stays in
// force while the samples are being made durable.
func TestACommitMayTakeLongerThanReading(t *testing.T) {
	cfg := testConfig()
	cfg.ReadTimeout = 100 * time.Millisecond
	r := run(t, cfg, func(_ context.Context, _ []sample.Sample, done func(error)) error {
		time.AfterFunc(400*time.Millisecond, func() { done(nil) })
		return nil
	})
	if status, text := send(t, "http://"+r.addr+pathSamples); status != 200 {
		t.Errorf("got %d %s", status, text)
	}
}

func TestACommitThatDoesNotCome(t *testing.T) {
	cfg := testConfig()
	cfg.CommitTimeout = 100 * time.Millisecond
	r := run(t, cfg, func(context.Context, []sample.Sample, func(error)) error { return nil })
	status, text := send(t, "http://"+r.addr+pathSamples)
	if want := `{"error":"the samples were not confirmed within 100ms; they may be stored or not: send them again"}`; status != 503 || text != want {
		t.Errorf("got %d %s\nwant 503 %s", status, text, want)
	}
}

func TestSlowBody(t *testing.T) {
	cfg := testConfig()
	cfg.ReadTimeout = 150 * time.Millisecond
	r := run(t, cfg, nil)
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", pathSamples)
	resp, err := nethttp.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if want := `{"error":"the body did not arrive within 150ms"}` + "\n"; err != nil || resp.StatusCode != 408 || string(text) != want {
		t.Errorf("got %d %s %v, want 408 %s", resp.StatusCode, text, err, want)
	}
}

func TestTooManyRequestsAtOnce(t *testing.T) {
	cfg := testConfig()
	cfg.MaxRequests = 4
	r := run(t, cfg, nil)
	r.Hold()
	url := "http://" + r.addr + pathSamples
	answers := make(chan int, 4)
	for range 4 {
		go func() {
			status, _ := send(t, url)
			answers <- status
		}()
	}
	for len(r.Samples()) < 4 {
		time.Sleep(time.Millisecond)
	}
	status, text := send(t, url)
	if status != 503 || text != `{"error":"4 requests are under way already"}` {
		t.Errorf("the fifth request gets %d %s", status, text)
	}
	r.Confirm()
	for range 4 {
		if status := <-answers; status != 200 {
			t.Errorf("a request under way gets %d", status)
		}
	}
	if status, text := send(t, url); status != 200 {
		t.Errorf("afterwards a request gets %d %s", status, text)
	}
}

// TestConcurrentRequests also holds that the gateway's times never go back.
func TestConcurrentRequests(t *testing.T) {
	cfg := testConfig()
	r := run(t, cfg, nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 25 {
				if status, text := send(t, "http://"+r.addr+pathSamples); status != 200 {
					t.Errorf("got %d %s", status, text)
				}
			}
		})
	}
	wg.Wait()
	got := r.Samples()
	if len(got) != 400 {
		t.Errorf("%d samples were taken, want 400", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i].Time < got[i-1].Time {
			t.Fatalf("sample %d is %d ns before the one before it", i, got[i-1].Time-got[i].Time)
		}
	}
}

func TestRateLimit(t *testing.T) {
	l := newLimiter(2)
	at := time.Unix(1000, 0)
	for i, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, false}, {400 * time.Millisecond, false}, {100 * time.Millisecond, true}, {0, false}, {time.Hour, true}, {0, true}, {0, false}} {
		at = at.Add(c.after)
		if got := l.allow(at); got != c.want {
			t.Errorf("request %d is allowed: %t", i, got)
		}
	}
	cfg := testConfig()
	cfg.MaxRate = 1
	r := run(t, cfg, nil)
	send(t, "http://"+r.addr+pathSamples)
	if status, text := send(t, "http://"+r.addr+pathSamples); status != 429 || text != `{"error":"more than 1 requests per second; put more samples into one"}` {
		t.Errorf("the second request gets %d %s", status, text)
	}
}

// TestClientThatGoesAway breaks off while its samples are being made durable.
func TestClientThatGoesAway(t *testing.T) {
	cfg := testConfig()
	cfg.MaxRequests = 1
	r := run(t, cfg, nil)
	r.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, _, err := post(ctx, nethttp.DefaultClient, "http://"+r.addr+pathSamples, "application/json", []byte(oneSample))
		gone <- err
	}()
	for len(r.Samples()) < 1 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("the request ended with %v", err)
	}
	// Its place is free again although the commit has not come.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		go r.Confirm()
		if status, _ := send(t, "http://"+r.addr+pathSamples); status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a request whose client is gone stays taken")
		}
	}
}

func TestStopFinishesRequestsUnderWay(t *testing.T) {
	r := run(t, testConfig(), nil)
	r.Hold()
	answer := make(chan int, 1)
	go func() {
		status, _ := send(t, "http://"+r.addr+pathSamples)
		answer <- status
	}()
	for len(r.Samples()) < 1 {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	for { // until it takes no more connections
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(time.Millisecond)
	}
	r.Confirm()
	if status := <-answer; status != 200 {
		t.Errorf("the request under way gets %d", status)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.Listen = l.Addr().String()
	conn, err := cfg.Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	src := &protocols.SourceConfig{Name: "lab"}
	want := "http " + cfg.Listen + ": listen: another program has this port; find it with: ss -ltnp; or choose another port in connection.listen"
	if errs := conn.(protocols.Checker).Check(t.Context(), src); len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("Check says %v", errs)
	}
	health := &protocolstest.HealthRecorder{}
	s, err := conn.OpenSource(src, health)
	if err != nil {
		t.Fatal(err)
	}
	s.(*source).wait = backoff.Policy{Base: 10 * time.Millisecond, Max: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, (&protocolstest.Collector{}).Emit) }()
	for !health.IsDown() {
		time.Sleep(time.Millisecond)
	}
	if got := health.Changes()[0].Error(); got != want {
		t.Errorf("Down says\n%s\nwant\n%s", got, want)
	}
	l.Close()
	for !health.IsUp() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if _, err := conn.OpenSource(&protocols.SourceConfig{Name: "other"}, health); err == nil {
		t.Error("two sources have one listener")
	}
	if errs := conn.(protocols.Checker).Check(t.Context(), src); len(errs) != 0 {
		t.Errorf("Check says %v", errs)
	}
}

// certificate writes a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	cfg := testConfig()
	cfg.TLS = tlsfile.Server{Cert: cert, Key: key}
	r := run(t, cfg, nil)
	trusting := &nethttp.Client{Transport: &nethttp.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	url := "https://" + r.addr + pathSamples
	if status, text, err := post(t.Context(), trusting, url, "application/json", []byte(oneSample)); err != nil || status != 200 {
		t.Errorf("got %d %s %v", status, text, err)
	}
	var unknown x509.UnknownAuthorityError
	if _, _, err := post(t.Context(), nethttp.DefaultClient, url, "application/json", []byte(oneSample)); !errors.As(err, &unknown) {
		t.Errorf("a client that does not know the authority gets %v", err)
	}
	if n := len(r.Samples()); n != 1 {
		t.Errorf("%d samples were taken, want 1", n)
	}
}

func TestMissingTokenFile(t *testing.T) {
	var missing secret.Ref
	if err := missing.UnmarshalText([]byte("file:/no/such/token")); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[secret.Ref]string{
		missing:     "http 127.0.0.1:0: read the tokens: secret file:/no/such/token: open /no/such/token: no such file or directory; check connection.tokens",
		ref(t, " "): "is empty; check connection.tokens",
	} {
		cfg := testConfig()
		cfg.Tokens = []secret.Ref{ref}
		conn, err := cfg.Open(settings(t))
		if err != nil {
			t.Fatal(err)
		}
		errs := conn.(protocols.Checker).Check(t.Context(), &protocols.SourceConfig{Name: "lab"})
		if len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), want) {
			t.Errorf("Check says %v, want %s", errs, want)
		}
	}
}
