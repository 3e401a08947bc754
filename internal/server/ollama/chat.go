package ollama

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// common are the fields of both ways to generate.
type common struct {
	Model   string         `json:"model"`
	Format  jsontext.Value `json:"format"` // "json", or a schema
	Stream  *bool          `json:"stream"` // true, unless it is false
	Think   think          `json:"think"`
	Options sampling       `json:"options"`
	// KeepAlive of 0 unloads the model after the answer, if there is one; otherwise the server's own time counts.
	KeepAlive jsontext.Value `json:"keep_alive"`

	start time.Time
	ready time.Time // the model is loaded
}

type sampling struct {
	Temperature      *float32     `json:"temperature"`
	TopP             *float32     `json:"top_p"`
	TopK             *turn.Count  `json:"top_k"`
	MinP             *float32     `json:"min_p"`
	Seed             *turn.Seed   `json:"seed"`
	NumPredict       *turn.Count  `json:"num_predict"`
	Stop             turn.Strings `json:"stop"`
	RepeatPenalty    *float32     `json:"repeat_penalty"`
	RepeatLastN      *turn.Count  `json:"repeat_last_n"`
	PresencePenalty  *float32     `json:"presence_penalty"`
	FrequencyPenalty *float32     `json:"frequency_penalty"`
}

// think is true, false, or a degree.
type think struct {
	on     *bool
	degree *string
}

func (t *think) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch d.PeekKind() {
	case 't', 'f':
		return json.UnmarshalDecode(d, &t.on)
	case '"':
		return json.UnmarshalDecode(d, &t.degree)
	}
	return errors.New("there are true, false, and a degree")
}

// ModelName is the model that the request names.
func (c *common) ModelName() string { return modelName(c.Model) }

// UseModel names the model of a request that names none.
func (c *common) UseModel(name string) { c.Model = name }

// Streams says whether the answer is streamed.
func (c *common) Streams() bool { return c.Stream == nil || *c.Stream }

// Named are the API's names of the fields that set options.
func (c *common) Named() turn.Names {
	names := turn.Names{"JSONSchema": "format", "WithMaxTokens": "options.num_predict", "Effort": "think", "RepetitionPenalty": "options.repeat_penalty", "RepetitionContext": "options.repeat_last_n"}
	for option, name := range map[string]string{
		"WithTemperature": "temperature", "TopP": "top_p", "TopK": "top_k", "MinP": "min_p", "WithStop": "stop",
		"PresencePenalty": "presence_penalty", "FrequencyPenalty": "frequency_penalty",
	} {
		names[option] = "options." + name
	}
	return names
}

// Fail ends a stream that has begun.
func (c *common) Fail(out turn.Sink, e *turn.Error) { _ = out.Send("", ErrorBody(e)) } // the client may be why

// spec are the common fields in the form that all APIs share.
func (c *common) spec() *turn.Spec {
	o := c.Options
	w := &turn.Spec{
		Sampling: &turn.Sampling{Temperature: o.Temperature, TopP: o.TopP, TopK: o.TopK, MinP: o.MinP, Seed: o.Seed, RepetitionPenalty: o.RepeatPenalty,
			PresencePenalty: o.PresencePenalty, FrequencyPenalty: o.FrequencyPenalty},
		Stop: o.Stop, Thinking: c.Think.on, Effort: c.Think.degree, Names: c.Named(), Format: turn.Format{Field: "format", Loose: true},
	}
	switch n := o.RepeatLastN; {
	case n == nil:
	case *n == 0: // no token is looked back at, so none is punished
		w.Sampling.RepetitionPenalty, w.Sampling.PresencePenalty, w.Sampling.FrequencyPenalty = new(float32), new(float32), new(float32)
	case *n < 0: // the whole context
		all := turn.Count(math.MaxInt32)
		w.Sampling.RepetitionContextSize = &all
	default:
		w.Sampling.RepetitionContextSize = n
	}
	if o.NumPredict != nil && *o.NumPredict > 0 { // others mean no limit
		w.MaxTokens = o.NumPredict.Int()
	}
	switch string(c.Format) {
	case "", `""`:
	case `"json"`:
		w.Format.Type = "json_object"
	default:
		w.Format.Type, w.Format.Schema = "json_schema", c.Format
	}
	return w
}

