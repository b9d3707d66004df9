package comet

import (
	"sync"
	"sync/atomic"
)

// idleReaders is how many goroutines stay for the next reading, and as many for
// the next client that authenticates.
const idleReaders = 4

// readers runs who has something to read. What a client asks for may have to
// wait for logic, so each reading has a goroutine, of which a few stay for the
// next one, with the stack that they have grown. (One that is alone has that of
// who heard of it: session.Readable.) There are never more of them
// than connections, each of which reads once at a time.
type readers struct {
	next chan reader
	idle atomic.Int32
	stop chan struct{}
	wg   sync.WaitGroup
}

// reader is a connection that is to be read.
type reader interface{ read() }

func newReaders() *readers {
	return &readers{next: make(chan reader), stop: make(chan struct{})}
}

// run has r read, soon, and does not wait for it.
func (rs *readers) run(r reader) {
	select {
	case rs.next <- r:
	default:
		rs.wg.Add(1)
		go rs.work(r)
	}
}

func (rs *readers) work(r reader) {
	defer rs.wg.Done()
	for {
		r.read()
		r = nil //nolint:wastedassign // it is not to be held while there is nothing to read
		if rs.idle.Add(1) > idleReaders {
			rs.idle.Add(-1)
			return
		}
		select {
		case r = <-rs.next:
			rs.idle.Add(-1)
		case <-rs.stop:
			return
		}
	}
}

// end waits for everyone, after the last run.
func (rs *readers) end() {
	close(rs.stop)
	rs.wg.Wait()
}
