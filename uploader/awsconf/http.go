package awsconf

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"millrace/internal/steady"
	"millrace/uploader"
)

func httpClient(t *tls.Config, connections int, dial uploader.Dial) *awshttp.BuildableClient {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.TLSClientConfig = t
		tr.MaxIdleConnsPerHost = max(connections, 1)
		tr.IdleConnTimeout = 90 * time.Second
		tr.TLSHandshakeTimeout = 10 * time.Second
		tr.DialContext = dial
	})
}

// Steady makes a client keep its connection when the answer is faster than its
// own bookkeeping; see internal/steady.
func Steady(c aws.HTTPClient) aws.HTTPClient { return steady.New(c) }
