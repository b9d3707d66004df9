package job_test

import (
	"fmt"
	"strings"
	"testing"

	"imgo/envelope"
	"imgo/roles/job"
)

func room(name, body string) *envelope.Envelope {
	return &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: []byte(body), Room: name}}
}

func opened(comet, name string, incarnation, seq uint64) *envelope.Envelope {
	return &envelope.Envelope{Opened: &envelope.RoomOpened{Comet: comet, Room: name, Incarnation: incarnation, Seq: seq}}
}

// denying returns a reply that names every room as empty.
func denying(incarnation, seq uint64) func(*envelope.PushRequest) *envelope.PushReply {
	return func(req *envelope.PushRequest) *envelope.PushReply {
		reply := &envelope.PushReply{Incarnation: incarnation, Seq: seq}
		for _, d := range req.Deliveries {
			if d.Room != "" {
				reply.EmptyRooms = append(reply.EmptyRooms, d.Room)
			}
		}
		return reply
	}
}

// flow sends room messages to a job with the comets a and b, and knows what b must have got.
type flow struct {
	*world
	n    int
	want []string
}

// send sends a message to a room and waits until comet b has it. The message to comet a is
// queued then, or a was left out.
func (f *flow) send(name string) {
	f.t.Helper()
	f.n++
	body := fmt.Sprint(f.n)
	f.live.add(f.t, 0, room(name, body))
	f.want = append(f.want, "room="+name+":"+body)
	f.eventually("b", strings.Join(f.want, " "))
}

// mark sends a message to everyone and waits until both comets have it. Both have everything
// that was sent before then.
func (f *flow) mark() {
	f.t.Helper()
	f.n++
	mark := fmt.Sprint("all:", f.n)
	f.live.add(f.t, 0, &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: fmt.Append(nil, f.n), All: true}})
	f.want = append(f.want, mark)
	f.eventually("b", strings.Join(f.want, " "))
	eventually(f.t, "comet a has the mark", func() bool { return strings.HasSuffix(f.comets["a"].all(), mark) })
}

// got checks what comet a got after first.
func (f *flow) got(first, want string) {
	f.t.Helper()
	f.mark()
	got := strings.TrimPrefix(f.comets["a"].all(), first)
	if want = strings.TrimSpace(want + " all:" + fmt.Sprint(f.n)); strings.TrimSpace(got) != want {
		f.t.Errorf("comet a got %q, want %q", got, want)
	}
}

// learn sends to a room until comet a is left out, and waits until a has everything that was
// sent before.
func (f *flow) learn(name string) {
	f.t.Helper()
	before := f.counter("imgo_job_spared_deliveries_total", "")
	eventually(f.t, "a denial was learned", func() bool {
		f.send(name)
		return f.counter("imgo_job_spared_deliveries_total", "") > before
	})
	f.mark()
}

// TestDeniedRoomIsLeftOut shows that a comet that has denied a room gets no messages of that
// room until the log opens it, and all messages of other rooms.
func TestDeniedRoomIsLeftOut(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learn("x")
	first := f.comets["a"].all()
	for range 5 {
		f.send("x")
	}
	f.live.add(t, 0, opened("a", "y", 1, 6)) // another room
	f.live.add(t, 0, opened("b", "x", 1, 6)) // another comet
	f.send("x")
	f.comets["a"].setReply(nil)
	f.live.add(t, 0, opened("a", "x", 1, 7))
	f.send("x")
	last := f.want[len(f.want)-1]
	f.got(first, last)
}

// TestEmptyRoomOpensEveryRoom shows that an opening without a room opens all rooms.
func TestEmptyRoomOpensEveryRoom(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learn("x")
	f.learn("y")
	first := f.comets["a"].all()
	f.comets["a"].setReply(nil)
	f.live.add(t, 0, opened("a", "", 2, 1))
	f.send("x")
	f.send("y")
	f.got(first, strings.Join(f.want[len(f.want)-2:], " "))
}

// TestOldAnswer shows that an answer that is older than the newest opening in the log is
// ignored. The numbers of different incarnations are not compared.
func TestOldAnswer(t *testing.T) {
	for _, c := range []struct {
		name                string
		incarnation, seq    uint64
		room                string
		openedInc, openedAt uint64
		spared              bool
	}{
		{"older", 1, 5, "x", 1, 6, false},
		{"as new", 1, 6, "x", 1, 6, true},
		{"newer", 1, 7, "x", 1, 6, true},
		{"the comet started again", 1, 7, "", 2, 1, false},
		{"a late opening of an earlier incarnation", 2, 1, "z", 1, 100, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &flow{world: start(t, nil)}
			asked, answer := make(chan struct{}, 1), make(chan struct{})
			first := true
			f.comets["a"].reply = func(req *envelope.PushRequest) *envelope.PushReply {
				if !first {
					return &envelope.PushReply{}
				}
				first = false
				asked <- struct{}{}
				<-answer
				return denying(c.incarnation, c.seq)(req)
			}
			f.send("x")
			<-asked
			f.live.add(t, 0, opened("a", c.room, c.openedInc, c.openedAt))
			// When b has the mark, the job has read the opening before it.
			f.live.add(t, 0, &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: []byte("mark"), All: true}})
			f.want = append(f.want, "all:mark")
			f.eventually("b", strings.Join(f.want, " "))
			close(answer)
			f.eventually("a", "room=x:1 all:mark") // the answer was processed
			f.send("x")
			want := "room=x:2"
			if c.spared {
				want = ""
			}
			f.got("room=x:1 all:mark", want)
		})
	}
}

// TestSkippedRecordsForgetDenials shows that denials are forgotten when a record is skipped: it
// may have opened a room.
func TestSkippedRecordsForgetDenials(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learn("x")
	first := f.comets["a"].all()
	f.live.addRaw(0, []byte{0xff})
	f.send("x")
	f.got(first, f.want[len(f.want)-1])
}

// TestMovedPartitionForgetsDenials shows that a job that gets a partition again has forgotten
// its denials: it does not know what it missed.
func TestMovedPartitionForgetsDenials(t *testing.T) {
	g := newGroup(part(job.Live, 0, 0))
	f := &flow{world: startGrouped(t, g, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learn("x")
	first := f.comets["a"].all()
	g.move(part(job.Live, 0, int64(f.n)))
	eventually(t, "the position is stored", func() bool { return g.at(job.Live, 0) == int64(f.n) })
	f.send("x")
	f.got(first, f.want[len(f.want)-1])
}

// TestReplacedCometForgetsDenials shows that a comet does not inherit the denials of an earlier
// one of the same name.
func TestReplacedCometForgetsDenials(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learn("x")
	f.comets["a"].replace()
	f.send("x")
	f.got("", f.want[len(f.want)-1])
}

// TestDenialsAreBounded shows that denials over the bound are forgotten, and nothing is lost.
func TestDenialsAreBounded(t *testing.T) {
	f := &flow{world: start(t, func(c *job.Config, _ *job.Deps) { c.DeniedRooms = 2 })}
	f.comets["a"].reply = denying(1, 5)
	for i := range 6 {
		f.send(fmt.Sprint("r", i))
		f.eventually("a", strings.Join(f.want, " "))
	}
}