// Unloads says that the request wants the model unloaded, when it has its answer.
func (c *common) Unloads() bool {
	return slices.Contains([]string{"0", `"0"`, `"0s"`, `"0m"`}, string(c.KeepAlive))
}

// figures are how long things took, in nanoseconds.
type figures struct {
	Done               bool   `json:"done"`
	DoneReason         string `json:"done_reason,omitzero"`
	TotalDuration      int64  `json:"total_duration,omitzero"`
	LoadDuration       int64  `json:"load_duration,omitzero"`
	PromptEvalCount    int    `json:"prompt_eval_count,omitzero"`
	PromptEvalDuration int64  `json:"prompt_eval_duration,omitzero"`
	EvalCount          int    `json:"eval_count,omitzero"`
	EvalDuration       int64  `json:"eval_duration,omitzero"`
}

func (c *common) loadReason() string {
	if c.Unloads() {
		return "unload"
	}
	return "load"
}

func (c *common) figures(o turn.Outcome, first time.Time) figures {
	if first.IsZero() {
		first = time.Now()
	}
	return figures{
		Done: true, DoneReason: string(o.Finish), TotalDuration: int64(time.Since(c.start)), LoadDuration: int64(c.ready.Sub(c.start)),
		PromptEvalCount: o.Prompt, PromptEvalDuration: int64(first.Sub(c.ready)), EvalCount: o.Generated, EvalDuration: int64(time.Since(first)),
	}
}

// ChatRequest is the body of /api/chat; ChatFields has what becomes of its fields.
type ChatRequest struct {
	common
	Messages []chatMessage `json:"messages"`
	Tools    []struct {
		Type     string `json:"type"`
		Function struct {
			Name        string         `json:"name"`
			Description string         `json:"description"`
			Parameters  jsontext.Value `json:"parameters"`
		} `json:"function"`
	} `json:"tools"`
}

type chatMessage struct {
	Role       string `json:"role"`
	Content    string `json:"content"`
	Thinking   string `json:"thinking,omitzero"`
	ToolCalls  []call `json:"tool_calls,omitzero"`
	ToolName   string `json:"tool_name,omitzero"`
	ToolCallID string `json:"tool_call_id,omitzero"`
}

type call struct {
	ID       string       `json:"id,omitzero"`
	Function callFunction `json:"function"`
}

type callFunction struct {
	Name      string         `json:"name"`
	Arguments jsontext.Value `json:"arguments"`
}

type chatAnswer struct {
	Model     string      `json:"model"`
	CreatedAt time.Time   `json:"created_at"`
	Message   chatMessage `json:"message"`
	figures
}

// Loads says that the request only wants the model loaded.
func (q *ChatRequest) Loads() bool { return len(q.Messages) == 0 }

// Spec is the request in the form that all APIs share.
func (q *ChatRequest) Spec() (*turn.Spec, error) {
	q.start = time.Now()
	w := q.spec()
	for i, m := range q.Messages {
		switch m.Role {
		case "developer":
			m.Role = "system"
		case "system", "user", "assistant", "tool":
		default:
			return nil, turn.Bad(turn.At("messages", i, "role"), "%q; there are system, user, assistant and tool", m.Role)
		}
		message := mlx.Message{Role: m.Role, Content: m.Content, Reasoning: m.Thinking, Name: m.ToolName, ToolCallID: m.ToolCallID}
		for _, c := range m.ToolCalls {
			arguments := c.Function.Arguments
			if len(arguments) == 0 {
				arguments = jsontext.Value("{}")
			}
			message.ToolCalls = append(message.ToolCalls, mlx.ToolCall{ID: c.ID, Type: "function", Function: mlx.FunctionCall{Name: c.Function.Name, Arguments: []byte(arguments)}})
		}
		w.Messages = append(w.Messages, message)
	}
	if n := len(w.Messages); n > 0 {
		last := w.Messages[n-1]
		w.Continue = last.Role == "assistant" && len(last.ToolCalls) == 0
	}
	for i, t := range q.Tools {
		if t.Type == "function" || t.Type == "" {
			w.Tools.List = append(w.Tools.List, turn.Tool{Name: t.Function.Name, Description: t.Function.Description, Parameters: t.Function.Parameters, Field: fmt.Sprintf("tools[%d].function", i)})
		}
	}
	return w, nil
}

