package bridge

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrHung is wrapped by the error of a request whose worker made no progress and was killed. The
// WorkerError around it holds the Python stack of all threads.
var ErrHung = errors.New("python worker hangs")

// watchdog tells a hung worker from a busy one by its progress, not by the time a request takes. A
// worker counts what it gets done and says so in its heartbeats; while it loads, what it prints and what
// its process consumes counts too.
type watchdog struct {
	stall   time.Duration
	printed func() int64 // bytes of output so far
	hung    func(error)

	mu       sync.Mutex // guards what follows
	last     message    // the last beat
	beaten   time.Time  // when it came
	progress time.Time  // when something last got done
	output   int64
}

func newWatchdog(stall time.Duration, printed func() int64, hung func(error)) *watchdog {
	now := time.Now()
	d := &watchdog{stall: stall, printed: printed, hung: hung, beaten: now, progress: now}
	d.last.Phase = "start"
	return d
}

// beat takes a heartbeat.
func (d *watchdog) beat(m *message) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.Phase == "idle" || m.Phase != d.last.Phase || m.Work != d.last.Work {
		d.progress = now
	}
	d.last, d.beaten = *m, now
}

// run looks until done is closed or the worker was found hung.
func (d *watchdog) run(done <-chan struct{}) {
	interval := max(d.stall/8, 10*time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-done:
			return
		case <-ticker.C:
			now := time.Now()
			d.excuse(now.Sub(last) - interval)
			last = now
			if err := d.check(now); err != nil {
				d.hung(err)
				return
			}
		}
	}
}

// excuse does not count time in which this program itself was stopped (by SIGSTOP, a debugger, a paused virtual machine): the worker
// was most likely stopped, too.
func (d *watchdog) excuse(late time.Duration) {
	if late <= d.stall/8 { // ticks may be a little late
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beaten, d.progress = d.beaten.Add(late), d.progress.Add(late)
}

func (d *watchdog) check(now time.Time) error {
	printed := d.printed()
	d.mu.Lock()
	defer d.mu.Unlock()
	if printed != d.output && (d.last.Phase == "start" || d.last.Phase == "load") {
		d.output, d.progress = printed, now
	}
	quiet, silent := now.Sub(d.progress), now.Sub(d.beaten)
	switch {
	case quiet <= d.stall:
		return nil
	case silent > d.stall:
		return fmt.Errorf("%w: no heartbeat for %v in phase %q", ErrHung, silent.Round(time.Millisecond), d.last.Phase)
	default:
		return fmt.Errorf("%w: no progress for %v in phase %q", ErrHung, quiet.Round(time.Millisecond), d.last.Phase)
	}
}

// state is the last beat and how long ago something last got done.
func (d *watchdog) state() (last message, quiet time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, time.Since(d.progress)
}
