package metrics

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxScrapes bounds how many are answered at once.
const maxScrapes = 4

// Server answers GET /metrics.
type Server struct {
	http *http.Server
	addr net.Addr
	done chan struct{}
}

// Serve listens on a TCP address.
func (set *Set) Serve(listen string, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", set.scrape)
	set.slots = make(chan struct{}, maxScrapes)
	s := &Server{addr: l.Addr(), done: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: errorLog,
	}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are not served any more", "error", err)
		}
	}()
	return s, nil
}

// scrape answers one request, or 503 where too many are being answered.
func (set *Set) scrape(w http.ResponseWriter, _ *http.Request) {
	select {
	case set.slots <- struct{}{}:
		defer func() { <-set.slots }()
	default:
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	// A scraper that is gone cannot be told.
	_ = set.Write(w)
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Close stops serving.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
