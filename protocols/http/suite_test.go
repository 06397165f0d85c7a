package http

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

func settings(t testing.TB) protocols.Settings {
	return protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: clock.System{}}
}

// freePort returns a loopback address that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testConfig() *Config {
	c := Protocol{}.NewConfig().(*Config)
	c.Listen = "127.0.0.1:0"
	return c
}

// post sends a body and returns status and answer.
func post(ctx context.Context, client *nethttp.Client, url, contentType string, body []byte) (int, string, error) {
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func startDevice(t *testing.T) *protocolstest.Device {
	cfg := testConfig()
	cfg.Listen = freePort(t)
	cfg.Accept = acceptAny
	client := &nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true}}
	send := func(ctx context.Context, contentType, body string) error {
		status, text, err := post(ctx, client, "http://"+cfg.Listen+pathSamples, contentType, []byte(body))
		if err == nil && status != nethttp.StatusOK {
			err = fmt.Errorf("%d: %s", status, text)
		}
		return err
	}
	return &protocolstest.Device{
		Config: cfg,
		Source: &protocols.SourceConfig{Name: "lab", Device: "lab", MaxTags: 100,
			Tags: []protocols.Tag{{Name: "plant/bench/pressure", Address: "p1"}}},
		Want: map[string]sample.Value{
			"plant/bench/pressure": sample.FloatValue(1.25),
			"plant/lab/count":      sample.IntValue(1000),
			"plant/door/open":      sample.BoolValue(true),
			"plant/door/name":      sample.StringValue("north"),
			"plant/urn:dev:1/temp": sample.FloatValue(21.5),
		},
		Publish: func(ctx context.Context) error {
			if err := send(ctx, "application/json", `{"samples":[{"tag":"p1","value":1.25},{"tag":"count","value":1000},
				{"tag":"door/open","value":true},{"tag":"plant/door/name","value":"north"}]}`); err != nil {
				return err
			}
			return send(ctx, "application/senml+json", `[{"bn":"urn:dev:1/","n":"temp","v":21.5}]`)
		},
		Counter: "plant/lab/count",
		Send: func(ctx context.Context, n int64) error {
			return send(ctx, "application/json", fmt.Sprintf(`{"samples":[{"tag":"count","value":%d}]}`, n))
		},
	}
}

func TestSuite(t *testing.T) {
	protocolstest.Run(t, protocolstest.Harness{
		Protocol:   Protocol{},
		Mode:       protocolstest.Acknowledged,
		Start:      startDevice,
		StopWithin: drainTime + 2*time.Second,
		Faulty: func() (protocols.Config, *protocols.SourceConfig, []string) {
			c := testConfig()
			c.Listen = "0.0.0.0:8080"
			c.MaxSamples = 0
			return c, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/a/b"}}},
				[]string{"connection.tokens", "connection.tls", "connection.max_samples", "tags[0].address"}
		},
	})
}
