// Package turn is one answer to be generated, whichever API asks for it and without HTTP: what the request wishes for, messages
// in an order that the model's template takes, tools, sampling, limits, the kinds of errors, and the answer as a row of events.
package turn

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// Spec is a request in the form that all APIs share.
type Spec struct {
	Messages []mlx.Message
	Continue bool     // the last message is the assistant's, and the answer goes on from its text
	Join     bool     // neighbours of one role are one message, as the API has it
	Prompts  []Prompt // without messages
	Choices  int      // answers to each prompt; 0 is one
	Counts   bool     // the tokens of the prompt are asked for, however many there are, and no answer

	Tools     Tools
	Format    Format
	Sampling  *Sampling
	Arguments map[string]any // for the chat template
	Effort    *string        // of reasoning; nil if the request does not say
	Thinking  *bool          // where the template has a switch; nil if the request does not say
	Budget    int            // tokens of reasoning; 0 for no limit of its own

	MaxTokens   *int // nil for the server's default
	Stop        []string
	Session     string
	LogProbs    bool
	TopLogProbs int

	Names Names  // of the API's fields
	Notes *Notes // what has no effect
}

// Settings are the server's own.
type Settings struct {
	MaxTokens int  // of an answer whose request sets no limit
	Strict    bool // what would have no effect is refused
	// ControlTokens lets what spells a control token in messages and tools be one. Without it nobody whose text is part of a chat
	// can end a turn.
	ControlTokens bool
}

// Watcher is called as an answer makes progress, possibly from several goroutines.
type Watcher interface {
	FirstToken(after time.Duration)
	Over(Outcome)
}

// Turn is a request that a model is ready to answer.
type Turn struct {
	Model   mlx.TextModel
	Watcher Watcher
	Spec    *Spec

	facts    *Facts
	messages []mlx.Message
	prefill  string // the beginning of the answer that the request gives
	options  []mlx.GenerateOption
	most     int  // tokens of the answer
	budget   int  // tokens of reasoning; 0 for no limit
	format   bool // the text follows a format
	plain    bool // messages hold no control tokens
	marks    segment.Marks
	prompt   Prompt        // of this answer; see For
	scored   *atomic.Int64 // log-probabilities of prompts, of the whole request
}

// Check finds what is wrong with a spec, whichever model it is for.
func (w *Spec) Check() error {
	if w.MaxTokens != nil && *w.MaxTokens == -1 { // as several servers have it, no limit of the request's own
		w.MaxTokens = nil
	}
	if w.Choices < 0 || w.Choices > MaxChoices {
		return Bad("n", "%d is not between 1 and %d", w.Choices, MaxChoices)
	}
	if w.Names == nil {
		w.Names = Names{}
	}
	if w.Notes == nil {
		w.Notes = &Notes{}
	}
	if w.Sampling == nil {
		w.Sampling = &Sampling{}
	}
	if err := AtMost(w.Names.Of("Prompt"), len(w.Prompts)*max(1, w.Choices), MaxAnswers, "prompts, each with its answers,"); err != nil {
		return err
	}
	if err := AtMost(w.Names.Of("Prompt"), len(w.Messages), MaxMessages, "messages"); err != nil {
		return err
	}
	stop := w.Names.Of("WithStop")
	if err := AtMost(stop, len(w.Stop), MaxStops, "stop strings"); err != nil {
		return err
	}
	for _, s := range w.Stop {
		if err := AtMost(stop, len(s), MaxStopBytes, "bytes of a stop string"); err != nil {
			return err
		}
	}
	if w.Continue && (len(w.Messages) == 0 || w.Messages[len(w.Messages)-1].Role != "assistant") {
		return Bad(w.Names.Of("Prompt"), "the last message is not the assistant's, so there is nothing to continue")
	}
	if _, err := w.Format.schema(); err != nil {
		return err
	}
	return w.Tools.check(w.Names)
}

