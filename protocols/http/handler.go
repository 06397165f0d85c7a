package http

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	nethttp "net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// The paths that are served.
const (
	pathSamples = "/v1/samples"
	pathHealth  = "/v1/health"
)

// worker is what one request needs; it is used again by later ones.
type worker struct {
	dec  *decoder
	body []byte
	gzip *gzip.Reader
}

// keepBody is how large a buffer a worker keeps from request to request.
const keepBody = 256 << 10

// reply is an answer that is not 200.
type reply struct {
	status     int
	problem    string
	faults     []Fault
	retryAfter time.Duration
}

func refuse(status int, format string, args ...any) *reply {
	return &reply{status: status, problem: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (s *source) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	if r.URL.Path == pathHealth {
		if r.Method != nethttp.MethodGet && r.Method != nethttp.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			s.answer(w, r, refuse(nethttp.StatusMethodNotAllowed, "%s takes GET", pathHealth))
			return
		}
		s.write(w, nethttp.StatusOK, struct {
			Status string `json:"status"`
		}{"ok"})
		return
	}
	n, refused := s.take(w, r)
	switch {
	case refused != nil:
		s.answer(w, r, refused)
	case r.Context().Err() == nil:
		s.write(w, nethttp.StatusOK, struct {
			Accepted int `json:"accepted"`
		}{n})
	}
}

// take handles a request up to the commit, and returns how many samples are
// durable.
func (s *source) take(w nethttp.ResponseWriter, r *nethttp.Request) (int, *reply) {
	if refused := s.admit(w, r); refused != nil {
		return 0, refused
	}
	senml, refused := contentType(r.Header)
	if refused != nil {
		return 0, refused
	}
	var wk *worker
	select {
	case wk = <-s.workers:
	default:
		return 0, &reply{status: nethttp.StatusServiceUnavailable, problem: fmt.Sprintf("%d requests are under way already", s.cfg.MaxRequests), retryAfter: time.Second}
	}
	defer func() {
		if cap(wk.body) > keepBody {
			wk.body = nil
		}
		s.workers <- wk
	}()
	if refused := s.read(wk, w, r); refused != nil {
		return 0, refused
	}
	if wk.dec == nil {
		wk.dec = newDecoder(s.names, s.cfg.MaxSamples)
	}
	now := s.conn.clock.Now().UnixNano()
	decode := wk.dec.json
	if senml {
		decode = wk.dec.senml
	}
	batch, faults := decode(wk.body, now)
	if faults != nil {
		return 0, &reply{status: nethttp.StatusBadRequest, problem: "nothing of the body was taken", faults: faults}
	}
	return len(batch), s.hand(r.Context(), batch, now)
}

// admit checks path, method, token and rate.
func (s *source) admit(w nethttp.ResponseWriter, r *nethttp.Request) *reply {
	switch {
	case r.URL.Path != pathSamples:
		return refuse(nethttp.StatusNotFound, "there is only POST %s and GET %s", pathSamples, pathHealth)
	case r.Method != nethttp.MethodPost:
		w.Header().Set("Allow", "POST")
		return refuse(nethttp.StatusMethodNotAllowed, "%s takes POST", pathSamples)
	case !s.authorized(r.Header.Get("Authorization")):
		w.Header().Set("WWW-Authenticate", `Bearer realm="millrace"`)
		return refuse(nethttp.StatusUnauthorized, "a token is needed: send the header Authorization: Bearer TOKEN")
	case !s.rate.allow(time.Now()):
		return &reply{status: nethttp.StatusTooManyRequests, problem: fmt.Sprintf("more than %d requests per second; put more samples into one", s.cfg.MaxRate), retryAfter: time.Second}
	}
	return nil
}

// authorized compares hashes, all of them and in constant time, so that the
// time taken tells nothing of a token.
func (s *source) authorized(header string) bool {
	if len(s.tokens) == 0 {
		return true
	}
	scheme, token, _ := strings.Cut(header, " ")
	given := sha256.Sum256([]byte(strings.TrimSpace(token)))
	found := 0
	for i := range s.tokens {
		found |= subtle.ConstantTimeCompare(given[:], s.tokens[i][:])
	}
	return found == 1 && strings.EqualFold(scheme, "Bearer")
}

// contentType reports whether the body is SenML.
func contentType(h nethttp.Header) (senml bool, refused *reply) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset := params["charset"]
	switch {
	case err != nil || charset != "" && !strings.EqualFold(charset, "utf-8"):
	case kind == "application/json":
		return false, nil
	case kind == "application/senml+json":
		return true, nil
	}
	return false, refuse(nethttp.StatusUnsupportedMediaType, "Content-Type %q is not taken: send application/json or application/senml+json, in UTF-8", h.Get("Content-Type"))
}

