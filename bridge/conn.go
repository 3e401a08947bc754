package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// conn speaks requests and replies over a reader and a writer. One goroutine reads; replies find their
// request by id, and replies to requests that are over are dropped, so that the stream stays in step.
// A broken frame or a broken rule ends the session and fails every request once.
type conn struct {
	writeMu sync.Mutex // held while a frame is written
	w       io.Writer

	mu      sync.Mutex // guards what follows
	nextID  uint64
	pending map[uint64]*exchange
	cancels int   // cancelled requests whose acknowledgement is to come
	stops   Stops // what the acknowledgements said
	err     error // why the session ended

	done chan struct{} // closed when the session ended

	// onBeat sees the worker's heartbeats on the reading goroutine; set before serve.
	onBeat func(*message)
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
	return &conn{w: w, pending: map[uint64]*exchange{}, done: make(chan struct{})}
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
	e := c.pending[m.ID]
	if m.Type == "cancelled" && c.cancels > 0 {
		c.cancels--
		c.stops.Count++
		c.stops.Tokens += int64(m.Tokens)
		c.stops.Longest = max(c.stops.Longest, time.Duration(m.Seconds*float64(time.Second)))
	}
	if e != nil && m.Type == "token" {
		e.credit--
	}
	over := e != nil && e.credit < 0
	c.mu.Unlock()
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
		close(c.done)
	}
}

// failure is why the session ended, or nil.
func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// begin registers a request and sends it. Progress is kept for next only if it is asked for.
func (c *conn) begin(r request, progress bool) (*exchange, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.nextID++
	// Room for the credit and the message that ends the exchange.
	e := &exchange{id: c.nextID, replies: make(chan *message, streamCredit+1)}
	if _, ok := r.(*generateRequest); ok {
		e.credit = streamCredit
	}
	if progress {
		e.progress = make(chan *message, 1)
	}
	c.pending[e.id] = e
	c.mu.Unlock()
	r.header().ID = e.id
	if err := c.send(r); err != nil {
		c.end(e)
		return nil, err
	}
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

// send writes one frame. A write that fails ends the session: the worker is gone, and the caller gets
// the reason from whoever watches the process.
func (c *conn) send(r any) error {
	c.writeMu.Lock()
	err := writeFrame(c.w, r)
	c.writeMu.Unlock()
	if err == nil || errors.Is(err, ErrFrame) {
		return err
	}
	<-c.done
	return c.failure()
}

// next waits for a reply; onProgress, which may be nil, sees progress on the way. If ctx ends first the
// request is cancelled: the worker is told, and ctx's error is returned without waiting for its answer.
func (c *conn) next(ctx context.Context, e *exchange, onProgress func(*message)) (*message, error) {
	for {
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

// cancel tells the worker to stop a request. It does not wait, not even for the pipe: a worker that
// hangs must not hang its caller.
func (c *conn) cancel(e *exchange) {
	c.end(e)
	c.mu.Lock()
	c.cancels++
	c.mu.Unlock()
	go func() { _ = c.send(&bareRequest{head{Type: "cancel", ID: e.id}}) }()
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
