package rpc

import (
	"context"
	"strings"
	"testing"

	"imgo/envelope"
)

// Requests that have begun to arrive have a bound in memory together. Those over it are refused, and those
// that are under way go on.
func TestPartialRequestsAreBounded(t *testing.T) {
	const size = 1000
	c := &serverStream{
		server: &Server{maxMessage: size}, ctx: t.Context(), slots: make(chan struct{}, maxCalls),
		partial: make(map[uint64]*envelope.CallPart), cancels: make(map[uint64]context.CancelFunc), sender: newSender(nil),
	}
	begin := func(call uint64) {
		c.receive(&envelope.CallPart{Call: call, Method: "m", Size: size, More: true, Data: make([]byte, 10)})
	}
	refused := func() (calls []uint64) {
		parts, _ := c.sender.next()
		for _, p := range parts {
			if p.Failure.GetCode() != string(envelope.CodeUnavailable) || !strings.Contains(p.Failure.Text, "as many large requests") {
				t.Errorf("call %d was answered %v", p.Call, p.Failure)
			}
			calls = append(calls, p.Call)
		}
		return calls
	}
	for call := range uint64(maxPartial + 3) {
		begin(call + 1)
	}
	if calls := refused(); len(calls) != 2 || calls[0] != maxPartial+2 {
		t.Errorf("calls %v were refused", calls)
	}
	c.receive(&envelope.CallPart{Call: 1, More: true, Data: make([]byte, 10)}) // has its memory
	c.receive(&envelope.CallPart{Call: 100, Method: "m", More: true, Data: make([]byte, 10)})
	c.receive(&envelope.CallPart{Call: 2, Cancel: true})
	begin(101)
	if calls := refused(); len(calls) != 1 || calls[0] != 100 {
		t.Errorf("calls %v were refused", calls)
	}
	for call := range c.partial {
		c.receive(&envelope.CallPart{Call: call, Cancel: true})
	}
	if c.partialBytes != 0 || len(c.partial) != 0 {
		t.Errorf("%d bytes of %d requests are left", c.partialBytes, len(c.partial))
	}
}
