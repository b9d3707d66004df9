package admission

import "sync"

// keptWorkers is how many idle goroutines Trim leaves.
const keptWorkers = 4

// Task is work that may wait. A Task runs on one worker at a time.
type Task interface{ Run() }

// Workers runs tasks, each on a goroutine of its own, so that a task may wait.
// Goroutines are used again, because the stacks that they have grown are worth
// keeping while there is much to do; Trim ends those that were not needed. There
// are never more of them than tasks that ran at the same time. Workers is safe
// for concurrent use. Make it with NewWorkers.
type Workers struct {
	mu      sync.Mutex
	wake    *sync.Cond
	tasks   fifo[Task]
	idle    int // goroutines that wait for a task and have not been woken
	unused  int // the smallest idle since the last Trim
	surplus int // how many goroutines are to end when they find no task
	stopped bool
	wg      sync.WaitGroup

	nearOnce sync.Once
	near     *nearWorker // nil: not needed yet, or not to be had
}

// NewWorkers makes Workers without a goroutine yet.
func NewWorkers() *Workers {
	w := &Workers{}
	w.wake = sync.NewCond(&w.mu)
	return w
}

// Run has a worker run t soon. It never waits for that.
func (w *Workers) Run(t Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks.push(t)
	if w.idle > 0 {
		w.idle-- // here, so that the next task does not count on the same worker
		w.unused = min(w.unused, w.idle)
		w.wake.Signal()
		return
	}
	w.wg.Add(1)
	go w.work()
}

// RunNear is Run for a goroutine that has nothing else to do and will wait at
// once. If possible it runs t on the same processor and wakes no other one, which
// is cheaper when nothing else happens.
func (w *Workers) RunNear(t Task) {
	w.nearOnce.Do(func() {
		near, err := newNearWorker()
		if err != nil {
			return
		}
		w.near = near
		w.wg.Go(near.work)
	})
	if w.near == nil || !w.near.run(t) {
		w.Run(t)
	}
}

func (w *Workers) work() {
	defer w.wg.Done()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.tasks.len() > 0 {
			t := w.tasks.pop()
			w.mu.Unlock()
			t.Run()
			w.mu.Lock()
			continue
		}
		if w.stopped || w.surplus > 0 {
			w.surplus = max(w.surplus-1, 0)
			return
		}
		w.idle++
		w.wake.Wait()
	}
}

// Trim ends the goroutines that were idle ever since the last Trim, but for a
// few.
func (w *Workers) Trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := min(w.unused, w.idle-keptWorkers); n > 0; n-- {
		w.idle--
		w.surplus++
		w.wake.Signal()
	}
	w.unused = w.idle
}

// Stop ends the goroutines once all tasks have run, and waits for that. Run must
// not be called any more, except by a task.
func (w *Workers) Stop() {
	w.mu.Lock()
	w.stopped, w.idle = true, 0 // all are woken
	w.wake.Broadcast()
	w.mu.Unlock()
	w.nearOnce.Do(func() {})
	if w.near != nil {
		w.near.close()
	}
	w.wg.Wait()
}
