package bridge

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/engine"
)

// embedBytes is how many bytes of texts and ids go into one request, unless a single text has more: a frame has a limit.
const embedBytes = 8 << 20

type embedRequest struct {
	head
	From       int       `msgpack:"from"` // index of the first text, for errors
	Texts      []string  `msgpack:"texts"`
	IDs        [][]int32 `msgpack:"ids"` // nil, or for each text the ids that stand in its place; nil for none
	Prompt     string    `msgpack:"prompt"`
	Dimensions int       `msgpack:"dimensions"`
}

func (r embedRequest) copy() request { return &r }

// Embed returns a vector for each text; see engine.Engine. Long lists are spread over the workers.
func (m *Model) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	end, err := m.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	for i, ids := range options.IDs {
		if err := m.checkIDs(ids); err != nil {
			return nil, fmt.Errorf("text %d: prompt: %w", i, err)
		}
	}
	list := m.embedParts(texts, options)
	if len(list) == 0 {
		list = []part{{}} // whether the model has the prompt and the dimensions is a question of no texts, too
	}
	vectors := make([][]float32, len(texts))
	if err := m.inParts(ctx, list, func(ctx context.Context, p part) (string, error) {
		return m.embedPart(ctx, p, texts, options, vectors)
	}); err != nil {
		return nil, err
	}
	return vectors, nil
}

// embedParts divides a list where a request has enough texts or bytes.
func (m *Model) embedParts(texts []string, options engine.EmbedOptions) (list []part) {
	for _, p := range cut(len(texts), m.listChunk(len(texts))) {
		bytes := 0
		for i := p.from; i < p.to; i++ {
			n := len(texts[i])
			if options.IDs != nil {
				n += 5 * len(options.IDs[i])
			}
			if bytes > 0 && bytes+n > embedBytes {
				list = append(list, part{p.from, i})
				p.from, bytes = i, 0
			}
			bytes += n
		}
		list = append(list, p)
	}
	return list
}

// embedPart fills in the vectors of one part, and says with which weights.
func (m *Model) embedPart(ctx context.Context, p part, texts []string, options engine.EmbedOptions, vectors [][]float32) (weights string, err error) {
	r := &embedRequest{
		head: head{Type: "embed"}, From: p.from, Texts: append([]string{}, texts[p.from:p.to]...), Prompt: options.Prompt, Dimensions: options.Dimensions,
	}
	if options.IDs != nil {
		r.IDs = options.IDs[p.from:p.to]
	}
	reply, weights, err := m.call(ctx, r)
	if err != nil {
		return "", err
	}
	n := p.to - p.from
	if reply.Size < 1 || len(reply.Vectors)%4 != 0 || len(reply.Vectors)/4/reply.Size != n || len(reply.Vectors)/4%reply.Size != 0 {
		return "", fmt.Errorf("%w: %d bytes are not %d vectors of %d numbers", errProtocol, len(reply.Vectors), n, reply.Size)
	}
	for i := range n {
		values := make([]float32, reply.Size)
		for k := range values {
			values[k] = math.Float32frombits(binary.LittleEndian.Uint32(reply.Vectors[4*(i*reply.Size+k):]))
		}
		if vectors[p.from+i], err = options.Vector(values, reply.Normalize); err != nil {
			return "", fmt.Errorf("text %d: %w", p.from+i, err)
		}
	}
	m.counters.prompt.Add(int64(reply.PromptTokens))
	return weights, nil
}
