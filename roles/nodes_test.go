package roles

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/members"
	"imgo/cluster/rpc"
	"imgo/envelope"
)

// readyNode answers as a node that is ready and has 7 sessions.
type readyNode struct{}

func (readyNode) Status(context.Context, *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return &envelope.StatusReply{Ready: true, Sessions: 7, NowMs: time.Now().UnixMilli()}, nil
}

// TestNodesForACallerThatHasGone checks that a caller that has gone gets the true state of the other nodes, because
// the next callers get the same result.
func TestNodesForACallerThatHasGone(t *testing.T) {
	server, err := rpc.NewServer(rpc.ServerOptions{Listen: "127.0.0.1:0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.Register(rpc.Services{Status: readyNode{}})
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan error, 1)
	go func() { running <- server.Run(ctx) }()
	pool, err := rpc.NewPool(rpc.PoolOptions{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()

	c := newCluster(&Node{process: &process{name: "here"}})
	c.pool = pool
	remote := &remoteRoles{}
	remote.state.Store(&clusterState{nodes: []members.Node{{Name: "other", Meta: &envelope.NodeMeta{Rpc: server.Addr().String()}}}})
	c.remote.Store(remote)
	gone, leave := context.WithCancel(t.Context())
	leave()
	if got := c.status.nodes(gone); len(got) != 1 || !got[0].Ready || got[0].Sessions != 7 {
		t.Errorf("the nodes are %+v, want one that is ready and has 7 sessions", got)
	}
	cancel()
	if err := <-running; err != nil {
		t.Error(err)
	}
}
