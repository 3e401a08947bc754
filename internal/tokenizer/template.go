package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// ErrNoTemplate is returned for a model folder without a chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// Template is a chat template. It is safe for concurrent use.
type Template struct {
	source  string
	tools   *Template         // takes the chats in which functions can be called; nil: this one does
	special map[string]string // bos_token and the like, visible in the template

	mu      sync.Mutex        // guards what follows
	t       *C.gomlx_template // freed when the template is closed and the last rendering is over
	closed  bool
	renders int // under way
	left    int // of these, those that nobody waits for any more
}

// ErrTemplateBusy is wrapped by the error of a chat that is not rendered because earlier ones never ended.
var ErrTemplateBusy = errors.New("the chat template does not come to an end")

// leftMost is how many renderings that nobody waits for may go on. Each is a thread at work.
const leftMost = 2

// Source is the Jinja source, that for chats with functions after it if it is another; "" without a template.
func (t *Template) Source() string {
	switch {
	case t == nil:
		return ""
	case t.tools != nil:
		return t.source + "\n" + t.tools.source
	}
	return t.source
}

// LoadTemplate compiles the chat template of a model.
func LoadTemplate(from *modelfiles.Source) (*Template, error) {
	special, err := from.SpecialTokens()
	if err != nil {
		return nil, err
	}
	sources, err := from.ChatTemplates()
	if err != nil {
		return nil, err
	}
	if sources["default"] == "" {
		return nil, ErrNoTemplate
	}
	t, err := NewTemplate(sources["default"], special)
	if err != nil || sources["tool_use"] == "" {
		return t, err
	}
	if t.tools, err = NewTemplate(sources["tool_use"], special); err != nil {
		t.Close()
		return nil, fmt.Errorf("tool_use: %w", err)
	}
	return t, nil
}

// NewTemplate compiles a Jinja chat template. The caller closes it.
func NewTemplate(source string, special map[string]string) (*Template, error) {
	var t *C.gomlx_template
	var e C.gomlx_bytes
	if C.gomlx_template_new(stringPtr(source), C.size_t(len(source)), &t, &e) != 0 {
		return nil, fmt.Errorf("chat template: %w", takeError(e))
	}
	return &Template{t: t, source: source, special: special}, nil
}

// Close frees the template, now or when renderings under way are over, which it does not wait for; it may be called again.
func (t *Template) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.free()
	if t.tools != nil {
		t.tools.Close()
	}
}

// free frees the template if nothing needs it any more. Caller must hold t.mu.
func (t *Template) free() {
	if t.closed && t.renders == 0 {
		C.gomlx_template_free(t.t)
		t.t = nil
	}
}

// Render renders messages, any value that encodes to the JSON list of {"role", "content", ...} objects
// that templates expect. extra adds variables (tools, enable_thinking, ...).
//
// A template is a program that came with the checkpoint. When ctx ends Render returns, and the rendering ends at the next item or
// operator that it comes to.
func (t *Template) Render(ctx context.Context, messages any, addGenerationPrompt bool, extra map[string]any) (string, error) {
	if t.tools != nil && extra["tools"] != nil {
		return t.tools.Render(ctx, messages, addGenerationPrompt, extra)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	variables := map[string]any{}
	for k, v := range t.special {
		variables[k] = v
	}
	for k, v := range extra {
		variables[k] = v
	}
	variables["messages"] = messages
	variables["add_generation_prompt"] = addGenerationPrompt
	data, err := json.Marshal(variables)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	data = wholePairs(data)
	r, err := t.begin()
	if err != nil {
		return "", err
	}
	if ctx.Done() == nil {
		return t.render(r, data)
	}
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := t.render(r, data)
		done <- result{text, err}
	}()
	select {
	case got := <-done:
		return got.text, got.err
	case <-ctx.Done():
		t.leave(r)
		return "", ctx.Err()
	}
}

// rendering is one call of Render. Its fields but stop are guarded by the template's lock.
type rendering struct {
	stop atomic.Int32 // not 0: it is to end early; read by the library
	over bool
	left bool
}

func (t *Template) begin() (*rendering, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil, ErrClosed
	case t.left >= leftMost:
		return nil, fmt.Errorf("%w: %d chats that were given up are still being rendered", ErrTemplateBusy, t.left)
	}
	t.renders++
	return &rendering{}, nil
}

// leave says that nobody waits for a rendering any more.
func (t *Template) leave(r *rendering) {
	r.stop.Store(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !r.over {
		r.left = true
		t.left++
	}
}

func (t *Template) end(r *rendering) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.over = true
	if t.renders--; r.left {
		t.left--
	}
	t.free()
}

func (t *Template) render(r *rendering, data []byte) (string, error) {
	defer t.end(r)
	var out, e C.gomlx_bytes
	if C.gomlx_template_render(t.t, bytesPtr(data), C.size_t(len(data)), (*C.int32_t)(unsafe.Pointer(&r.stop)), &out, &e) != 0 {
		return "", fmt.Errorf("chat template: %w", takeError(e))
	}
	return takeString(out), nil
}
