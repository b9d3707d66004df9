package logic_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
)

// benchRouter owns every partition. Each user has one session.
type benchRouter struct{ logic.Router }

func (r benchRouter) Owner(int32) (logic.Router, error) { return r, nil }
func (r benchRouter) All() []logic.Router               { return []logic.Router{r} }
func (benchRouter) Partitions() int32                   { return 8 }

func (benchRouter) Lookup(_ context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
	reply := &envelope.LookupReply{}
	for i, user := range req.Users {
		reply.Users = append(reply.Users, &envelope.UserSessions{
			User: user, Sessions: []*envelope.Address{{Comet: "comet", Session: uint64(i + 1)}},
		})
	}
	return reply, nil
}

// benchLog is a log that keeps nothing.
type benchLog struct{}

func (benchLog) Partitions() int32  { return 8 }
func (benchLog) Generation() uint16 { return 1 }

func (benchLog) AppendMany(ctx context.Context, _ []envelope.Entry) error { return ctx.Err() }

func (benchLog) AppendEssential(ctx context.Context, _ int32, _ []byte) (int64, error) {
	return 0, ctx.Err()
}

// BenchmarkPush measures what logic itself costs a push: the question to the
// owner, the record or envelope, and the answer.
func BenchmarkPush(b *testing.B) {
	l, err := logic.New(logic.DefaultConfig(), logic.Deps{
		Routers: benchRouter{}, Kept: benchLog{}, Live: benchLog{}, Comets: fakeComets{},
		Tokens: &fakeTokens{}, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		b.Fatal(err)
	}
	many := make([]string, 100)
	for i := range many {
		many[i] = "user-" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26)
	}
	body := []byte(strings.Repeat("x", 100))
	for _, c := range []struct {
		name string
		push logic.PushCommand
	}{
		{"kept", logic.PushCommand{Users: []string{"u00000000"}, Kept: true}},
		{"not_kept", logic.PushCommand{Users: []string{"u00000000"}}},
		{"kept_100_users", logic.PushCommand{Users: many, Kept: true}},
	} {
		c.push.Op, c.push.Body = 5, body
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				push := c.push
				if _, err := l.Push(b.Context(), &push); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
