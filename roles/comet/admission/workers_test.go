package admission_test

import (
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/roles/comet/admission"
)

// task is a Task made of a function.
type task func()

func (t task) Run() { t() }

// TestWorkersRunAll checks that tasks that wait hold no other task up, and that
// Stop waits for all of them.
func TestWorkersRunAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.NewWorkers()
		var done atomic.Int32
		for range 100 {
			w.Run(task(func() {
				time.Sleep(time.Second)
				done.Add(1)
			}))
		}
		began := time.Now()
		w.Stop()
		if took := time.Since(began); took != time.Second || done.Load() != 100 {
			t.Errorf("%d of 100 tasks ran within %v, want all within a second", done.Load(), took)
		}
	})
}

// TestWorkersStop checks that a task may start another one while Stop waits.
func TestWorkersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.NewWorkers()
		for range 10 { // leaves idle workers behind
			w.Run(task(func() { time.Sleep(time.Millisecond) }))
		}
		var second atomic.Bool
		w.Run(task(func() {
			time.Sleep(time.Second)
			w.Run(task(func() { second.Store(true) }))
		}))
		w.Stop()
		if !second.Load() {
			t.Error("Stop returned before all tasks had run")
		}
	})
}

// workerStarts matches the line of a stack that says that a Workers started the goroutine.
var workerStarts = regexp.MustCompile(`created by \S+/roles/comet/admission\.\(\*Workers\)\.Run`)

// countWorkers returns the number of goroutines of all Workers.
func countWorkers() int {
	stacks := make([]byte, 1<<20)
	return len(workerStarts.FindAll(stacks[:runtime.Stack(stacks, true)], -1))
}

// TestWorkersTrim checks that workers stay while they are needed, and that Trim
// leaves a few of those that are not.
func TestWorkersTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.NewWorkers()
		burst := func() {
			for range 50 {
				w.Run(task(func() { time.Sleep(time.Millisecond) }))
			}
			time.Sleep(time.Second)
		}
		for _, want := range []int{50, 50, 50} {
			burst()
			w.Trim()
			synctest.Wait()
			if n := countWorkers(); n != want {
				t.Errorf("%d workers, want %d", n, want)
			}
		}
		w.Trim()
		synctest.Wait()
		if n := countWorkers(); n != 4 {
			t.Errorf("%d workers after they were idle for a while, want 4", n)
		}
		w.Stop()
	})
}

// TestRunNear checks that every task runs, from many goroutines at once and while
// a task waits.
func TestRunNear(t *testing.T) {
	w := admission.NewWorkers()
	hold := make(chan struct{})
	w.RunNear(task(func() { <-hold }))
	var tasks, callers sync.WaitGroup
	tasks.Add(4 * 1000)
	for range 4 {
		callers.Go(func() {
			for i := range 1000 {
				if i == 500 {
					runtime.Gosched()
				}
				w.RunNear(task(tasks.Done))
			}
		})
	}
	callers.Wait()
	tasks.Wait()
	close(hold)
	w.Stop()
}

// TestRunNearOften gives one task after another from a goroutine that waits for
// each of them.
func TestRunNearOften(t *testing.T) {
	w := admission.NewWorkers()
	done := make(chan struct{})
	for range 10_000 {
		w.RunNear(task(func() { done <- struct{}{} }))
		<-done
	}
	w.Stop()
}

// BenchmarkHandOver measures a task from Run to its end, by a goroutine that waits
// for it.
func BenchmarkHandOver(b *testing.B) {
	for name, run := range map[string]func(*admission.Workers, admission.Task){
		"run": (*admission.Workers).Run, "near": (*admission.Workers).RunNear,
	} {
		b.Run(name, func(b *testing.B) {
			w := admission.NewWorkers()
			defer w.Stop()
			done := make(chan struct{})
			t := task(func() { done <- struct{}{} })
			b.ReportAllocs()
			for b.Loop() {
				run(w, t)
				<-done
			}
		})
	}
}
