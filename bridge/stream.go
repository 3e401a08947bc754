package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Generate streams tokens; see engine.Engine. If the worker dies, another one goes on: the reader sees
// every token once.
func (m *Model) Generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions) iter.Seq2[engine.Token, error] {
	return func(yield func(engine.Token, error) bool) {
		s := &stream{model: m, options: options, yield: yield}
		if err := s.run(ctx, prompt); err != nil && !s.left {
			yield(engine.Token{}, err)
		}
	}
}

// stream is one generation with its reader.
type stream struct {
	model   *Model
	options engine.GenerateOptions
	yield   func(engine.Token, error) bool
	made    []int32 // ids that the reader has
	left    bool    // the reader has ended its loop before the end
	counted bool    // the prompt's tokens; the first token and the last one tell of them
}

func (s *stream) run(ctx context.Context, prompt engine.Prompt) error {
	m := s.model
	if err := s.options.Validate(m.Info().VocabSize); err != nil {
		return err
	}
	if err := prompt.Validate(); err != nil {
		return err
	}
	if err := m.checkIDs(prompt.IDs); err != nil {
		return err
	}
	if s.options.Temperature > 0 && !s.options.HasSeed {
		s.options.Seed = engine.RandomSeed()
	}
	end, err := m.begin()
	if err != nil {
		return err
	}
	end = sync.OnceFunc(end)
	defer end()
	frame, err := generateFrame(prompt, s.options)
	if err != nil {
		return err
	}
	clean := *frame
	if !s.options.HasSeed {
		clean.Seed = 0 // it was drawn, and is not part of the request
	}
	j := &job{
		model: m, session: s.options.Session, frame: frame, made: func() []int32 { return s.made },
		left:  func() bool { return s.left },
		key:   keyOf(&clean),
		onGap: func(err error) { s.event(engine.Event{Kind: engine.EventGap, Done: int64(len(s.made)), Err: err}) },
	}
	return j.run(ctx, func(v visit) error {
		frame.Resume, frame.AloneFrom, frame.AloneUntil = s.made, v.from, v.until
		defer context.AfterFunc(ctx, end)()
		err := s.serve(ctx, v, frame)
		if err != nil && ctx.Err() != nil { // the worker, of which nothing was wanted any more, may have ended meanwhile
			return ctx.Err()
		}
		return err
	})
}

func (s *stream) event(e engine.Event) {
	if s.options.Events != nil {
		s.options.Events(e)
	}
}

// serve streams from one worker, after what was made already. The error is nil also when the reader left. However the reader
// leaves, by a panic too, the worker stops.
func (s *stream) serve(ctx context.Context, v visit, frame *generateRequest) error {
	w := v.worker
	e, err := w.conn.begin(frame, s.options.Events != nil)
	if err != nil {
		return err
	}
	v.begun(e.id)
	// A reader that is busy with a token when ctx ends, or never asks for another one, does not see that. The worker and the slot do not
	// wait for it.
	defer context.AfterFunc(ctx, func() {
		w.conn.cancel(e)
		v.over()
	})()
	over := false
	defer func() {
		if over {
			w.conn.end(e)
		} else {
			w.conn.cancel(e)
		}
	}()
	onProgress := func(p *message) {
		s.event(engine.Event{Kind: engine.EventPrefill, Done: p.Done, Total: p.Total})
	}
	for taken := 1; ; taken++ {
		reply, err := w.conn.next(ctx, e, onProgress)
		if err != nil {
			over = true // if ctx ended, next has told the worker
			return err
		}
		token, err := reply.token()
		if err != nil {
			return err
		}
		s.made = append(s.made, token.ID)
		s.model.counters.generated.Add(1)
		if token.PromptTokens > 0 && !s.counted {
			s.counted = true
			s.model.counters.prompt.Add(int64(token.PromptTokens))
		}
		over = token.FinishReason != ""
		if !s.yield(token, nil) {
			s.left = !over
			return nil
		}
		if over {
			return nil
		}
		if taken == probation {
			v.works()
		}
		if taken%(streamCredit/2) == 0 {
			if err := w.conn.grant(e, streamCredit/2); err != nil {
				over = true
				return err
			}
		}
	}
}