func (q *ChatRequest) answer(m chatMessage) chatAnswer {
	m.Role = "assistant"
	return chatAnswer{Model: q.Model, CreatedAt: time.Now().UTC(), Message: m}
}

// Loaded is the answer to a request that only wants the model loaded, or unloaded.
func (q *ChatRequest) Loaded() any {
	a := q.answer(chatMessage{})
	a.figures = figures{Done: true, DoneReason: q.loadReason()}
	return a
}

// growing sends a message in pieces, or joins them. Ollama's calls come whole, for their arguments are an object.
type growing struct {
	message chatMessage // joined
	send    func(chatMessage) error
	first   time.Time
}

func (g *growing) add(m chatMessage) error {
	g.message.Content += m.Content
	g.message.Thinking += m.Thinking
	g.message.ToolCalls = append(g.message.ToolCalls, m.ToolCalls...)
	if g.send == nil {
		return nil
	}
	return g.send(m)
}

// Open notes when the first piece came.
func (g *growing) Open(int, *turn.Block) error {
	if g.first.IsZero() {
		g.first = time.Now()
	}
	return nil
}

// Grow adds a text or a thought.
func (g *growing) Grow(_ int, b *turn.Block, e turn.Event) error {
	switch b.Kind {
	case turn.Text:
		return g.add(chatMessage{Content: e.Text})
	case turn.Reasoning:
		return g.add(chatMessage{Thinking: e.Text})
	}
	return nil
}

// Close adds a call.
func (g *growing) Close(_ int, b *turn.Block) error {
	if b.Kind != turn.Call {
		return nil
	}
	return g.add(chatMessage{ToolCalls: []call{{b.Call.ID, callFunction{b.Call.Function.Name, jsontext.Value(b.Call.Function.Arguments)}}}})
}

// AnswerWhole generates the answer in one piece.
func (q *ChatRequest) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	return q.generate(ctx, t, nil)
}

// AnswerStream sends the answer as it grows.
func (q *ChatRequest) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	a, err := q.generate(ctx, t, func(m chatMessage) error { return out.Send("", q.answer(m)) })
	if err != nil {
		return err
	}
	a.Message = chatMessage{Role: a.Message.Role}
	return out.Send("", a)
}

// generate gives the whole answer, and sends its pieces, if there is a way to.
func (q *ChatRequest) generate(ctx context.Context, t *turn.Turn, send func(chatMessage) error) (chatAnswer, error) {
	q.ready = time.Now()
	g := &growing{send: send}
	reply, err := t.RunBlocks(ctx, g)
	a := q.answer(g.message)
	a.figures = q.figures(reply.Outcome, g.first)
	return a, err
}

// run generates the answer and takes the time.
func (c *common) run(ctx context.Context, t *turn.Turn, emit func(turn.Event) error) (figures, error) {
	c.ready = time.Now()
	var first time.Time
	o, err := t.Run(ctx, func(e turn.Event) error {
		if first.IsZero() {
			first = time.Now()
		}
		return emit(e)
	})
	return c.figures(o, first), err
}

// ErrorBody is an error as Ollama's clients expect it.
func ErrorBody(e *turn.Error) any {
	return map[string]string{"error": e.Message}
}