// read reads the body into the worker, and unpacks it.
func (s *source) read(wk *worker, w nethttp.ResponseWriter, r *nethttp.Request) *reply {
	coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	if coding != "" && coding != "identity" && coding != "gzip" {
		return refuse(nethttp.StatusUnsupportedMediaType, "Content-Encoding %q is not taken: send gzip or none", coding)
	}
	tooLarge := refuse(nethttp.StatusRequestEntityTooLarge, "the body is larger than max_body, %s", s.cfg.MaxBody)
	if r.ContentLength > int64(s.cfg.MaxBody) {
		return tooLarge
	}
	var in io.Reader = nethttp.MaxBytesReader(w, r.Body, int64(s.cfg.MaxBody))
	most := int64(s.cfg.MaxBody)
	var err error
	if coding == "gzip" {
		most = int64(s.cfg.MaxDecompressed)
		if wk.gzip == nil {
			wk.gzip = new(gzip.Reader)
		}
		if err = wk.gzip.Reset(in); err == nil {
			in = io.LimitReader(wk.gzip, most+1)
		}
	}
	if err == nil {
		wk.body, err = appendAll(wk.body[:0], in, r.ContentLength)
	}
	var over *nethttp.MaxBytesError
	switch {
	case errors.As(err, &over):
		return tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(nethttp.StatusRequestTimeout, "the body did not arrive within %s", s.cfg.ReadTimeout)
	case err != nil && coding == "gzip":
		return refuse(nethttp.StatusBadRequest, "the body is not gzip: %v", err)
	case err != nil:
		return refuse(nethttp.StatusBadRequest, "the body broke off: %v", err)
	case int64(len(wk.body)) > most:
		return refuse(nethttp.StatusRequestEntityTooLarge, "the body is larger than max_decompressed, %s, once unpacked", s.cfg.MaxDecompressed)
	}
	// The deadline was for the body. Left in force, it would break off the
	// request while its samples are being made durable.
	if err := nethttp.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return refuse(nethttp.StatusInternalServerError, "the connection has no deadline: %v", err)
	}
	return nil
}

// appendAll appends what r has to b. hint is how much may come, -1 for unknown.
func appendAll(b []byte, r io.Reader, hint int64) ([]byte, error) {
	if hint > int64(cap(b)) {
		b = make([]byte, 0, hint+1)
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// hand hands samples, stamped at the time read, to the gateway and waits until
// they are durable.
func (s *source) hand(client context.Context, batch []sample.Sample, read int64) *reply {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer context.AfterFunc(client, cancel)()
	done := make(chan error, 1)
	// One at a time, so that the gateway's times rise from batch to batch.
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return stopping()
	}
	waited := s.conn.clock.Now().UnixNano() - read
	for i := range batch {
		batch[i].Time += waited
	}
	err := s.emit(ctx, batch, func(err error) { done <- err })
	<-s.turn
	if err == nil {
		timer := time.NewTimer(s.cfg.CommitTimeout)
		defer timer.Stop()
		select {
		case err = <-done:
		case <-client.Done():
			return nil // nobody waits for an answer
		case <-timer.C:
			return &reply{status: nethttp.StatusServiceUnavailable, problem: fmt.Sprintf("the samples were not confirmed within %s; they may be stored or not: send them again", s.cfg.CommitTimeout), retryAfter: 5 * time.Second}
		}
	}
	var refused *protocols.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.RetryAfter <= 0:
		return refuse(nethttp.StatusUnprocessableEntity, "nothing of the body was taken: %s", refused.Reason)
	case errors.As(err, &refused):
		return &reply{status: nethttp.StatusServiceUnavailable, problem: "nothing of the body was taken: " + refused.Reason, retryAfter: refused.RetryAfter}
	case ctx.Err() != nil:
		return stopping()
	}
	return &reply{status: nethttp.StatusServiceUnavailable, problem: "nothing of the body was taken: " + err.Error(), retryAfter: 5 * time.Second}
}

func stopping() *reply {
	return &reply{status: nethttp.StatusServiceUnavailable, problem: "the gateway is stopping; nothing of the body was taken", retryAfter: 10 * time.Second}
}

// answer writes a refusal.
func (s *source) answer(w nethttp.ResponseWriter, r *nethttp.Request, p *reply) {
	s.told.note(r, p)
	if p.retryAfter > 0 {
		seconds := int64((p.retryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	s.write(w, p.status, struct {
		Error  string  `json:"error"`
		Faults []Fault `json:"faults,omitempty"`
	}{p.problem, p.faults})
}

func (s *source) write(w nethttp.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: an answer that is no JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that is gone does not read why.
	_, _ = w.Write(append(text, '\n'))
}

// limiter is a token bucket: a second's worth may come at once.
type limiter struct {
	mu   sync.Mutex
	rate float64 // per second; 0 is no limit
	left float64
	last time.Time
}

func newLimiter(rate int) *limiter {
	return &limiter{rate: float64(rate), left: float64(rate)}
}

func (l *limiter) allow(now time.Time) bool {
	if l.rate == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() {
		l.left = min(l.rate, l.left+now.Sub(l.last).Seconds()*l.rate)
	}
	l.last = now
	if l.left < 1 {
		return false
	}
	l.left--
	return true
}

// refusals logs requests that were refused: the first of a kind at once, then
// how many there were, at most every tellEvery.
type refusals struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[int]*refusal
}

type refusal struct {
	count int
	told  time.Time
}

const tellEvery = 10 * time.Minute

func (t *refusals) note(r *nethttp.Request, p *reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds == nil {
		t.kinds = map[int]*refusal{}
	}
	k := t.kinds[p.status]
	if k == nil {
		k = &refusal{}
		t.kinds[p.status] = k
	}
	k.count++
	now := time.Now()
	if now.Sub(k.told) < tellEvery {
		return
	}
	problem := p.problem
	if len(p.faults) > 0 {
		f := p.faults[0]
		problem = fmt.Sprintf("sample %d: %s: %s", f.Index, f.Field, f.Problem)
	}
	t.log.Warn("a request was refused", "status", p.status, "problem", problem, "from", r.RemoteAddr, "refused_since_last_told", k.count)
	k.told, k.count = now, 0
}
