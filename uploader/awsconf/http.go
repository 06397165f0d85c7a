package awsconf

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

func httpClient(t *tls.Config, connections int) *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.TLSClientConfig = t
		tr.MaxIdleConnsPerHost = max(connections, 1)
		tr.IdleConnTimeout = 90 * time.Second
		tr.TLSHandshakeTimeout = 10 * time.Second
		tr.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	})
}

// Steady makes a client keep its connection when the answer is faster than its
// own bookkeeping. The SDK closes a request's body as soon as the head of the
// answer is there (smithy-go v1.28.8, transport/http, ClientHandler.Handle). The
// transport may then still look whether the body has ended, and takes the io.EOF
// of the closed body's WriteTo for a failed request: it cuts the connection, and
// with it an answer of more than a few KiB. Read ends in a plain end, so it is
// all that the transport gets to see.
func Steady(c aws.HTTPClient) aws.HTTPClient { return steady{c} }

type steady struct{ inner aws.HTTPClient }

// Do implements aws.HTTPClient.
func (s steady) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return s.inner.Do(r)
	}
	out := r.WithContext(r.Context()) // a copy: the SDK goes on to use its own
	out.Body = struct{ io.ReadCloser }{r.Body}
	return s.inner.Do(out)
}
