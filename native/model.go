package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/decode"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
	"forge.lthn.ai/core/go-mlx/native/internal/score"
)

// Model is a loaded model. It is safe for concurrent use; the owner thread interleaves requests token
// by token.
type Model struct {
	info        engine.Info
	source      *modelfiles.Source
	options     engine.NativeOptions
	training    bool
	fingerprint string // with a prompt cache: tells models apart
	draftBytes  int64  // of the draft model's weights
	wired       uint64 // what the system keeps resident, on Metal

	owner     *owner.Owner
	encoder   *prompt.Encoder
	network   *decoder.Network
	draft     *decoder.Network // proposes tokens; nil without
	store     *kv.Store
	scheduler *decode.Scheduler // nil until the weights are loaded
	scorer    *score.Scorer     // nil until the weights are loaded

	closing sync.Once
	failure error // of Close
}

// Load opens the model in a folder or a GGUF file. The context is looked at between reading steps; if it ends, whatever was
// read by then is given back.
func Load(ctx context.Context, path string, options engine.NativeOptions) (*Model, error) {
	return loadFor(ctx, path, options, false)
}

// loadFor is Load, with training for passes that are differentiated.
func loadFor(ctx context.Context, path string, options engine.NativeOptions, training bool) (*Model, error) {
	if err := options.Validate(); err != nil {
		return nil, err
	}
	if options.Batch == 0 {
		options.Batch = decode.DefaultBatch
	}
	from, err := modelfiles.Find(path)
	if err != nil {
		return nil, err
	}
	cfg, err := checkpoint.ReadConfig(from)
	if err != nil {
		return nil, err
	}
	if err := decoder.Supported(cfg); err != nil {
		return nil, err
	}
	m := &Model{source: from, options: options, training: training, store: kv.NewStore(cmp.Or(options.PromptCache, kv.DefaultBudget)), encoder: prompt.NewEncoder(cfg.EOS)}
	// Text and weights are read side by side; for a large vocabulary and a small model either takes as long as the other.
	text := make(chan error, 1)
	go func() { text <- m.loadText() }()
	textLoaded := sync.OnceValue(func() error { return <-text })
	if m.owner, err = owner.NewOwner(options.MemoryBudget); err != nil {
		err = errors.Join(err, textLoaded())
		m.encoder.Close()
		return nil, err
	}
	m.owner.MakeRoom = options.MakeRoom
	m.network = m.newNetwork()
	load := func() (lost bool, err error) {
		if doErr := m.owner.Lease.Do(ctx, func() { err = m.loadWeights(ctx, path, cfg, textLoaded) }); doErr != nil {
			err = errors.Join(doErr, err)
		}
		return false, err
	}
	if options.MakeRoom != nil { // in a Host: a request of another model may hold memory that the load needs
		err = m.owner.InTurn(ctx, nil, func(func()) (bool, error) {
			if err := m.unload(); err != nil { // what an earlier try has read
				return false, err
			}
			return load()
		})
	} else {
		_, err = load()
	}
	if err = cmp.Or(textLoaded(), err); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Model) newNetwork() *decoder.Network {
	return &decoder.Network{Owner: m.owner, Training: m.training}
}

// unload gives back what loadWeights has read, so that it can be called again.
func (m *Model) unload() error {
	var errs []error
	err := m.owner.Lease.Do(context.Background(), func() {
		for _, step := range []func() error{m.scorer.Close, m.draft.Close, m.network.Close, mlxc.ClearCache} {
			errs = append(errs, owner.Protect(step))
		}
	})
	m.scorer, m.draft, m.network = nil, nil, m.newNetwork()
	return errors.Join(append(errs, err)...)
}

// loadText reads what follows from files other than the weights.
func (m *Model) loadText() (err error) {
	if err := m.encoder.Load(m.source); err != nil {
		return err
	}
	if m.options.PromptCache > 0 {
		m.fingerprint, err = checkpoint.Fingerprint(m.source, m.options.Adapter)
	}
	if m.source.GGUF != "" {
		m.source.Forget()
		debug.FreeOSMemory() // so that the vocabulary is not in memory twice, beside the weights
	}
	return err
}

