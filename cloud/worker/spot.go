package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"millrace/internal/backoff"
)

// Spot watches for the notice by which EC2 takes a Spot instance away, two
// minutes before it does. EC2 User Guide, "Spot Instance interruption notices".
type Spot struct {
	// Base is the instance metadata service: http://169.254.169.254.
	Base  string
	Every time.Duration // between two looks; EC2 recommends 5 s
}

const (
	spotTimeout = 2 * time.Second
	tokenLife   = "300" // seconds
	maxNotice   = 4096  // bytes
)

// errRefused says that a token has run out.
var errRefused = errors.New("the metadata service refuses the token")

// Watch returns the notice when it comes; ok is false when ctx is done before.
// Where there is no metadata service it says so once and looks on.
func (s *Spot) Watch(ctx context.Context, log *slog.Logger) (notice string, ok bool) {
	// No proxy: the service is on the instance's own link.
	client := &http.Client{Timeout: spotTimeout, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	token, said := "", false
	for ctx.Err() == nil {
		var err error
		if token == "" {
			token, err = s.ask(ctx, client, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", tokenLife)
		}
		if err == nil {
			notice, err = s.ask(ctx, client, http.MethodGet, "/latest/meta-data/spot/instance-action", "X-aws-ec2-metadata-token", token)
			if err == nil && notice != "" {
				return notice, true
			}
		}
		if err != nil {
			token = ""
		}
		switch {
		case err == nil:
			said = false
		case ctx.Err() == nil && !said && !errors.Is(err, errRefused):
			log.Info("no Spot notice can be seen: there is no instance metadata here; --spot=false stops the looking", "url", s.Base, "error", err.Error())
			said = true
		}
		if !backoff.Sleep(ctx, s.Every) {
			break
		}
	}
	return "", false
}

// ask makes one request of version 2 of the service; "" is its 404, by which it
// says that there is no such thing now.
func (s *Spot) ask(ctx context.Context, client *http.Client, method, path, header, value string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.Base, "/")+path, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set(header, value)
	out, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer out.Body.Close()
	text, err := io.ReadAll(io.LimitReader(out.Body, maxNotice))
	switch {
	case err != nil:
		return "", err
	case out.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return "", nil
	case out.StatusCode == http.StatusUnauthorized:
		return "", errRefused
	case out.StatusCode != http.StatusOK:
		return "", fmt.Errorf("HTTP %d", out.StatusCode)
	}
	return strings.TrimSpace(string(text)), nil
}
