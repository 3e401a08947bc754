package turn

import (
	"context"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Block is a part of an answer of one kind: a thought, a text or a call.
type Block struct {
	Kind   EventKind
	Text   string
	Call   mlx.ToolCall
	Tokens []mlx.Token
}

// BlockWriter is told of blocks as they grow, one after the other. Open has the block without its text, and a call whole.
type BlockWriter interface {
	Open(i int, b *Block) error
	Grow(i int, b *Block, e Event) error
	Close(i int, b *Block) error
}

// Reply is a whole answer.
type Reply struct {
	Outcome
	Blocks []*Block
}

// RunBlocks generates the answer as blocks; writer may be nil. So a stream is the whole by construction.
func (t *Turn) RunBlocks(ctx context.Context, writer BlockWriter) (Reply, error) {
	var r Reply
	open := false
	last := func() (int, *Block) { return len(r.Blocks) - 1, r.Blocks[len(r.Blocks)-1] }
	end := func() error {
		if !open || writer == nil {
			return nil
		}
		open = false
		return writer.Close(last())
	}
	outcome, err := t.Run(ctx, func(e Event) error {
		if n := len(r.Blocks); n == 0 || e.Kind == Call || r.Blocks[n-1].Kind != e.Kind {
			if err := end(); err != nil {
				return err
			}
			r.Blocks, open = append(r.Blocks, &Block{Kind: e.Kind, Call: e.Call}), true
			if writer != nil {
				if err := writer.Open(last()); err != nil {
					return err
				}
			}
		}
		i, b := last()
		b.Text += e.Text
		b.Tokens = append(b.Tokens, e.Tokens...)
		if writer == nil {
			return nil
		}
		return writer.Grow(i, b, e)
	})
	r.Outcome = outcome
	if err == nil {
		err = end()
	}
	return r, err
}

// Joined is the text of all blocks of a kind.
func (r Reply) Joined(kind EventKind) (text string) {
	for _, b := range r.Blocks {
		if b.Kind == kind {
			text += b.Text
		}
	}
	return text
}

// Sink takes the events of a stream.
type Sink interface {
	// Send writes one event; name may be empty.
	Send(name string, value any) error
	// Done ends the stream as the API's clients expect it.
	Done()
}

// Request is one of an API that generates an answer: plain translation to a wish, and of the answer back.
type Request interface {
	// ModelName is the model that the request names; "" for none.
	ModelName() string
	Streams() bool
	Wish() (*Wish, error)
	// AnswerWhole generates the answer in one piece.
	AnswerWhole(ctx context.Context, t *Turn) (any, error)
	// AnswerStream sends the answer as it grows.
	AnswerStream(ctx context.Context, t *Turn, out Sink) error
	// Fail ends a stream that has begun.
	Fail(out Sink, e *Error)
	// Named is what the API calls the fields behind options.
	Named() Names
}
