package turn

import (
	"context"
	"encoding/json"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// Block is a part of an answer of one kind: a thought, a text or a call.
type Block struct {
	Kind   EventKind
	Text   string // of a call, its arguments as the model wrote them: no JSON, if they were cut off
	Call   mlx.ToolCall
	Tokens []mlx.Token
	Cut    bool // the answer reached its limit within this block
}

// BlockWriter is told of blocks as they grow, one after the other. Open has the block without its text, and a call without
// its arguments.
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

// RunBlocks generates the answer as blocks; writer may be nil. Streams and whole answers are made by the same code, so they agree.
func (t *Turn) RunBlocks(ctx context.Context, writer BlockWriter) (Reply, error) {
	var r Reply
	open := false
	last := func() (int, *Block) { return len(r.Blocks) - 1, r.Blocks[len(r.Blocks)-1] }
	end := func() error {
		if !open {
			return nil
		}
		open = false
		i, b := last()
		if b.Kind == Call {
			b.Call.Function.Arguments = WholeArguments(b.Text)
		}
		if writer == nil {
			return nil
		}
		return writer.Close(i, b)
	}
	outcome, err := t.Run(ctx, func(e Event) error {
		if n := len(r.Blocks); e.Kind != Arguments && (n == 0 || e.Kind == Call || r.Blocks[n-1].Kind != e.Kind) {
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
		if writer == nil || e.Kind == Call {
			return nil
		}
		return writer.Grow(i, b, e)
	})
	r.Outcome = outcome
	if err == nil {
		if open && outcome.Finish == mlx.FinishLength {
			_, b := last()
			b.Cut = true
		}
		err = end()
	}
	return r, err
}

// WholeArguments are the arguments of a call as a JSON object, also where a model wrote none: then their text is a field of one.
func WholeArguments(text string) json.RawMessage { return segment.Whole(text) }

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

// Request is one of an API that generates an answer: plain translation to a spec, and of the answer back.
type Request interface {
	// ModelName is the model that the request names; "" for none.
	ModelName() string
	// UseModel names the model of a request that names none.
	UseModel(name string)
	Streams() bool
	Spec() (*Spec, error)
	// AnswerWhole generates the answer in one piece.
	AnswerWhole(ctx context.Context, t *Turn) (any, error)
	// AnswerStream sends the answer as it grows.
	AnswerStream(ctx context.Context, t *Turn, out Sink) error
	// Fail ends a stream that has begun.
	Fail(out Sink, e *Error)
	// Named is what the API calls the fields that options come from.
	Named() Names
}
