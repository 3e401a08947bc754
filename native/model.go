package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// Model is a loaded model. It is safe for concurrent use; the owner thread interleaves requests token
// by token.
type Model struct {
	info        engine.Info
	source      *modelfiles.Source
	options     engine.NativeOptions
	fingerprint string // with a prompt cache: tells models apart
	draftBytes  int64  // of the draft model's weights
	wired       uint64 // what the system keeps resident, on Metal

	owner     *owner
	encoder   *encoder
	network   *network
	draft     *network // proposes tokens; nil without
	prompts   *promptCache
	scheduler *scheduler // nil until the weights are loaded
	scorer    *scorer    // nil until the weights are loaded

	closing sync.Once
	failure error // of Close
}

// Load opens the model in a folder or a GGUF file. The context is looked at between reading steps; if it ends, whatever was
// read by then is given back.
func Load(ctx context.Context, path string, options engine.NativeOptions) (*Model, error) {
	if err := options.Validate(); err != nil {
		return nil, err
	}
	if options.Batch == 0 {
		options.Batch = defaultBatch
	}
	from, err := modelfiles.Find(path)
	if err != nil {
		return nil, err
	}
	cfg, err := readConfig(from)
	if err != nil {
		return nil, err
	}
	if err := supported(cfg); err != nil {
		return nil, err
	}
	m := &Model{source: from, options: options, prompts: newPromptCache(options.PromptCache), encoder: newEncoder(cfg.eos)}
	// Text and weights are read side by side; for a large vocabulary and a small model either takes as long as the other.
	text := make(chan error, 1)
	go func() { text <- m.loadText() }()
	textLoaded := sync.OnceValue(func() error { return <-text })
	if m.owner, err = newOwner(options.MemoryBudget); err != nil {
		err = errors.Join(err, textLoaded())
		m.encoder.close()
		return nil, err
	}
	m.network = &network{owner: m.owner}
	var loadErr error
	err = m.owner.lease.Do(ctx, func() { loadErr = m.loadWeights(ctx, path, cfg, textLoaded) })
	if err = cmp.Or(textLoaded(), errors.Join(err, loadErr)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// loadText reads what follows from files other than the weights.
func (m *Model) loadText() (err error) {
	if err := m.encoder.load(m.source); err != nil {
		return err
	}
	if m.options.PromptCache > 0 {
		m.fingerprint, err = fingerprint(m.source, m.options.Adapter)
	}
	return err
}

// loadWeights runs on the owner thread. What it opened before a failure is freed by Close. textLoaded waits for the tokenizer.
func (m *Model) loadWeights(ctx context.Context, path string, cfg *config, textLoaded func() error) error {
	w, err := m.network.load(m.source, cfg, m.options.Adapter, m.options)
	if err != nil {
		return err
	}
	if err := textLoaded(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	version, err := mlxc.Version()
	if err != nil {
		return err
	}
	shape := &m.network.shape
	m.info = engine.Info{
		Path: path, Engine: "native", Architecture: cfg.modelType, Device: m.owner.lease.Device().String(), Kernels: m.network.kernels,
		Layers: len(shape.windows), HiddenSize: shape.hiddenSize, VocabSize: shape.vocabSize,
		ContextLength: cfg.context, DType: w.dtype(),
		MLXVersion: version,
	}
	w.summary(&m.info)
	m.encoder.vocabSize, m.encoder.context = shape.vocabSize, cfg.context
	if m.scorer, err = newScorer(m.network, m.encoder, m.source.Dir); err != nil {
		return err
	}
	if m.options.Draft != "" {
		if err := m.loadDraft(); err != nil {
			return fmt.Errorf("draft model %s: %w", m.options.Draft, err)
		}
	}
	m.scheduler = newScheduler(m.network, m.encoder, m.draft, m.prompts, m.options)
	m.owner.releases = []func() error{
		func() error { return m.prompts.shrink(m.prompts.bytes / 2) }, func() error { return m.prompts.shrink(0) }, m.scorer.prefixes.free,
	}
	if m.wired, err = m.owner.lease.Wire(); err != nil {
		return err
	}
	if err := mlxc.ClearCache(); err != nil {
		return err
	}
	return ctx.Err()
}

// loadDraft reads the draft model.
func (m *Model) loadDraft() error {
	from, err := modelfiles.Find(m.options.Draft)
	if err != nil {
		return err
	}
	cfg, err := readConfig(from)
	if err != nil {
		return err
	}
	if err := supported(cfg); err != nil {
		return err
	}
	if err := m.encoder.sameTokens(m.source, from); err != nil {
		return err
	}
	m.draft = &network{owner: m.owner}
	w, err := m.draft.load(from, cfg, "", m.options)
	if err != nil {
		return err
	}
	m.draftBytes = w.bytes()
	if m.draft.shape.vocabSize != m.network.shape.vocabSize {
		return fmt.Errorf("its vocabulary has %d tokens and the model's %d: they must be the same", m.draft.shape.vocabSize, m.network.shape.vocabSize)
	}
	return nil
}

// Close ends streams under way with ErrClosed and gives every byte back. It waits for the step under
// way, not for the readers of streams. It may be called again, from a stream's loop too.
func (m *Model) Close() error {
	m.closing.Do(func() {
		close(m.owner.closed)
		var errs []error
		err := m.owner.lease.Release(func() {
			for _, step := range []func() error{
				m.scheduler.close, m.scorer.close, func() error { return m.prompts.shrink(0) }, m.draft.close, m.network.close, mlxc.ClearCache,
			} {
				errs = append(errs, protect(step))
			}
		})
		m.encoder.close()
		m.failure = errors.Join(append(errs, err)...)
	})
	return m.failure
}

// Info describes the model.
func (m *Model) Info() engine.Info { return m.info }

// Metrics reads counters and memory figures.
func (m *Model) Metrics(ctx context.Context) (engine.Metrics, error) {
	memory, err := mlxc.ReadMemory()
	if err != nil {
		return engine.Metrics{}, err
	}
	c := &m.owner.counters
	out := engine.Metrics{
		Requests: c.requests.Load(), Active: c.active.Load(),
		PromptTokens: c.prompt.Load(), GeneratedTokens: c.generated.Load(),
		Classified: c.classified.Load(), DraftedTokens: c.drafted.Load(), AcceptedTokens: c.accepted.Load(),
		WeightBytes: m.info.WeightBytes + m.draftBytes, BudgetBytes: m.options.MemoryBudget, WiredLimitBytes: int64(m.wired),
		ActiveBytes: int64(memory.Active), CacheBytes: int64(memory.Cache), PeakBytes: int64(memory.Peak),
		LiveArrays: mlxc.LiveArrays(),
	}
	err = m.owner.do(ctx, func() error {
		out.KVBytes = m.scheduler.bytes() + m.scorer.bytes()
		out.CachedKVBytes = m.scorer.prefixes.bytes()
		out.PromptCacheBytes = m.prompts.bytes
		return nil
	})
	return out, err
}

// Generate streams tokens; see engine.Engine.
func (m *Model) Generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions) iter.Seq2[engine.Token, error] {
	return m.scheduler.Generate(ctx, prompt, options)
}

// Classify scores labels by the mean log-probability of their tokens after the prompt; see engine.Engine.
func (m *Model) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	return m.scorer.Classify(ctx, texts, options)
}

// Embed returns a vector for each text; see engine.Engine.
func (m *Model) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	return m.scorer.Embed(ctx, texts, options)
}

