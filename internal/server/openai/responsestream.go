package openai

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// responseEvent is an event of a stream; which fields it has depends on its type.
type responseEvent struct {
	Type         string       `json:"type"`
	Number       int          `json:"sequence_number"`
	Response     *response    `json:"response,omitzero"`
	ItemID       string       `json:"item_id,omitzero"`
	OutputIndex  *int         `json:"output_index,omitzero"`
	Item         *outputItem  `json:"item,omitzero"`
	ContentIndex *int         `json:"content_index,omitzero"`
	Part         *contentPart `json:"part,omitzero"`
	Delta        *string      `json:"delta,omitzero"`
	Text         *string      `json:"text,omitzero"`
	Name         string       `json:"name,omitzero"`
	Arguments    *string      `json:"arguments,omitzero"`
	LogProbs     *[]string    `json:"logprobs,omitzero"`
}

// responding builds a response of blocks, and streams it if there is a stream.
type responding struct {
	*response
	out    turn.Sink
	number int // of the next event
	begun  bool
}

// send streams an event; without a stream it does nothing.
func (a *responding) send(e responseEvent) error {
	if a.out == nil {
		return nil
	}
	e.Number = a.number
	a.number++
	return a.out.Send(e.Type, e)
}

func (a *responding) snapshot(kind string) error {
	return a.send(responseEvent{Type: kind, Response: a.response})
}

func (a *responding) begin() error {
	if a.begun {
		return nil
	}
	a.begun = true
	return errors.Join(a.snapshot("response.created"), a.snapshot("response.in_progress"))
}

// of says which item an event is about.
func (a *responding) of(i int, e responseEvent) responseEvent {
	e.ItemID, e.OutputIndex = a.Output[i].ID, &i
	return e
}

// inPart says that an event is about the only part of an item.
func (a *responding) inPart(i int, b *turn.Block, e responseEvent) responseEvent {
	e.ContentIndex = new(int)
	if b.Kind == turn.Text && e.Part == nil {
		e.LogProbs = &[]string{}
	}
	return a.of(i, e)
}

// Open begins an item.
func (a *responding) Open(i int, b *turn.Block) error {
	if err := a.begin(); err != nil {
		return err
	}
	item := outputItem{Type: "message", ID: turn.NewID("msg_"), Status: "in_progress", Role: "assistant", Content: &[]contentPart{}}
	empty := ""
	switch b.Kind {
	case turn.Reasoning:
		item = outputItem{Type: "reasoning", ID: turn.NewID("rs_"), Status: "in_progress", Content: &[]contentPart{}, Summary: &[]string{}}
	case turn.Call:
		item = outputItem{Type: "function_call", ID: turn.NewID("fc_"), Status: "in_progress", CallID: b.Call.ID, Name: b.Call.Function.Name, Arguments: &empty}
	}
	a.Output = append(a.Output, item)
	if err := a.send(responseEvent{Type: "response.output_item.added", OutputIndex: &i, Item: &item}); err != nil || b.Kind == turn.Call {
		return err
	}
	part := partOf(b.Kind, "")
	return a.send(a.inPart(i, b, responseEvent{Type: "response.content_part.added", Part: &part}))
}

// Grow adds to the item.
func (a *responding) Grow(i int, b *turn.Block, e turn.Event) error {
	if b.Kind == turn.Call {
		arguments := b.Text
		a.Output[i].Arguments = &arguments
		return a.send(a.of(i, responseEvent{Type: "response.function_call_arguments.delta", Delta: &e.Text}))
	}
	return a.send(a.inPart(i, b, responseEvent{Type: "response." + partOf(b.Kind, "").Type + ".delta", Delta: &e.Text}))
}

// Close ends the item.
func (a *responding) Close(i int, b *turn.Block) error {
	item := &a.Output[i]
	if item.Status = "completed"; b.Cut {
		item.Status = "incomplete"
	}
	var err error
	if b.Kind == turn.Call {
		err = a.send(a.of(i, responseEvent{Type: "response.function_call_arguments.done", Arguments: item.Arguments, Name: item.Name}))
	} else {
		part := partOf(b.Kind, b.Text)
		item.Content = &[]contentPart{part}
		err = errors.Join(
			a.send(a.inPart(i, b, responseEvent{Type: "response." + part.Type + ".done", Text: &b.Text})),
			a.send(a.inPart(i, b, responseEvent{Type: "response.content_part.done", Part: &part})),
		)
	}
	done := *item
	return errors.Join(err, a.send(responseEvent{Type: "response.output_item.done", OutputIndex: &i, Item: &done}))
}
