package rpc

import (
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
	// graceTime is what calls have to end once the server stops.
	graceTime = 5 * time.Second
	// handshakeTime bounds how long a connection may take to be one.
	handshakeTime = 5 * time.Second
	// A connection that is silent for this long is asked whether it lives,
	// and given up when the answer takes longer than that.
	keepaliveTime, keepaliveTimeout = 10 * time.Second, 3 * time.Second
)

// ServerOptions are what a Server is made of.
type ServerOptions struct {
	// Listen is where it listens, host:port; port 0: a free one.
	Listen   string
	Security Security
	Log      zerolog.Logger
	// Metrics is where the metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// MaxMessage bounds one request or reply, in bytes; 0: 64 MiB.
	MaxMessage int
}

// Server offers this node's roles to the others. Its methods are safe for
// concurrent use.
type Server struct {
	log      zerolog.Logger
	metrics  *metrics
	listener net.Listener
	grpc     *grpc.Server
	offered  atomic.Pointer[Services]
	handlers handlers
	carriers *carriers
	once     sync.Once
	stopping chan struct{} // closed when calls of streams are not taken any more
}

// NewServer binds; calls are taken from Run on.
func NewServer(o ServerOptions) (*Server, error) {
	s := &Server{log: o.Log.With().Str("part", "rpc").Logger(), carriers: newCarriers(), stopping: make(chan struct{})}
	creds, err := o.Security.server(s.log)
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
	limit := o.MaxMessage
	if limit <= 0 {
		limit = defaultMaxMessage
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(limit), grpc.MaxSendMsgSize(limit),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	)
	services := s.services()
	s.handlers = handlersOf(services)
	for _, d := range append(services, s.callsDesc()) {
		s.grpc.RegisterService(d, s)
	}
	return s, nil
}

// Register says what is offered, in place of what was before. Until then calls
// fail with envelope.ErrUnavailable.
func (s *Server) Register(o Services) { s.offered.Store(&o) }

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run takes calls until ctx is done, then lets those that run end, for at most
// 5 s. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.listener) }()
	defer s.endCarriers()
	select {
	case err := <-served:
		s.grpc.Stop()
		return fmt.Errorf("take calls of other nodes at %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	s.once.Do(func() { close(s.stopping) })
	stopped := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(stopped) }()
	grace := time.NewTimer(graceTime)
	defer grace.Stop()
	select {
	case <-stopped:
	case <-grace.C:
		s.log.Warn().Dur("after", graceTime).Msg("calls of other nodes did not end: cut off")
		s.grpc.Stop()
		<-stopped
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("take calls of other nodes at %s: %w", s.Addr(), err)
	}
	return nil
}

// Close ends a server at once, whether Run was called or not.
func (s *Server) Close() {
	s.grpc.Stop()
	s.listener.Close()
	s.endCarriers()
}

// endCarriers waits for the goroutines of streams, which have ended.
func (s *Server) endCarriers() {
	s.once.Do(func() { close(s.stopping) })
	s.carriers.end()
}

// serve runs one call: counted, and its panic and error made fit to travel.
func (s *Server) serve(method string, call func() (any, error)) (rep any, err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Str("method", method).Any("panic", p).Bytes("stack", debug.Stack()).Msg("a call of another node panicked")
			rep, err = nil, envelope.Errorf(envelope.CodeInternal, "%s panicked: %v", method, p)
		}
		s.metrics.called(method, began, err)
		if err != nil {
			rep, err = nil, toStatus(err)
		}
	}()
	return call()
}
