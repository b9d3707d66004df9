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

// denying answers that nobody is in any room.
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

// flow adds a message for a room and waits until comet b has it: then a was
// told before, or was left out.
type flow struct {
	*world
	n    int
	want []string
}

func (f *flow) send(name string) {
	f.t.Helper()
	f.n++
	body := fmt.Sprint(f.n)
	f.live.add(f.t, 0, room(name, body))
	f.want = append(f.want, "room="+name+":"+body)
	f.eventually("b", strings.Join(f.want, " "))
}

// mark tells everyone something, and waits until both have it: then they have
// all that was sent before.
func (f *flow) mark() {
	f.t.Helper()
	f.n++
	mark := fmt.Sprint("all:", f.n)
	f.live.add(f.t, 0, &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: fmt.Append(nil, f.n), All: true}})
	f.want = append(f.want, mark)
	f.eventually("b", strings.Join(f.want, " "))
	eventually(f.t, "comet a has the mark", func() bool { return strings.HasSuffix(f.comets["a"].all(), mark) })
}

// told checks what comet a has been told since it had been told first.
func (f *flow) told(first, want string) {
	f.t.Helper()
	f.mark()
	got := strings.TrimPrefix(f.comets["a"].all(), first)
	if want = strings.TrimSpace(want + " all:" + fmt.Sprint(f.n)); strings.TrimSpace(got) != want {
		f.t.Errorf("comet a was told %q, want %q", got, want)
	}
}

// learned sends to a room until comet a is left out, and waits until a has all
// that was sent before.
func (f *flow) learned(name string) {
	f.t.Helper()
	before := f.counter("imgo_job_spared_deliveries_total", "")
	eventually(f.t, "a denial was learned", func() bool {
		f.send(name)
		return f.counter("imgo_job_spared_deliveries_total", "") > before
	})
	f.mark()
}

// A comet that said that nobody is in a room is told nothing of that room
// until the log says that it is open, and of other rooms everything.
func TestDeniedRoomIsLeftOut(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learned("x")
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
	f.told(first, last)
}

// An empty room opens all of them.
func TestComingBackOpensEveryRoom(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learned("x")
	f.learned("y")
	first := f.comets["a"].all()
	f.comets["a"].setReply(nil)
	f.live.add(t, 0, opened("a", "", 2, 1))
	f.send("x")
	f.send("y")
	f.told(first, strings.Join(f.want[len(f.want)-2:], " "))
}

// An answer that is older than what the log said since counts for nothing; one
// of another incarnation is not compared by its number.
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
		{"a late opening of one that has died", 2, 1, "z", 1, 100, true},
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
			// Whatever lies after the opening was read by b: so was the opening.
			f.live.add(t, 0, &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: []byte("mark"), All: true}})
			f.want = append(f.want, "all:mark")
			f.eventually("b", strings.Join(f.want, " "))
			close(answer)
			f.eventually("a", "room=x:1 all:mark") // the answer has been dealt with
			f.send("x")
			want := "room=x:2"
			if c.spared {
				want = ""
			}
			f.told("room=x:1 all:mark", want)
		})
	}
}

// What was skipped may have said that a room is open.
func TestSkippedRecordsForgetDenials(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learned("x")
	first := f.comets["a"].all()
	f.live.addRaw(0, []byte{0xff})
	f.send("x")
	f.told(first, f.want[len(f.want)-1])
}

// A job that gets a partition again does not know what it missed.
func TestMovedPartitionForgetsDenials(t *testing.T) {
	g := newGroup(part(job.Live, 0, 0))
	f := &flow{world: grouped(t, g, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learned("x")
	first := f.comets["a"].all()
	g.move(part(job.Live, 0, int64(f.n)))
	eventually(t, "the position is stored", func() bool { return g.at(job.Live, 0) == int64(f.n) })
	f.send("x")
	f.told(first, f.want[len(f.want)-1])
}

// Another comet of the same name has denied nothing.
func TestAnotherCometForgetsDenials(t *testing.T) {
	f := &flow{world: start(t, nil)}
	f.comets["a"].reply = denying(1, 5)
	f.learned("x")
	f.comets["a"].replace()
	f.send("x")
	f.told("", f.want[len(f.want)-1])
}

// Past the bound denials are forgotten, and nothing is lost.
func TestDenialsAreBounded(t *testing.T) {
	f := &flow{world: start(t, func(_ *world, c *job.Config, _ *job.Deps) { c.DeniedRooms = 2 })}
	f.comets["a"].reply = denying(1, 5)
	for i := range 6 {
		f.send(fmt.Sprint("r", i))
		f.eventually("a", strings.Join(f.want, " "))
	}
}