// Prepare makes a turn of a spec that was checked.
func Prepare(ctx context.Context, model mlx.TextModel, facts *Facts, w *Spec, set Settings) (*Turn, error) {
	t := &Turn{Model: model, Spec: w, facts: facts, most: set.MaxTokens, scored: &atomic.Int64{}}
	if w.MaxTokens != nil {
		t.most = *w.MaxTokens
	}
	if t.most == 0 && len(w.Prompts) == 0 { // only APIs that can return prompts may ask for no tokens
		return nil, Bad(w.Names.Of("WithMaxTokens"), "0 is not positive")
	}
	for _, p := range w.Prompts {
		if err := p.inVocabulary(model, w.Names.Of("Prompt")); err != nil {
			return nil, err
		}
	}
	if err := w.fits(model); err != nil {
		return nil, err
	}
	schema, err := w.Format.schema()
	if err != nil {
		return nil, err
	}
	t.format = schema != nil && w.Tools.Mode != Required
	drawing, err := w.Sampling.options(facts.defaults)
	if err != nil {
		return nil, err
	}
	if len(w.Messages) > 0 {
		if t.plain = !set.ControlTokens; t.plain {
			t.options = append(t.options, mlx.WithTemplate(mlx.PlainContent()))
		}
		if err := t.prepareChat(ctx, set); err != nil {
			return nil, err
		}
	}
	t.options = append(t.options, drawing...)
	grammar, left, err := grammarFor(&w.Tools, w.Format, facts.Template, w.Names)
	if err != nil {
		return nil, err
	}
	for _, keyword := range left {
		if err := t.note(set, w.Format.Field, w.Format.Field+" ("+keyword+")", "a grammar cannot keep \""+keyword+"\""); err != nil {
			return nil, err
		}
	}
	t.options = append(t.options, grammar...)
	if len(w.Stop) > 0 {
		t.options = append(t.options, mlx.WithStop(w.Stop...))
	}
	if w.Session != "" {
		t.options = append(t.options, mlx.WithScheduling(mlx.Session(w.Session)))
	}
	if w.LogProbs {
		t.options = append(t.options, mlx.WithOutput(mlx.LogProbs()))
		if w.TopLogProbs != 0 {
			t.options = append(t.options, mlx.WithOutput(mlx.TopLogProbs(w.TopLogProbs)))
		}
	}
	return t, nil
}

// prepareChat puts messages in order and chooses what goes into the prompt.
func (t *Turn) prepareChat(ctx context.Context, set Settings) error {
	w := t.Spec
	if err := t.wishesWithoutEffect(set); err != nil {
		return err
	}
	given := w.Messages
	var begun []string // what the answer begins with, the last message first
	for n := len(given) - 1; w.Continue && n >= 0 && given[n].Role == "assistant" && len(given[n].ToolCalls) == 0; n-- {
		begun = append(begun, given[n].Content)
		given = given[:n]
		if !w.Join {
			break
		}
	}
	slices.Reverse(begun)
	t.prefill = paragraphs(begun...)
	if len(given) == 0 { // a prefilled answer without a message before it
		given = []mlx.Message{{Role: "user"}}
	}
	var err error
	if t.messages, err = arrange(ctx, t.Model, t.facts, given, w.Join); err != nil {
		return err
	}
	arguments := w.Arguments
	thinking, arguments, err := t.thinking(arguments)
	if err != nil {
		return err
	}
	if (t.format || w.Tools.Mode == Required || t.prefill != "") && thinking == nil { // there is no room for a thought
		off := false
		thinking = &off
	}
	if thinking != nil && t.facts.SwitchesThinking() {
		arguments = withDefault(arguments, "enable_thinking", *thinking)
	}
	if len(arguments) > 0 {
		t.options = append(t.options, mlx.WithTemplate(mlx.TemplateArguments(arguments)))
	}
	tools, err := w.Tools.option(t.facts.Template, w.Names)
	if err != nil {
		return err
	}
	t.options = append(t.options, tools...)
	return t.limitThought(ctx, set)
}

// wishesWithoutEffect notes options that this model cannot honour and without which the answer is still right.
func (t *Turn) wishesWithoutEffect(set Settings) error {
	w := t.Spec
	if w.Tools.Mode == Required {
		return nil
	}
	for _, given := range w.Tools.List {
		if !given.Strict {
			continue
		}
		// Arguments follow their schema where a grammar has calls in it.
		if enforceable(t.facts.Template) {
			return nil
		}
		return t.note(set, given.Field+".strict", "tools[].strict", "a grammar for calls is there only for models that write them as JSON in <tool_call>")
	}
	return nil
}

// note names what has no effect, or refuses it.
func (t *Turn) note(set Settings, field, name, why string) error {
	if set.Strict {
		return Bad(field, "%s", why)
	}
	t.Spec.Notes.Add(name)
	return nil
}

// thinking says whether the model may think; nil leaves that to the template. Degrees of effort go to templates that know them,
// and switch thinking on elsewhere.
func (t *Turn) thinking(arguments map[string]any) (*bool, map[string]any, error) {
	w := t.Spec
	if w.Effort == nil {
		return w.Thinking, arguments, nil
	}
	if strings.Contains(t.facts.Template, "reasoning_effort") {
		return w.Thinking, withDefault(arguments, "reasoning_effort", *w.Effort), nil
	}
	if !t.facts.SwitchesThinking() {
		w.Notes.Add(w.Names.Of("Effort"))
		return w.Thinking, arguments, nil
	}
	on := *w.Effort != "none"
	return &on, arguments, nil
}