// loadWeights runs on the owner thread. What it opened before a failure is freed by Close. textLoaded waits for the tokenizer.
func (m *Model) loadWeights(ctx context.Context, path string, cfg *checkpoint.Config, textLoaded func() error) error {
	m.network.BeforeLastWeights = func() { _ = textLoaded() } // its error is looked at below
	w, err := m.network.Load(m.source, cfg, m.options.Adapter, m.options)
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
	shape := &m.network.Shape
	m.info = engine.Info{
		Path: path, Engine: "native", Architecture: cfg.ModelType, Device: m.owner.Lease.Device().String(), Kernels: m.network.Kernels,
		Layers: len(shape.Windows), HiddenSize: shape.HiddenSize, VocabSize: shape.VocabSize,
		ContextLength: cfg.Context, DType: w.DType(),
		MLXVersion: version,
	}
	w.Summary(&m.info)
	m.encoder.VocabSize, m.encoder.Context = shape.VocabSize, cfg.Context
	if m.scorer, err = score.NewScorer(m.network, m.encoder, m.store, m.source.Dir); err != nil {
		return err
	}
	if m.options.Draft != "" {
		if err := m.loadDraft(); err != nil {
			return &engine.OptionError{Option: "DraftModel", Reason: m.options.Draft + ": " + err.Error(), Err: err}
		}
	}
	m.scheduler = decode.NewScheduler(m.network, m.encoder, m.draft, m.store, m.options)
	m.owner.Releases = []func() error{
		func() error { return m.store.Shrink(m.store.Total() / 2) }, func() error { return m.store.Shrink(0) },
	}
	if m.wired, err = m.owner.Lease.Wire(); err != nil {
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
	cfg, err := checkpoint.ReadConfig(from)
	if err != nil {
		return err
	}
	if err := decoder.Supported(cfg); err != nil {
		return err
	}
	defer m.source.Forget()
	if err := m.encoder.SameTokens(m.source, from); err != nil {
		return err
	}
	m.draft = &decoder.Network{Owner: m.owner}
	w, err := m.draft.Load(from, cfg, "", m.options)
	if err != nil {
		return err
	}
	m.draftBytes = w.Bytes()
	if m.draft.Shape.VocabSize != m.network.Shape.VocabSize {
		return fmt.Errorf("its vocabulary has %d tokens and the model's %d: they must be the same", m.draft.Shape.VocabSize, m.network.Shape.VocabSize)
	}
	return nil
}

// Close ends streams under way with ErrClosed and gives every byte back. It waits for the step under
// way, not for the readers of streams. It may be called again, from a stream's loop too.
func (m *Model) Close() error {
	m.closing.Do(func() {
		close(m.owner.Closed)
		var errs []error
		err := m.owner.Lease.Release(func() {
			for _, step := range []func() error{
				m.scheduler.Close, m.scorer.Close, func() error { return m.store.Shrink(0) }, m.draft.Close, m.network.Close, mlxc.ClearCache,
			} {
				errs = append(errs, owner.Protect(step))
			}
		})
		m.encoder.Close()
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
	c := &m.owner.Counters
	out := engine.Metrics{
		Requests: c.Requests.Load(), Active: c.Active.Load(),
		PromptTokens: c.Prompt.Load(), GeneratedTokens: c.Generated.Load(),
		Classified: c.Classified.Load(), DraftedTokens: c.Drafted.Load(), AcceptedTokens: c.Accepted.Load(),
		WeightBytes: m.info.WeightBytes + m.draftBytes, BudgetBytes: m.options.MemoryBudget, WiredLimitBytes: int64(m.wired),
		ActiveBytes: int64(memory.Active), CacheBytes: int64(memory.Cache), PeakBytes: int64(memory.Peak),
		LiveArrays: mlxc.LiveArrays(),
	}
	err = m.owner.Do(ctx, func() error {
		out.KVBytes = m.scheduler.Bytes() + m.scorer.Bytes()
		out.CachedKVBytes = m.store.Bytes(kv.ForPrefixes)
		out.PromptCacheBytes = m.store.Bytes(kv.ForPrompts)
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

// States returns, for each of the layers, a vector for each text; see score.Scorer.
func (m *Model) States(ctx context.Context, texts []string, options engine.StatesOptions) ([][][]float32, error) {
	return m.scorer.States(ctx, texts, options)
}

// Trace runs token ids through the model and returns what its layers compute; see engine.TraceOptions. It keeps no
// state.
func (m *Model) Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error) {
	if err := m.encoder.CheckIDs(ids); err != nil {
		return nil, err
	}
	return m.network.Trace(ctx, ids, options)
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
func (m *Model) RenderChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	return m.encoder.RenderChat(ctx, messages, options)
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
	defer m.source.Forget() // the vocabulary, which is read again for it
	return checkpoint.Fingerprint(m.source, m.options.Adapter)
}

// Version is the version of the MLX library that the engine is linked to.
func Version() (string, error) { return mlxc.Version() }

// PromptLogProbs gives the tokens of a prompt their log-probabilities; see engine.Engine.
func (m *Model) PromptLogProbs(ctx context.Context, ids []int32, top int) ([]engine.Token, error) {
	return m.scorer.PromptLogProbs(ctx, ids, top)
}
