package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"imgo/envelope"
)

const (
	// stopTimeout bounds the calls that are under way when the server stops.
	stopTimeout = 5 * time.Second
	// handshakeTimeout bounds the handshake of a new connection.
	handshakeTimeout = 5 * time.Second
	// A connection that is silent for keepaliveTime gets a ping. It is closed if
	// the answer takes longer than keepaliveTimeout.
	keepaliveTime, keepaliveTimeout = 10 * time.Second, 3 * time.Second
)

// ServerOptions are the options of NewServer.
type ServerOptions struct {
	// Listen is the address to listen on, host:port. Port 0 means a free one.
	Listen   string
	Security Security
	Log      zerolog.Logger
	// Metrics registers the metrics. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
	// MaxMessage bounds one request or reply, in bytes. 0 means 64 MiB.
	MaxMessage int
}

// Server offers this node's roles to the other nodes. Its methods are safe for
// concurrent use.
type Server struct {
	log        zerolog.Logger
	metrics    *metrics
	listener   net.Listener
	grpc       *grpc.Server
	handlers   handlers
	maxMessage int                      // of one request or reply, in bytes
	offered    atomic.Pointer[Services] // nil before Register

	stopOnce sync.Once
	stopping chan struct{}  // closed when no call begins any more
	streams  sync.WaitGroup // their receiving goroutines
}

// NewServer binds the address. Calls are served once Run is called. It returns an error if a certificate cannot be
// read, the metrics cannot be registered, or the address cannot be bound.
func NewServer(o ServerOptions) (*Server, error) {
	s := &Server{
		log: o.Log.With().Str("part", "rpc").Logger(), handlers: newHandlers(),
		maxMessage: cmp.Or(o.MaxMessage, defaultMaxMessage), stopping: make(chan struct{}),
	}
	creds, err := o.Security.credentials(s.log, false)
	if err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(o.Metrics, "server"); err != nil {
		return nil, fmt.Errorf("register rpc's metrics: %w", err)
	}
	var config net.ListenConfig
	if s.listener, err = config.Listen(context.Background(), "tcp", o.Listen); err != nil {
		return nil, fmt.Errorf("listen for other nodes at %s: %w", o.Listen, err)
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(codec{}),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.WaitForHandlers(true), // so that Stop and GracefulStop end after the calls
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	)
	stream := streamDesc()
	stream.Handler = func(_ any, stream grpc.ServerStream) error { return s.serveStream(stream) }
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: streamService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{stream},
	}, s)
	return s, nil
}

// Register sets the services that are offered, in place of those before. Until
// the first Register, calls fail with envelope.ErrUnavailable.
func (s *Server) Register(o Services) { s.offered.Store(&o) }

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves calls until ctx is done. Then it lets the calls under way end, for at
// most 5 s. It may be called once. It returns nil after a stop that ctx asked for, and an error if the server
// stopped accepting connections before.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.listener) }()
	defer s.waitStreams()
	select {
	case err := <-served:
		s.grpc.Stop()
		return fmt.Errorf("serve calls of other nodes at %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	s.stopCalls()
	stopped := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(stopped) }()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		s.log.Warn().Dur("after", stopTimeout).Msg("calls of other nodes did not end: cut off")
		s.grpc.Stop()
		<-stopped
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve calls of other nodes at %s: %w", s.Addr(), err)
	}
	return nil
}

// Close stops a server at once, whether Run was called or not.
func (s *Server) Close() {
	s.grpc.Stop()
	s.listener.Close()
	s.waitStreams()
}

// stopCalls makes the server refuse new calls.
func (s *Server) stopCalls() { s.stopOnce.Do(func() { close(s.stopping) }) }

// waitStreams refuses new calls, and waits for the goroutines of the streams, which gRPC has ended.
func (s *Server) waitStreams() {
	s.stopCalls()
	s.streams.Wait()
}

// handle runs one call, counts it, and returns its encoded reply. A panic of the
// handler is an internal error of the call.
func (s *Server) handle(ctx context.Context, request *envelope.CallPart) (reply []byte, err error) {
	method := request.Method
	h := s.handlers[method]
	if h == nil {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "this node knows no method %q", method)
	}
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Str("method", method).Any("panic", p).Bytes("stack", debug.Stack()).Msg("a call of another node panicked")
			reply, err = nil, envelope.Errorf(envelope.CodeInternal, "%s panicked: %v", method, p)
		}
		s.metrics.called(method, began, err)
	}()
	m, err := h(ctx, s.offered.Load(), request)
	if err != nil {
		return nil, err
	}
	if size := m.SizeVT(); size > s.maxMessage {
		return nil, errTooLarge(fmt.Sprintf("the reply has %d bytes, more than %d", size, s.maxMessage))
	}
	return marshal(m)
}
