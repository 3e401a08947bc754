// Package tokenizer turns text into token ids and back, and renders chat templates, with the same
// libraries that Hugging Face's Python packages are made of: the tokenizers crate and a Jinja engine,
// behind a small C ABI (rust/).
package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"unicode/utf8"
	"unsafe"

	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// ErrClosed is returned by a tokenizer or template after Close.
var ErrClosed = errors.New("tokenizer is closed")

// ErrInvalidUTF8 is wrapped by errors about text that is not UTF-8.
var ErrInvalidUTF8 = errors.New("text is not valid UTF-8")

// Tokenizer is a tokenizer.json. It is safe for concurrent use.
type Tokenizer struct {
	mu sync.RWMutex // held for reading during calls, for writing by Close
	t  *C.gomlx_tokenizer
}

// largeFile is the size of a tokenizer.json whose memory is given back at once.
const largeFile = 4 << 20

// Load reads a model's tokenizer.json, or what a GGUF file has in its place.
func Load(from *modelfiles.Source) (*Tokenizer, error) {
	data, parts, err := from.Tokenizer()
	switch {
	case err != nil && from.GGUF != "":
		return nil, fmt.Errorf("tokenizer: %w", err)
	case err != nil:
		return nil, fmt.Errorf("tokenizer: %w (the native engine needs tokenizer.json; the python engine also reads other formats)", err)
	}
	if parts != nil {
		t, err := OfParts(parts)
		if err != nil {
			return nil, fmt.Errorf("tokenizer of %s: %w: %w", from.GGUF, gguf.ErrMalformed, err)
		}
		return t, nil
	}
	t, err := New(data)
	if len(data) > largeFile {
		data = nil
		debug.FreeOSMemory() // so that this memory is free before the weights are read
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: tokenizer.json: %w", from.Dir, err)
	}
	return t, nil
}

// OfParts makes a tokenizer of what a GGUF file holds. The caller closes it.
func OfParts(p *gguf.Parts) (*Tokenizer, error) {
	var pin runtime.Pinner // keeps the memory that given points to in place while Rust reads it
	defer pin.Unpin()
	numbers := func(of []uint32) *C.uint32_t {
		if len(of) == 0 {
			return nil
		}
		pin.Pin(&of[0])
		return (*C.uint32_t)(unsafe.Pointer(&of[0]))
	}
	text := func(of string) *C.uint8_t {
		if of == "" {
			return nil
		}
		pin.Pin(unsafe.StringData(of))
		return stringPtr(of)
	}
	given := C.gomlx_parts{
		text: text(p.Text), text_len: C.size_t(len(p.Text)), ends: numbers(p.Ends), tokens: C.size_t(len(p.Ends)),
		places: numbers(p.Places), merges: text(p.Merges), merges_len: C.size_t(len(p.Merges)), merge_ends: numbers(p.MergeEnds),
		merge_spaces: numbers(p.MergeSpaces), merge_count: C.size_t(len(p.MergeEnds)), unk: C.int64_t(p.Unknown),
		fuse_unk: C.bool(p.FuseUnknown), byte_fallback: C.bool(p.ByteFallback), ignore_merges: C.bool(p.IgnoreMerge),
	}
	var t *C.gomlx_tokenizer
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_of_parts(&given, bytesPtr(p.Rest), C.size_t(len(p.Rest)), &t, &e) != 0 {
		return nil, takeError(e)
	}
	return &Tokenizer{t: t}, nil
}

// New makes a tokenizer of the contents of tokenizer.json. The caller closes it.
func New(json []byte) (*Tokenizer, error) {
	var t *C.gomlx_tokenizer
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_new(bytesPtr(json), C.size_t(len(json)), &t, &e) != 0 {
		return nil, takeError(e)
	}
	return &Tokenizer{t: t}, nil
}

// Close frees the tokenizer; it may be called again.
func (t *Tokenizer) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	C.gomlx_tokenizer_free(t.t)
	t.t = nil
}

// Encode returns the token ids of text. With special, the tokens that the tokenizer puts around every
// text (such as <bos>) are added.
func (t *Tokenizer) Encode(text string, special bool) ([]int32, error) {
	if !utf8.ValidString(text) {
		return nil, ErrInvalidUTF8
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return nil, ErrClosed
	}
	var ids C.gomlx_ids
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_encode(t.t, stringPtr(text), C.size_t(len(text)), C.bool(special), &ids, &e) != 0 {
		return nil, takeError(e)
	}
	return takeIDs(ids), nil
}

// Decode returns the text of token ids; bytes that are not UTF-8 become U+FFFD. With skipSpecial,
// special tokens (such as <eos>) give no text. Ids outside the vocabulary give none either.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return "", ErrClosed
	}
	var out, e C.gomlx_bytes
	ptr := (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(ids)))
	if C.gomlx_tokenizer_decode(t.t, ptr, C.size_t(len(ids)), C.bool(skipSpecial), &out, &e) != 0 {
		return "", takeError(e)
	}
	return takeString(out), nil
}

// tokenKind is what a token is to a decoder that is given one token after the other; the numbers are those of rust/src/tokens.rs.
type tokenKind int

const (
	kindText    tokenKind = iota // gives text of its own
	kindNothing                  // gives none: a special token that is skipped, or no token
	kindByte                     // one byte; bytes in a row are decoded together
)

func (t *Tokenizer) kind(id int32, skipSpecial bool) (tokenKind, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return 0, ErrClosed
	}
	var kind C.int32_t
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_kind(t.t, C.uint32_t(id), C.bool(skipSpecial), &kind, &e) != 0 {
		return 0, takeError(e)
	}
	return tokenKind(kind), nil
}

// TokenID returns the id of a token, e.g. "<end_of_turn>".
func (t *Tokenizer) TokenID(token string) (id int32, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return 0, false
	}
	var n C.int64_t
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_token_to_id(t.t, stringPtr(token), C.size_t(len(token)), &n, &e) != 0 {
		C.gomlx_bytes_free(e)
		return 0, false
	}
	return int32(n), n >= 0
}

// VocabSize is the number of token ids, added tokens included; 0 after Close.
func (t *Tokenizer) VocabSize() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return 0
	}
	var n C.size_t
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_vocab_size(t.t, &n, &e) != 0 {
		C.gomlx_bytes_free(e)
		return 0
	}
	return int(n)
}

func bytesPtr(b []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b))) }

func stringPtr(s string) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(unsafe.StringData(s))) }

func takeString(b C.gomlx_bytes) string {
	defer C.gomlx_bytes_free(b)
	return C.GoStringN((*C.char)(unsafe.Pointer(b.data)), C.int(b.len))
}

func takeError(b C.gomlx_bytes) error { return errors.New(takeString(b)) }