// States returns, for each of the layers, a vector for each text: the mean over its tokens of what the layer puts out, every token's first
// divided by its root mean square, so that no token outweighs the others. What the tokenizer puts in front of every text does not
// count. Texts are cut to as many tokens as a pass holds.
func (m *Model) States(ctx context.Context, texts []string, options engine.StatesOptions) ([][][]float32, error) {
	return m.scorer.States(ctx, texts, options)
}

// Trace runs token ids through the model and returns what its layers compute; see engine.TraceOptions. It keeps no
// state.
func (m *Model) Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error) {
	if err := m.encoder.checkIDs(ids); err != nil {
		return nil, err
	}
	return m.network.trace(ctx, ids, options)
}

// Encode returns token ids.
func (m *Model) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	return m.encoder.Encode(ctx, text, special)
}

// Decode returns text without special tokens.
func (m *Model) Decode(ctx context.Context, ids []int32) (string, error) {
	return m.encoder.Decode(ctx, ids)
}

// RenderChat applies the chat template and opens the assistant's turn.
func (m *Model) RenderChat(_ context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	return m.encoder.RenderChat(messages, options)
}

// EncodeChat returns the ids of the prompt that Generate makes of messages, also of one that is too long for the model: they may
// be wanted to be counted.
func (m *Model) EncodeChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) ([]int32, error) {
	return m.encoder.EncodeChat(ctx, messages, options)
}

// Fingerprint tells models apart: a hash of the config, the adapter and samples of the weights.
func (m *Model) Fingerprint() (string, error) {
	if m.fingerprint != "" { // made while loading, with a prompt cache
		return m.fingerprint, nil
	}
	return fingerprint(m.source, m.options.Adapter)
}

// Version is the version of the MLX library that the engine is linked to.
func Version() (string, error) { return mlxc.Version() }