func generateFrame(prompt engine.Prompt, o engine.GenerateOptions) (*generateRequest, error) {
	messages, err := jsonText(prompt.Messages, len(prompt.Messages) > 0)
	if err != nil {
		return nil, err
	}
	arguments, err := jsonText(o.TemplateArguments, len(o.TemplateArguments) > 0)
	if err != nil {
		return nil, err
	}
	bias := make([]tokenBias, 0, len(o.LogitBias))
	for _, id := range slices.Sorted(maps.Keys(o.LogitBias)) {
		bias = append(bias, tokenBias{ID: id, Bias: o.LogitBias[id]})
	}
	var form *grammar
	if o.Grammar.Kind != "" {
		form = &grammar{Kind: o.Grammar.Kind, Text: o.Grammar.Text}
	}
	return &generateRequest{
		head: head{Type: "generate"}, Grammar: form,
		Text: prompt.Text, Messages: messages, IDs: prompt.IDs, Plain: o.PlainContent && len(prompt.Messages) > 0,
		Tools: string(o.Tools), TemplateArguments: arguments,
		MaxTokens: o.MaxTokens, Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP, MinP: o.MinP,
		XTCProbability: o.XTCProbability, XTCThreshold: o.XTCThreshold,
		RepetitionPenalty: o.RepetitionPenalty, RepetitionContext: o.RepetitionContext,
		PresencePenalty: o.PresencePenalty, FrequencyPenalty: o.FrequencyPenalty, LogitBias: bias,
		Seed: o.Seed, Stop: append([]string{}, o.Stop...), StopTokens: append([]int32{}, o.StopTokens...),
		IgnoreEOS: o.IgnoreEOS, LogProbs: o.LogProbs, TopLogProbs: o.TopLogProbs, Segments: o.Segments,
		KVBits: o.KVBits, KVGroupSize: o.KVGroupSize, KVStart: o.KVStart, MaxKVSize: o.MaxKVSize,
		DraftTokens: o.DraftTokens, Solo: o.Solo, Credit: streamCredit,
	}, nil
}

// jsonText is v as JSON, or nothing.
func jsonText(v any, set bool) (string, error) {
	if !set {
		return "", nil
	}
	data, err := json.Marshal(v)
	return string(data), err
}

// token checks a token message.
func (m *message) token() (engine.Token, error) {
	if m.Type != "token" {
		return engine.Token{}, fmt.Errorf("%w: %q in a stream of tokens", errProtocol, m.Type)
	}
	reason := engine.FinishReason(m.Finish)
	if reason != "" && reason != engine.FinishStop && reason != engine.FinishLength {
		return engine.Token{}, fmt.Errorf("%w: finish reason %q", errProtocol, m.Finish)
	}
	t := engine.Token{ID: m.Token, Text: m.Text, LogProb: float32(m.LogProb), FinishReason: reason, StopString: m.StopString, PromptTokens: m.PromptTokens, CachedTokens: m.CachedTokens, CallText: m.CallText}
	for _, top := range m.Top {
		t.TopLogProbs = append(t.TopLogProbs, engine.TokenLogProb{ID: top.ID, LogProb: float32(top.LogProb)})
	}
	for _, segment := range m.Segments {
		s := engine.Segment{Kind: engine.SegmentKind(segment.Kind), Text: segment.Text}
		for _, call := range segment.Calls {
			if !json.Valid([]byte(call.Arguments)) {
				return engine.Token{}, fmt.Errorf("%w: arguments of the call %q are not JSON", errProtocol, call.Name)
			}
			s.Calls = append(s.Calls, engine.ToolCall{Type: "function", Function: engine.FunctionCall{Name: call.Name, Arguments: json.RawMessage(call.Arguments)}})
		}
		t.Segments = append(t.Segments, s)
	}
	return t, nil
}
