// Package steady keeps an HTTP client of the AWS SDK from cutting its own
// connections.
package steady

import (
	"io"
	"net/http"
)

// Client is what the SDK wants of an HTTP client.
type Client interface {
	Do(*http.Request) (*http.Response, error)
}

// New makes a client keep its connection when the answer is faster than its own
// bookkeeping. The SDK closes a request's body as soon as the head of the answer
// is there (smithy-go v1.28.8, transport/http, ClientHandler.Handle). The
// transport may then still look whether the body has ended, and takes the io.EOF
// of the closed body's WriteTo for a failed request: it cuts the connection, and
// with it an answer of more than a few KiB. Read ends in a plain end, so it is
// all that the transport gets to see.
func New(c Client) Client { return client{c} }

type client struct{ inner Client }

// Do implements Client.
func (s client) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return s.inner.Do(r)
	}
	out := r.WithContext(r.Context()) // a copy: the SDK goes on to use its own
	out.Body = struct{ io.ReadCloser }{r.Body}
	return s.inner.Do(out)
}
