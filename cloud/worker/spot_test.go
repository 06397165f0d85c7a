package worker

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSpotNotice: the token runs out, there is no notice, then there is one.
func TestSpotNotice(t *testing.T) {
	var looks atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
			_, _ = w.Write([]byte("token"))
		case r.Header.Get("X-aws-ec2-metadata-token") != "token" || looks.Load() == 1 && looks.Add(1) > 0:
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method != http.MethodGet || r.URL.Path != "/latest/meta-data/spot/instance-action" || looks.Add(1) < 4:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write([]byte(`{"action": "terminate", "time": "2026-11-28T21:00:00Z"}`))
		}
	}))
	defer server.Close()
	var log book
	o := options(&log)
	o.Spot = &Spot{Base: server.URL, Every: time.Millisecond}
	w, err := New(o, newMemory(t), newMemory(t))
	if err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	if !errors.Is(err, ErrSpot) || !strings.Contains(err.Error(), "terminate") || log.count("no instance metadata") != 0 {
		t.Errorf("%v\n%s", err, log.text.String())
	}
}

// TestNoMetadata: elsewhere than on EC2 that is said once, and changes nothing.
func TestNoMetadata(t *testing.T) {
	looks := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		looks <- struct{}{}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	var log book
	o := options(&log)
	o.Spot = &Spot{Base: server.URL, Every: time.Millisecond}
	w, err := New(o, newMemory(t), newMemory(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for range 3 {
		<-looks
	}
	cancel()
	if err := <-done; err != nil || log.count("no Spot notice can be seen") != 1 {
		t.Errorf("%v\n%s", err, log.text.String())
	}
}
