package mlxc

/*
#include <stdlib.h>
#include "glue.h"
#include "gomlx_kernels.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// DecoderSpec is a dense decoder for the CPU kernels: what Lookup, Apply, Attend and AddNorm are given in every pass.
type DecoderSpec struct {
	Attention  Attention // without norms
	Table      Layer     // of embeddings
	EmbedScale float32
	Norm       *Array // after the last layer
	Gate       Gate
	Clip       bool // sums stay in float16's range
	Rotations  []RoPE
	Windows    int // how many different ones Layers name
	Layers     []DecoderLayer
}

// DecoderLayer is a layer of a decoder. Rotation and Window are indices.
type DecoderLayer struct {
	Q, K, V, O, Gate, Up, Down     Layer
	InputNorm, PreMLPNorm          *Array
	PostAttentionNorm, PostMLPNorm *Array // nil without
	QNorm, KNorm                   *Array // nil without
	Rotation, Window               int
}

// Decoder is a decoder whose passes are single ops. It shares its weights with the arrays that it was made of, and holds their memory
// until it is closed. It belongs to who made it.
type Decoder struct {
	p       *C.gomlx_decoder
	layers  int
	windows int
}

// NewDecoder checks that the parts of a decoder fit together. It evaluates what is not yet.
func (s *Scope) NewDecoder(spec DecoderSpec) (*Decoder, error) {
	const op = "decoder"
	a := spec.Attention
	table, ok := s.layer(op, spec.Table)
	if !ok || !s.ready(op, spec.Norm) {
		return nil, s.err
	}
	settings := C.gomlx_decoder_settings{
		heads: C.int(a.Heads), kv_heads: C.int(a.KVHeads), head_dim: C.int(a.HeadDim), eps: C.float(a.Eps), scale: C.float(a.Scale),
		embed_scale: C.float(spec.EmbedScale), gate: C.int(spec.Gate), clip: flag(spec.Clip), windows: C.int(spec.Windows),
	}
	rotations := make([]C.gomlx_decoder_rotation, len(spec.Rotations))
	for i, r := range spec.Rotations {
		rotations[i] = C.gomlx_decoder_rotation{base: C.float(r.Base), scale: C.float(r.Scale), neighbours: flag(r.Traditional)}
		if rotations[i].wavelengths, ok = s.optional(op, r.Freqs); !ok {
			return nil, s.err
		}
	}
	layers := make([]C.gomlx_decoder_layer, len(spec.Layers))
	for i, l := range spec.Layers {
		to := &layers[i]
		to.rotation, to.window = C.int(l.Rotation), C.int(l.Window)
		for _, part := range []struct {
			to   *C.gomlx_linear
			from Layer
		}{{&to.q, l.Q}, {&to.k, l.K}, {&to.v, l.V}, {&to.o, l.O}, {&to.gate, l.Gate}, {&to.up, l.Up}, {&to.down, l.Down}} {
			if *part.to, ok = s.layer(op, part.from); !ok {
				return nil, s.err
			}
		}
		for _, norm := range []struct {
			to   *C.mlx_array
			from *Array
		}{{&to.input_norm, l.InputNorm}, {&to.q_norm, l.QNorm}, {&to.k_norm, l.KNorm}, {&to.post_attention_norm, l.PostAttentionNorm},
			{&to.pre_mlp_norm, l.PreMLPNorm}, {&to.post_mlp_norm, l.PostMLPNorm}} {
			if *norm.to, ok = s.optional(op, norm.from); !ok {
				return nil, s.err
			}
		}
	}
	d := &Decoder{layers: len(layers), windows: spec.Windows}
	err := check(op, C.gomlx_decoder_new(&d.p, &settings, &table, spec.Norm.h, unsafe.SliceData(rotations), C.int(len(rotations)), unsafe.SliceData(layers), C.int(len(layers))))
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Close gives the decoder's hold on its weights back. Passes that are not evaluated yet keep theirs.
func (d *Decoder) Close() {
	if d != nil {
		C.gomlx_decoder_free(d.p)
		d.p = nil
	}
}

// DecoderPass is what a pass of [rows, tokens] knows of its tokens.
type DecoderPass struct {
	Positions []int32    // [rows, tokens]
	Visible   []int32    // [windows, rows, tokens, VisibleSize]
	Past      [][]PastKV // of each layer and row
	Keep      bool       // the pass's own keys and values too
}

// Decode runs all layers of a decoder on token ids, int32 or uint32 [rows, tokens], and returns their normed states
// [rows, tokens, hidden] and, with Keep, the KV of each layer and row with that of the pass in it, as Attend does. The bits are those of
// the single ops.
func (s *Scope) Decode(d *Decoder, ids *Array, pass DecoderPass) (states *Array, kept [][]PastKV) {
	const op = "decode"
	if !s.ready(op, ids) {
		return s.none(), pass.Past
	}
	rows, tokens := ids.Dim(0), ids.Dim(1)
	if d.p == nil || len(pass.Past) != d.layers || len(pass.Positions) != rows*tokens || len(pass.Visible) != d.windows*rows*tokens*VisibleSize {
		s.Fail(fmt.Errorf("mlx: %s: a pass that does not fit the decoder", op))
		return s.none(), pass.Past
	}
	n := d.layers * rows
	kv, made := make([]C.mlx_array, 2*n), make([]C.mlx_array, 2*n)
	all := make([]C.gomlx_past, n)
	for layer, past := range pass.Past {
		if len(past) != rows {
			s.Fail(fmt.Errorf("mlx: %s: %d rows with kept keys for %d of the pass", op, len(past), rows))
			return s.none(), pass.Past
		}
		for row, p := range past {
			i := layer*rows + row
			all[i] = p.c()
			if p.Length == 0 {
				continue
			}
			if !s.ready(op, p.Keys, p.Values) {
				return s.none(), pass.Past
			}
			kv[2*i], kv[2*i+1] = p.Keys.h, p.Values.h
		}
	}
	var pin runtime.Pinner // C's struct points to memory of Go during the call
	defer pin.Unpin()
	pinned := func(p unsafe.Pointer) unsafe.Pointer {
		pin.Pin(p)
		return p
	}
	c := C.gomlx_pass{
		positions: (*C.int)(pinned(unsafe.Pointer(unsafe.SliceData(pass.Positions)))),
		visible:   (*C.int)(pinned(unsafe.Pointer(unsafe.SliceData(pass.Visible)))),
		past:      (*C.gomlx_past)(pinned(unsafe.Pointer(unsafe.SliceData(all)))),
		keep:      flag(pass.Keep),
	}
	r := s.fresh()
	s.done(op, r, C.gomlx_decode(&r.h, unsafe.SliceData(made), d.p, ids.h, unsafe.SliceData(kv), &c, s.stream))
	if !pass.Keep {
		return r, nil
	}
	kept = make([][]PastKV, d.layers)
	for layer, past := range pass.Past {
		kept[layer] = make([]PastKV, rows)
		for row, p := range past {
			i := 2 * (layer*rows + row)
			kept[layer][row] = p.after(s.adopt(op, made[i]), s.adopt(op, made[i+1]), tokens)
		}
	}
	return r, kept
}