// limitThought finds the marks of thoughts, for a thought that has a limit of its own.
func (t *Turn) limitThought(ctx context.Context, set Settings) error {
	w := t.Spec
	if w.Budget < 0 {
		return Bad(w.Names.Of("Budget"), "%d is not positive", w.Budget)
	}
	if w.Budget == 0 && t.prefill == "" {
		return nil
	}
	marks, err := t.facts.thinkMarks(ctx, t.Model)
	if err != nil {
		return err
	}
	t.marks = marks
	if w.Budget > 0 && marks.ThinkEnd == "" {
		return t.note(set, w.Names.Of("Budget"), w.Names.Of("Budget"), "the model does not think")
	}
	t.budget = w.Budget
	return nil
}

// withDefault is a map with one more value, unless it has one of that name.
func withDefault(arguments map[string]any, name string, value any) map[string]any {
	merged := map[string]any{name: value}
	maps.Copy(merged, arguments)
	return merged
}

// For is the turn of one answer: to a prompt of several, and with draws of its own.
func (t *Turn) For(prompt, choice int) *Turn {
	own := *t
	if prompt < len(t.Spec.Prompts) {
		own.prompt = t.Spec.Prompts[prompt]
	}
	if choice > 0 {
		own.options = append(slices.Clip(t.options), t.Spec.Sampling.seedFor(choice)...)
	}
	return &own
}

// CountPrompt is how many tokens the prompt has.
func (t *Turn) CountPrompt(ctx context.Context) (int, error) {
	ids, err := t.promptIDs(ctx)
	return len(ids), err
}

// PromptLogProbs are the tokens of the prompt with their log-probabilities.
func (t *Turn) PromptLogProbs(ctx context.Context) ([]mlx.Token, error) {
	ids, err := t.promptIDs(ctx)
	if err != nil {
		return nil, err
	}
	n := t.scored.Add(int64(len(ids) * (1 + t.Spec.TopLogProbs)))
	if err := AtMost(t.Spec.Names.Of("TopLogProbs"), int(n), MaxScored, "log-probabilities of prompts"); err != nil {
		return nil, err
	}
	return t.Model.PromptLogProbs(ctx, ids, t.Spec.TopLogProbs)
}

// promptIDs are the tokens of the prompt.
func (t *Turn) promptIDs(ctx context.Context) ([]int32, error) {
	if len(t.messages) == 0 {
		if len(t.prompt.IDs) > 0 {
			return t.prompt.IDs, nil
		}
		return t.Model.Tokenizer().Encode(ctx, t.prompt.Text, true)
	}
	text, tail, err := t.render(ctx)
	if err != nil {
		return nil, err
	}
	chat, err := t.Model.Tokenizer().EncodeChat(ctx, t.messages, t.options...)
	if err != nil || tail == "" {
		return chat, err
	}
	// The text as a whole is encoded as the model learned it; but not where a message spells a control token.
	if t.plain {
		open, err := t.Model.Tokenizer().Encode(ctx, text, false)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(open, chat) {
			ids, err := t.Model.Tokenizer().Encode(ctx, tail, false)
			return append(chat, ids...), err
		}
	}
	return t.Model.Tokenizer().Encode(ctx, text+tail, false)
}

// render is the prompt of a chat, and how the answer begins already.
func (t *Turn) render(ctx context.Context) (text, tail string, err error) {
	if text, err = t.Model.Tokenizer().RenderChat(ctx, t.messages, t.options...); err != nil {
		return "", "", t.refused(err)
	}
	if t.prefill == "" {
		return text, "", nil
	}
	if start, end := t.marks.ThinkStart, t.marks.ThinkEnd; start != "" && strings.LastIndex(text, start) > strings.LastIndex(text, end) {
		tail = "\n" + end + "\n\n" // the template opens a thought, and the text follows it
	}
	return text, tail + t.prefill, nil
}

// refused is the client's error if the template refuses the chat.
func (t *Turn) refused(err error) error {
	if known := Explain(err, t.Spec.Names); known.Kind != Internal || !refusal(err) {
		return err
	}
	return Bad(t.Spec.Names.Of("Prompt"), "the model's chat template refuses it: %s", strings.TrimPrefix(Explain(err, nil).Message, "chat template: "))
}
