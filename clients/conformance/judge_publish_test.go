package conformance

import (
	"strings"
	"sync/atomic"

	"imgo/clients/conformance/driver"
	"imgo/transport"
)

// publishFaults returns the faults of publish, outbox, read and dismiss.
func publishFaults() map[string]fault {
	backoff := func(ms int) func(options) {
		return func(o options) { o["min_backoff_ms"], o["max_backoff_ms"] = ms, ms }
	}
	memory := func(o options) { delete(o, "outbox") }
	sent := func(change func(p *transport.Packet)) func(transport.Packet) []transport.Packet {
		return alter(4, change)
	}
	return map[string]fault{
		"publishes without an id": {scenario: "publish", packet: sent(func(p *transport.Packet) { p.ID = 0 })},
		"publishes two at a time": {scenario: "publish", packet: double(1000)},
		"hides replies":           {scenario: "publish", event: falsify(func(e *driver.Event) { e.Body = nil })},
		"rounds published ids": {
			scenario: "publish_ids_of_64_bits", packet: sent(func(p *transport.Packet) { p.ID = uint64(float64(p.ID)) }),
		},
		"has no base":                {scenario: "publish_base", packet: sent(func(p *transport.Packet) { p.ID = 1 })},
		"begins like the one before": {scenario: "publish_next_process", packet: since(func(p *transport.Packet, first uint64) { p.ID = first })},
		"sends again with a new id":  {scenario: "publish_reply_lost", packet: renumber()},
		"does not send again":        {scenario: "publish_without_reply", options: func(o options) { o["request_timeout_ms"] = 3_600_000 }},
		"gives up":                   {scenario: "publish_unavailable", options: backoff(86_400_000)},
		"does not wait for its turn": {scenario: "publish_unavailable_waits", options: backoff(1)},
		"hides refusals":             {scenario: "publish_refused", event: falsify(func(e *driver.Event) { e.Code = "" })},
		"sends what has arrived": {
			scenario: "publish_arrived", packet: since(func(p *transport.Packet, first uint64) { p.ID = min(p.ID, first+1) }),
		},
		"keeps its ids": {
			scenario: "publish_shared_device", packet: since(func(p *transport.Packet, first uint64) { p.ID = min(p.ID, first+1) }),
		},
		"has an outbox of its own each time": {scenario: "outbox_restored", options: memory},
		"publishes without end": {scenario: "outbox_full", event: falsify(func(e *driver.Event) {
			e.Event = strings.Replace(e.Event, "failed", "done", 1)
		})},
		"has no outbox":            {scenario: "outbox_restart", options: memory},
		"forgets its outbox":       {scenario: "outbox_killed", options: memory},
		"closes the outbox":        {scenario: "outbox_after_close", options: memory},
		"has an outbox that works": {scenario: "outbox_that_fails", unheard: "fail_outbox"},
		"reads up to nothing":      {scenario: "read", packet: alter(24, func(p *transport.Packet) { p.ID = 0 })},
		"reads nothing":            {scenario: "read", packet: alter(24, func(p *transport.Packet) { p.Body = nil })},
		"dismisses nothing":        {scenario: "dismiss", event: falsify(func(e *driver.Event) { e.IDs = nil })},
		"dismisses up to nothing":  {scenario: "dismiss", event: falsify(func(e *driver.Event) { e.UpTo = 0 })},
	}
}

// alter changes each packet with an operation.
func alter(op int32, change func(p *transport.Packet)) func(transport.Packet) []transport.Packet {
	return func(p transport.Packet) []transport.Packet {
		if p.Op == op {
			change(&p)
		}
		return []transport.Packet{p}
	}
}

// since changes each packet with operation 4. first is the id of the first one.
func since(change func(p *transport.Packet, first uint64)) func(transport.Packet) []transport.Packet {
	var first atomic.Uint64
	return alter(4, func(p *transport.Packet) {
		first.CompareAndSwap(0, p.ID)
		change(p, first.Load())
	})
}

// double follows each packet with an operation by another one.
func double(op int32) func(transport.Packet) []transport.Packet {
	return func(p transport.Packet) []transport.Packet {
		if p.Op != op {
			return []transport.Packet{p}
		}
		next := p
		next.Op, next.ID, next.Seq = 4, p.ID+1, p.Seq+1
		return []transport.Packet{p, next}
	}
}

// renumber gives each packet with operation 4 another id.
func renumber() func(transport.Packet) []transport.Packet {
	var sent atomic.Uint64
	return alter(4, func(p *transport.Packet) { p.ID += sent.Add(1) - 1 })
}
