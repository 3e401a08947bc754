package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// Vocabulary is the bytes of every token, for grammars that generated text must follow. It is safe for
// concurrent use.
type Vocabulary struct {
	mu   sync.RWMutex // as in Tokenizer
	v    *C.gomlx_vocabulary
	size int
}

// NewVocabulary prepares a tokenizer's tokens; size is how many ids the model has and eos its end tokens. The
// caller closes it.
func (t *Tokenizer) NewVocabulary(size int, eos []int32) (*Vocabulary, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return nil, ErrClosed
	}
	var v *C.gomlx_vocabulary
	var e C.gomlx_bytes
	ptr := (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(eos)))
	if C.gomlx_vocabulary_new(t.t, C.size_t(size), ptr, C.size_t(len(eos)), &v, &e) != 0 {
		return nil, takeError(e)
	}
	return &Vocabulary{v: v, size: size}, nil
}

// Close frees the vocabulary; it may be called again.
func (v *Vocabulary) Close() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	C.gomlx_vocabulary_free(v.v)
	v.v = nil
}

// Matcher follows one text through a grammar. It is for one goroutine at a time.
type Matcher struct {
	m       *C.gomlx_matcher
	allowed []bool
	ready   bool // allowed is what may come next
}

// NewMatcher starts a text that follows a grammar: of kind "json_schema", "regex", "choices" (a JSON list of
// strings) or "lark". The caller closes it; it may outlive the vocabulary.
func (v *Vocabulary) NewMatcher(kind, grammar string) (*Matcher, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.v == nil {
		return nil, ErrClosed
	}
	var m *C.gomlx_matcher
	var e C.gomlx_bytes
	if C.gomlx_matcher_new(v.v, stringPtr(kind), C.size_t(len(kind)), stringPtr(grammar), C.size_t(len(grammar)), &m, &e) != 0 {
		return nil, takeError(e)
	}
	matcher := &Matcher{m: m, allowed: make([]bool, v.size)}
	// Some grammars that no text follows, such as one that only refers to itself, are found out when it begins.
	allowed, err := matcher.Allowed()
	if err == nil && !slices.Contains(allowed, true) {
		err = ErrNothingFollows
	}
	if err != nil {
		matcher.Close()
		return nil, err
	}
	return matcher, nil
}

// ErrNothingFollows is a grammar that can be read and that no text follows.
var ErrNothingFollows = errors.New("no text can follow it")

// Accept takes the next token of the text.
func (m *Matcher) Accept(id int32) error {
	m.ready = false
	var e C.gomlx_bytes
	if C.gomlx_matcher_accept(m.m, C.uint32_t(id), &e) != 0 {
		return m.error(e)
	}
	return nil
}

// Allowed tells for each token id whether it may come next; end tokens, where the text may end. The slice
// is valid until the next call.
func (m *Matcher) Allowed() ([]bool, error) {
	if m.ready {
		return m.allowed, nil
	}
	var e C.gomlx_bytes
	if C.gomlx_matcher_mask(m.m, (*C.bool)(unsafe.SliceData(m.allowed)), C.size_t(len(m.allowed)), &e) != 0 {
		if err := m.error(e); err.Error() != "NoExtensionBias" { // as the library calls it that no token may follow
			return nil, err
		}
		clear(m.allowed)
	}
	m.ready = true
	return m.allowed, nil
}

// error is an error of the library without the state of its parser, which it shows after it.
func (m *Matcher) error(e C.gomlx_bytes) error {
	text, _, _ := strings.Cut(takeError(e).Error(), "\n<state>")
	return errors.New(text)
}

// Close frees the matcher; it may be called again.
func (m *Matcher) Close() {
	if m == nil {
		return
	}
	C.gomlx_matcher_free(m.m)
	m.m = nil
}
