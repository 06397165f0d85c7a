// Package awssim serves Amazon SQS and Amazon DynamoDB on the loopback, as far
// as millrace and its consumers use them, in the wire protocols that the AWS
// SDKs speak (AWS JSON 1.0, Signature Version 4). It is for tests and the
// demo: faults can be switched on while it runs, and it tells which bytes it
// has accepted. The suite in its folder conformance is what holds it to the
// AWS API reference.
package awssim

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// The services, as they are named in Accepted and in signatures.
const (
	ServiceSQS      = "sqs"
	ServiceDynamoDB = "dynamodb"
)

// Options tune a Server. The zero Options are good.
type Options struct {
	// Keys maps access key ids to secrets. Where it is set, an unknown id is
	// refused and every signature is verified; where it is nil any key will do,
	// but a signature and a date near the server's must still be there.
	Keys map[string]string
	// TableDelay is how long a new table is CREATING.
	TableDelay time.Duration
	// Seed sets off the generator that decides which request a rate hits.
	Seed uint64
	// Listen, where set, makes a service's listener, in place of a free port of
	// 127.0.0.1.
	Listen func(service string) (net.Listener, error)
	// Region stands in queue URLs' and tables' ARNs; eu-central-1 where empty.
	Region string
}

// Accepted is one message or item that was stored.
type Accepted struct {
	Service string // ServiceSQS or ServiceDynamoDB
	Place   string // the queue's or the table's name
	// Key is an SQS message's MD5OfMessageAttributes and MessageId, which are of
	// no meaning to its consumers, or a DynamoDB item's key attributes as JSON.
	Key []byte
	// Body is a message's body, or an item as JSON (attribute values with their
	// types, binary ones in base64); see ItemBinary.
	Body []byte
	// WireBytes is the size of the whole HTTP request as it was received,
	// headers included, on the first entry of a request, and 0 on its others:
	// a sum counts each request once.
	WireBytes int
}

// Stats counts what a service has received.
type Stats struct {
	Requests  uint64 // whole requests, refused ones and those lost to faults included
	Accepted  uint64 // messages and items stored
	Lost      uint64 // requests that stored something and were not answered
	WireBytes uint64 // of all requests, headers included
}

// Server is a running pair of endpoints.
type Server struct {
	opts Options
	sqs  *endpoint
	ddb  *endpoint

	queues *queues
	tables *tables

	mu       sync.Mutex
	onAccept []func(Accepted)
}

// Start listens on two free ports of 127.0.0.1.
func Start(o Options) (*Server, error) {
	if o.Region == "" {
		o.Region = "eu-central-1"
	}
	s := &Server{opts: o}
	s.queues = newQueues(o.Region)
	s.tables = newTables(o.Region, o.TableDelay)
	var err error
	if s.sqs, err = startEndpoint(s, ServiceSQS, s.queues.serve); err != nil {
		return nil, fmt.Errorf("start the simulated SQS: %w", err)
	}
	if s.ddb, err = startEndpoint(s, ServiceDynamoDB, s.tables.serve); err != nil {
		return nil, errors.Join(fmt.Errorf("start the simulated DynamoDB: %w", err), s.sqs.close())
	}
	s.queues.base = s.sqs.url()
	return s, nil
}

// Close stops both endpoints and cuts their connections.
func (s *Server) Close() error { return errors.Join(s.sqs.close(), s.ddb.close()) }

// URL returns a service's endpoint: "http://127.0.0.1:34567".
func (s *Server) URL(service string) string { return s.endpoint(service).url() }

// QueueURL returns the URL that a queue of that name has, or would have.
func (s *Server) QueueURL(name string) string { return s.queues.url(name) }

// SetFaults replaces a service's faults, from the next request on. The zero
// Faults make it whole.
func (s *Server) SetFaults(service string, f Faults) { s.endpoint(service).setFaults(f) }

// Stats returns a service's counters.
func (s *Server) Stats(service string) Stats { return s.endpoint(service).snapshot() }

// OnAccept has fn called for each message and item that is stored, before its
// sender is answered, and also where the answer is then lost. Calls come from
// several goroutines at once. fn may keep what it is given.
func (s *Server) OnAccept(fn func(Accepted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onAccept = append(s.onAccept, fn)
}

func (s *Server) accepted(list []Accepted) {
	s.mu.Lock()
	fns := s.onAccept
	s.mu.Unlock()
	for _, a := range list {
		for _, fn := range fns {
			fn(a)
		}
	}
}

func (s *Server) endpoint(service string) *endpoint {
	if service == ServiceDynamoDB {
		return s.ddb
	}
	return s.sqs
}
