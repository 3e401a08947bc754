package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
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
	err     error // why the session ended

	done chan struct{} // closed when the session ended
}

// exchange is a request whose replies are awaited. Replies are queued for the requester; a worker may
// not send more than the queue holds, so reading never waits for a slow requester.
type exchange struct {
	id      uint64
	replies chan *message
	// onProgress sees progress messages on the reading goroutine; it may be nil and must not wait.
	onProgress func(*message)
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
	c.mu.Lock()
	e := c.pending[m.ID]
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	switch m.Type {
	case "progress":
		if e.onProgress != nil {
			e.onProgress(m)
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
		return fmt.Errorf("%w: more than %d messages ahead of request %d", errProtocol, cap(e.replies), m.ID)
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

// begin registers a request and sends it.
func (c *conn) begin(r request, onProgress func(*message)) (*exchange, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.nextID++
	// Room for the credit and the message that ends the exchange.
	e := &exchange{id: c.nextID, replies: make(chan *message, streamCredit+1), onProgress: onProgress}
	c.pending[e.id] = e
	c.mu.Unlock()
	r.header().ID = e.id
	if err := c.send(r); err != nil {
		c.end(e)
		return nil, err
	}
	return e, nil
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

// next waits for a reply. If ctx ends first the request is cancelled: the worker is told, and ctx's
// error is returned without waiting for its answer.
func (c *conn) next(ctx context.Context, e *exchange) (*message, error) {
	select {
	case m := <-e.replies:
		return c.opened(m)
	default:
	}
	select {
	case m := <-e.replies:
		return c.opened(m)
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

func (c *conn) opened(m *message) (*message, error) {
	switch m.Type {
	case "error":
		return nil, remoteError(m)
	case "cancelled":
		return nil, context.Canceled
	}
	return m, nil
}

// cancel tells the worker to stop a request. It does not wait, not even for the pipe: a worker that
// hangs must not hang its caller.
func (c *conn) cancel(e *exchange) {
	c.end(e)
	go func() { _ = c.send(&bareRequest{head{Type: "cancel", ID: e.id}}) }()
}

// call sends a request and waits for its one reply.
func (c *conn) call(ctx context.Context, r request, onProgress func(*message)) (*message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, err := c.begin(r, onProgress)
	if err != nil {
		return nil, err
	}
	defer c.end(e)
	return c.next(ctx, e)
}
