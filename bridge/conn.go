package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// conn speaks requests and replies over a reader and a writer. One goroutine reads, and one writes what is queued for it, so
// that no caller blocks on a pipe that a stopped worker does not empty. Replies find their request by id, and replies to
// requests that are over are dropped, so that the stream stays in step. A broken frame or a broken rule ends the session and
// fails every request once.
type conn struct {
	w io.Writer

	mu           sync.Mutex // guards what follows
	nextID       uint64
	pending      map[uint64]*exchange
	queue        []outgoing      // frames that are not written yet
	writing      bool            // a goroutine writes the queue
	cancels      map[uint64]bool // requests whose cancels the worker has not acknowledged yet
	lastCancelAt time.Time       // when the last cancel was sent
	stops        Stops           // the sum of what the acknowledgements reported
	pass         []uint64        // requests that the worker last said it was computing; nil if it never said
	err          error           // why the session ended

	done chan struct{} // closed when the session ended

	// onBeat sees the worker's heartbeats on the reading goroutine; set before serve.
	onBeat func(*message)
	// onSettled is called on the reading goroutine when the worker has acknowledged every cancel; set before serve.
	onSettled func()
}

// outgoing is a frame that is to be written, the request that it belongs to, and whether it is that request's first.
type outgoing struct {
	id     uint64
	begins bool
	frame  []byte
}

// Stops sums up how cancelled requests stopped.
type Stops struct {
	Count   int64
	Tokens  int64         // tokens that the cancelled requests had made
	Longest time.Duration // from the worker's reading of a cancel to the end of the work
}

// exchange is a request whose replies are awaited. Replies are queued for the requester; a worker may
// not send more than the queue holds, so reading never waits for a slow requester.
type exchange struct {
	id      uint64
	replies chan *message
	credit  int // tokens that the worker may still send; guarded by conn.mu
	// progress holds the latest progress message that the requester has not seen; nil if it does not ask.
	progress chan *message
}

// streamCredit is how many tokens a worker may send ahead of a stream's reader; half of it is given
// back at a time.
const streamCredit = 64

// errProtocol is wrapped by errors about a worker that breaks the rules.
var errProtocol = errors.New("bridge: worker broke the protocol")

func newConn(w io.Writer) *conn {
	return &conn{w: w, pending: map[uint64]*exchange{}, cancels: map[uint64]bool{}, done: make(chan struct{})}
}

// serve reads messages until the session ends and returns why. The end of the stream is io.EOF.
func (c *conn) serve(r io.Reader) error {
	for {
		m, err := readFrame(r)
		if err == nil {
			err = c.deliver(m)
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) deliver(m *message) error {
	if m.Type == "beat" {
		if c.onBeat != nil {
			c.onBeat(m)
		}
		return nil
	}
	c.mu.Lock()
	if m.Type == "pass" {
		c.pass = append([]uint64{}, m.Requests...)
		c.mu.Unlock()
		return nil
	}
	e, settled := c.pending[m.ID], false
	if m.Type == "cancelled" && c.cancels[m.ID] {
		delete(c.cancels, m.ID)
		c.stops.Count++
		c.stops.Tokens += int64(m.Tokens)
		c.stops.Longest = max(c.stops.Longest, time.Duration(m.Seconds*float64(time.Second)))
		settled = len(c.cancels) == 0
	}
	if e != nil && m.Type == "token" {
		e.credit--
	}
	over := e != nil && e.credit < 0
	c.mu.Unlock()
	if settled && c.onSettled != nil {
		c.onSettled()
	}
	if e == nil {
		return nil
	}
	if over {
		return fmt.Errorf("%w: a token of request %d without credit for it", errProtocol, m.ID)
	}
	switch m.Type {
	case "progress":
		// Only this goroutine puts in, so after one is taken out there is room.
		if e.progress != nil {
			select {
			case <-e.progress:
			default:
			}
			e.progress <- m
		}
		return nil
	case "result", "token", "cancelled", "error":
	default:
		return fmt.Errorf("%w: message of type %q", errProtocol, m.Type)
	}
	select {
	case e.replies <- m:
		return nil
	default:
		return fmt.Errorf("%w: a second end of request %d", errProtocol, m.ID)
	}
}

// fail ends the session: every request, present and future, gets err. Only the first call counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.queue = nil
		close(c.done)
	}
}

// failure is why the session ended, or nil.
func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// computed reports whether a request was among those that the worker last said it was computing. A worker that never said so may have
// been computing any.
func (c *conn) computed(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pass == nil || slices.Contains(c.pass, id)
}

// lingers reports whether a request was cancelled and the worker has not said that it is through with it.
func (c *conn) lingers(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cancels[id]
}

