package turn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Templates differ in what they take: some demand that user and assistant alternate, some refuse system messages or leave out
// those that do not come first. Whether a template takes an order of roles is found out by rendering such a chat once.
const (
	systemFirst    = "a system message"
	systemLater    = "a system message after others"
	neighbours     = "two messages of the user in a row"
	assistantFirst = "a message of the assistant before one of the user"
)

// probes are chats, given by their roles, each of which shows one such order. The template has to render them without an error, and the
// prompt has to contain the content of every message.
var probes = map[string][][]string{
	systemFirst:    {{"system", "user"}},
	systemLater:    {{"user", "system"}, {"user", "assistant", "system", "user"}},
	neighbours:     {{"user", "user"}},
	assistantFirst: {{"assistant", "user"}},
}

// taking reports whether the model's template takes an order of roles.
func (f *Facts) taking(ctx context.Context, model mlx.TextModel, order string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.takes[order]; ok {
		return known, nil
	}
	takes := true
	for _, roles := range probes[order] {
		var messages []mlx.Message
		for i, role := range roles {
			messages = append(messages, mlx.Message{Role: role, Content: fmt.Sprintf("probe-%d", i)})
		}
		text, err := model.Tokenizer().RenderChat(ctx, messages)
		if err != nil && !refusal(err) {
			return false, err
		}
		takes = takes && err == nil
		for _, m := range messages {
			takes = takes && strings.Contains(text, m.Content)
		}
	}
	f.takes[order] = takes
	return takes, nil
}

// refusal reports whether an error of rendering is the template's own, and not one of the model's state.
func refusal(err error) bool {
	for _, other := range []error{context.Canceled, context.DeadlineExceeded, mlx.ErrClosed, mlx.ErrBusy, mlx.ErrCrashLoop, mlx.ErrBudget, mlx.ErrOutOfMemory, mlx.ErrWorkerStopped} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// arrange puts messages into an order that the template takes: a message in a place that it does not allow becomes what the template can
// take, and neighbours of one role are joined where it demands that roles alternate, or where the API says so (always).
func arrange(ctx context.Context, model mlx.TextModel, f *Facts, in []mlx.Message, always bool) ([]mlx.Message, error) {
	if f.Template == "" {
		return in, nil // the engine has an error for that
	}
	takes := func(order string) (bool, error) { return f.taking(ctx, model, order) }
	out := joinSystem(in)
	shortIDs(f, out)
	if system := out[0].Role == "system"; system {
		if ok, err := takes(systemFirst); err != nil {
			return nil, err
		} else if !ok {
			out[0].Role = "user"
		}
	}
	for i := 1; i < len(out); i++ {
		if out[i].Role != "system" {
			continue
		}
		if ok, err := takes(systemLater); err != nil {
			return nil, err
		} else if !ok {
			out[i].Role = "user"
		}
	}
	join := always
	for i := 1; i < len(out) && !join; i++ {
		if out[i].Role != out[i-1].Role || out[i].Role == "tool" {
			continue
		}
		ok, err := takes(neighbours)
		if err != nil {
			return nil, err
		}
		join = !ok
	}
	if join {
		out = joinNeighbours(out)
	}
	first := 0
	if out[0].Role == "system" {
		first = 1
	}
	if first < len(out) && out[first].Role == "assistant" {
		if ok, err := takes(assistantFirst); err != nil {
			return nil, err
		} else if !ok {
			out = append(out[:first:first], append([]mlx.Message{{Role: "user"}}, out[first:]...)...)
		}
	}
	return out, nil
}

// joinSystem makes the system messages at the head one; templates look at the first only. The result is the caller's own.
func joinSystem(in []mlx.Message) []mlx.Message {
	head := 0
	for head < len(in) && in[head].Role == "system" {
		head++
	}
	if head < 2 {
		return slices.Clone(in)
	}
	return append([]mlx.Message{joined(in[:head])}, in[head:]...)
}

// joinNeighbours makes messages of one role that follow each other one. Results of tools stay apart: each has its call.
func joinNeighbours(in []mlx.Message) []mlx.Message {
	var out []mlx.Message
	for first := 0; first < len(in); {
		next := first + 1
		for next < len(in) && in[next].Role == in[first].Role && in[first].Role != "tool" {
			next++
		}
		out = append(out, joined(in[first:next]))
		first = next
	}
	return out
}

// joined is one message of several of one role.
func joined(run []mlx.Message) mlx.Message {
	if len(run) == 1 {
		return run[0]
	}
	m := run[0]
	var texts, thoughts []string
	m.ToolCalls = nil
	for _, other := range run {
		texts, thoughts = append(texts, other.Content), append(thoughts, other.Reasoning)
		m.ToolCalls = append(m.ToolCalls, other.ToolCalls...)
	}
	m.Content, m.Reasoning = paragraphs(texts...), paragraphs(thoughts...)
	return m
}

// paragraphs joins the texts that say something.
func paragraphs(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "\n\n")
}
