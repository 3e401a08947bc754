package mlx

import (
	"iter"
	"strings"
)

// Completion is a whole stream.
type Completion struct {
	Text         string
	Tokens       []Token
	FinishReason FinishReason
	StopString   string // the stop string that ended the stream; "" for every other end
	PromptTokens int
	CachedTokens int // of the prompt, those that the prompt cache had

	// With the option Segments: the text by kind, in order, and the calls of the segments of kind SegmentTool.
	Segments  []Segment
	ToolCalls []ToolCall
}

// Collect reads a stream to its end. On an error it returns what came before it as well.
func Collect(stream iter.Seq2[Token, error]) (Completion, error) {
	var c Completion
	var text strings.Builder
	var failed error
	if stream == nil {
		return c, nil
	}
	for tok, err := range stream {
		if err != nil {
			failed = err
			break
		}
		text.WriteString(tok.Text)
		c.Tokens = append(c.Tokens, tok)
		c.FinishReason, c.StopString = tok.FinishReason, tok.StopString
		c.PromptTokens, c.CachedTokens = tok.PromptTokens, tok.CachedTokens
		for _, s := range tok.Segments {
			c.add(s)
		}
	}
	c.Text = text.String()
	return c, failed
}

// add appends a segment. Pieces of text of one kind become one; a tool call comes whole and stays by itself.
func (c *Completion) add(s Segment) {
	c.ToolCalls = append(c.ToolCalls, s.Calls...)
	if last := len(c.Segments) - 1; last >= 0 && s.Kind != SegmentTool && c.Segments[last].Kind == s.Kind {
		c.Segments[last].Text += s.Text
		return
	}
	c.Segments = append(c.Segments, s)
}