// lastCancel is when the last request was cancelled, if the worker has not acknowledged all cancels.
func (c *conn) lastCancel() (at time.Time, lingering bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastCancelAt, len(c.cancels) > 0
}

// begin registers a request and queues it for the worker. Progress is kept for next only if it is asked for.
func (c *conn) begin(r request, progress bool) (*exchange, error) {
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.mu.Unlock()
	r.header().ID = id
	frame, err := encodeFrame(r) // without the lock: a long one takes its time
	if err != nil {
		return nil, err
	}
	// Room for the credit and the message that ends the exchange.
	e := &exchange{id: id, replies: make(chan *message, streamCredit+1)}
	if _, ok := r.(*generateRequest); ok {
		e.credit = streamCredit
	}
	if progress {
		e.progress = make(chan *message, 1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enqueue(outgoing{id, true, frame}); err != nil {
		return nil, err
	}
	c.pending[e.id] = e
	return e, nil
}

// grant lets the worker send n more tokens of a stream.
func (c *conn) grant(e *exchange, n int) error {
	c.mu.Lock()
	e.credit += n
	c.mu.Unlock()
	return c.send(&creditRequest{head{Type: "credit", ID: e.id}, n})
}

// end forgets a request; replies that are still to come are dropped.
func (c *conn) end(e *exchange) {
	c.mu.Lock()
	delete(c.pending, e.id)
	c.mu.Unlock()
}

// send queues one frame that begins nothing.
func (c *conn) send(r request) error {
	frame, err := encodeFrame(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enqueue(outgoing{r.header().ID, false, frame})
}

// enqueue has a frame written. It does not wait for the pipe. Caller must hold c.mu.
func (c *conn) enqueue(o outgoing) error {
	if c.err != nil {
		return c.err
	}
	c.queue = append(c.queue, o)
	if !c.writing {
		c.writing = true
		go c.write()
	}
	return nil
}

// write writes the queue until it is empty. A write that fails leaves the session to whoever reads: the worker is gone, or its
// stdin is closed.
func (c *conn) write() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.err != nil {
			c.writing, c.queue = false, nil
			c.mu.Unlock()
			return
		}
		next := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		if _, err := c.w.Write(next.frame); err != nil {
			c.mu.Lock()
			c.queue = nil // writing stays set: nothing more can be written
			c.mu.Unlock()
			return
		}
	}
}

// next waits for a reply; onProgress, which may be nil, sees progress on the way. If ctx ends first the
// request is cancelled: the worker is told, and ctx's error is returned without waiting for its answer.
func (c *conn) next(ctx context.Context, e *exchange, onProgress func(*message)) (*message, error) {
	for {
		select {
		case m := <-e.progress: // it came before the reply, if that is there, too
			onProgress(m)
		default:
		}
		select {
		case m := <-e.replies:
			return c.opened(m)
		default:
		}
		select {
		case m := <-e.replies:
			return c.opened(m)
		case m := <-e.progress:
			onProgress(m)
		case <-ctx.Done():
			c.cancel(e)
			return nil, ctx.Err()
		case <-c.done:
			// What arrived before the end still counts.
			select {
			case m := <-e.replies:
				return c.opened(m)
			default:
				return nil, c.failure()
			}
		}
	}
}

func (c *conn) opened(m *message) (*message, error) {
	switch m.Type {
	case "error":
		return nil, remoteError(m)
	case "cancelled":
		return nil, fmt.Errorf("%w: a request was cancelled that nobody cancelled", errProtocol)
	}
	return m, nil
}

// cancel stops a request. It does not wait. A request whose frame is still in the queue is taken out of it; of another one the
// worker is told. On a request that is over it does nothing.
func (c *conn) cancel(e *exchange) {
	frame, err := encodeFrame(&bareRequest{head{Type: "cancel", ID: e.id}})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[e.id] != e {
		return
	}
	delete(c.pending, e.id)
	unsent := slices.ContainsFunc(c.queue, func(o outgoing) bool { return o.id == e.id && o.begins })
	c.queue = slices.DeleteFunc(c.queue, func(o outgoing) bool { return o.id == e.id })
	if unsent {
		return
	}
	if err == nil && c.enqueue(outgoing{e.id, false, frame}) == nil {
		c.cancels[e.id], c.lastCancelAt = true, time.Now()
	}
}

// call sends a request and waits for its one reply.
func (c *conn) call(ctx context.Context, r request, onProgress func(*message)) (*message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, err := c.begin(r, onProgress != nil)
	if err != nil {
		return nil, err
	}
	defer c.end(e)
	return c.next(ctx, e, onProgress)
}
