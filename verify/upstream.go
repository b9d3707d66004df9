package verify

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"imgo/clients/go/raw"
	"imgo/protocol"
)

const (
	// upstreamOp is the operation of the messages for the backend.
	upstreamOp = protocol.OpSend
	// upstreamShare is how likely a device without the SDK begins another message, five times a second.
	upstreamShare = 0.05
	// doubleShare is the share of messages that are sent twice at once.
	doubleShare = 0.2
	// resendAfter is how long a device waits for an answer before it sends the message again.
	resendAfter = 2 * time.Second
)

// EventSettings are the settings of a server that Events.Upstream and Events.Presence need.
const EventSettings = "\n[[upstream]]\nops = [\"4\"]\nto = \"events\"\n\n[presence]\nevents = true\n"

// upstreamMessage is the body of a message for the backend. ID is the device's id of it.
type upstreamMessage struct {
	Run string `json:"verify"`
	ID  uint64 `json:"n"`
}

// publisher is what a device has sent for the backend, over all its connections: one message at a time. The lock of the
// device guards it.
type publisher struct {
	begun, answered uint64
}

// pending returns the message that has no answer yet. If there is none, it may begin another one. 0: there is nothing to
// send.
func (d *device) pending() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.publisher
	if p.begun == p.answered {
		if d.v.pushingEnded() || rand.Float64() >= upstreamShare {
			return 0
		}
		p.begun++
	}
	return p.begun
}

// answered records the answer to a message for the backend.
func (d *device) answered(id uint64) {
	d.mu.Lock()
	known := id == d.publisher.begun
	if known {
		d.publisher.answered = id
	}
	d.mu.Unlock()
	if known {
		d.v.events.judge.Published(d.account.name, d.name, id)
	}
}

// publishes reports whether the device sends messages for the backend.
func (d *device) publishes() bool {
	e := d.v.cfg.Events
	return e != nil && e.Upstream && !d.kind.sdk() && d.kind != DeviceDriver && d.kind != DeviceNoAck
}

// publish sends the message that is due. After a lost answer it sends the message again, also over the next connection.
func (c *conn) publish(deadline time.Time) error {
	d := c.d
	if !d.publishes() || d.v.now() < c.publishAt {
		return nil
	}
	id := d.pending()
	if id == 0 {
		return nil
	}
	c.publishAt = d.v.now() + resendAfter
	body, err := json.Marshal(upstreamMessage{Run: d.v.prefix, ID: id})
	if err != nil {
		return fmt.Errorf("write a message for the backend: %w", err)
	}
	d.v.events.judge.Publishing(d.account.name, d.name, id)
	times := 1
	if rand.Float64() < doubleShare {
		times = 2
	}
	for range times {
		if err := c.Write(deadline, raw.Packet{Op: upstreamOp, Seq: int32(id), ID: id, Body: body}); err != nil {
			return err
		}
	}
	return nil
}

// refused is the body of op 28.
type refused struct {
	Op      int32  `json:"op"`
	Code    string `json:"code"`
	Reason  string `json:"reason"`
	RetryMS int64  `json:"retry_ms"`
}

// noteUpstream handles the answer to a message for the backend.
func (c *conn) noteUpstream(p raw.Packet) {
	if p.Op == upstreamOp {
		c.d.answered(uint64(p.Seq))
		return
	}
	var r refused
	if err := json.Unmarshal(p.Body, &r); err == nil && r.Op == upstreamOp && r.RetryMS == 0 {
		c.d.v.problem("%s: message %d for the backend was refused for good: %s: %s", c.d, p.Seq, r.Code, r.Reason)
	}
}

// checkPublished checks what the auth reply says of the device's last message for the backend.
func (d *device) checkPublished(text string) error {
	if !d.publishes() || text == "" {
		return nil
	}
	id, err := strconv.ParseUint(text, 10, 64)
	d.mu.Lock()
	p := d.publisher
	d.mu.Unlock()
	if err != nil || id > p.begun || id < p.answered {
		return fmt.Errorf("%w: the last message for the backend is %q in the auth reply, %d was sent and %d answered", errProtocol, text, p.begun,
			p.answered)
	}
	return nil
}

// unanswered returns the number of devices whose message for the backend has no answer yet.
func (o *observer) unanswered() (n int) {
	for _, d := range o.v.devices {
		d.mu.Lock()
		if d.publisher.begun > d.publisher.answered {
			n++
		}
		d.mu.Unlock()
	}
	return n
}
