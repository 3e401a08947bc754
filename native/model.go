package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/segment"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// Model is a loaded model. It is safe for concurrent use; the owner thread interleaves requests token
// by token.
type Model struct {
	info        engine.Info
	source      *modelfiles.Source
	draftBytes  int64  // of the draft model's weights
	wired       uint64 // what the system keeps resident, on Metal
	eos         map[int32]bool
	plain       *tokenizer.Guard
	bos         string  // the text of the token that the tokenizer puts first; "" for none
	endToken    int32   // the tokenizer's own, or -1
	xtcSpared   []int32 // tokens that XTC never cuts, as in mlx-lm: end tokens and the newline
	tokenizer   *tokenizer.Tokenizer
	template    *tokenizer.Template // nil: the model has none, or templateErr says why it cannot be read
	templateErr error
	marks       segment.Marks
	marksErr    error // why text cannot be split into segments
	options     engine.NativeOptions
	kernels     string // what computes, for Info
	fingerprint string // with a prompt cache: tells models apart
	counters    counters
	labelSets   recent[*labelSet]

	grammarOnce sync.Once
	vocabulary  *tokenizer.Vocabulary // for grammars; made when one is first used
	grammarErr  error

	// What follows belongs to the owner thread.
	network
	draft    *network // proposes tokens; nil without
	embedder *embedder
	streams  []*stream // under way, in the order they came
	batches  []*decodeBatch
	batching bool     // streams share KV buffers: on a GPU
	endings  []ending // streams that ended in the pass under way
	rounded  int
	prefixes prefixCache
	prompts  *promptCache
	scored   []*decodeState // of long texts, between two jobs

	pumping atomic.Bool  // the scheduler runs
	kicks   atomic.Int64 // grows when a stream may have something to do

	closing sync.Once
	closed  chan struct{} // closed first of all by Close: waiting requests stop
	failure error         // of Close
}

type counters struct {
	requests, active, prompt, generated, classified, drafted, accepted atomic.Int64
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
	if err := cfg.supported(); err != nil {
		return nil, err
	}
	m := &Model{source: from, options: options, prompts: newPromptCache(options.PromptCache), closed: make(chan struct{}), eos: map[int32]bool{}}
	for _, id := range cfg.eos {
		m.eos[id] = true
	}
	// Text and weights are read side by side; for a large vocabulary and a small model either takes as long as the other.
	text := make(chan error, 1)
	go func() { text <- m.loadText(from) }()
	textLoaded := sync.OnceValue(func() error { return <-text })
	if m.network.lease, err = mlxc.Acquire(); err != nil {
		err = errors.Join(err, textLoaded())
		m.closeText()
		return nil, err
	}
	var loadErr error
	err = m.lease.Do(ctx, func() { loadErr = m.loadWeights(ctx, path, cfg, textLoaded) })
	if err = cmp.Or(textLoaded(), errors.Join(err, loadErr)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// loadText reads the tokenizer and the chat template, and what follows from them. What it opened before a failure is closed by closeText.
func (m *Model) loadText(from *modelfiles.Source) (err error) {
	if m.tokenizer, err = tokenizer.Load(from); err != nil {
		return err
	}
	if m.template, err = tokenizer.LoadTemplate(from); err != nil && !errors.Is(err, tokenizer.ErrNoTemplate) {
		m.templateErr = err // which costs chats and nothing else
	}
	if err := m.addTokenizerEOS(); err != nil {
		return err
	}
	m.marks, m.marksErr = segment.Infer(m.template.Source(), func(token string) bool {
		_, ok := m.tokenizer.TokenID(token)
		return ok
	})
	if m.plain, err = tokenizer.NewGuard(m.tokenizer, m.template.Source()); err != nil {
		return err
	}
	if m.xtcSpared, err = m.tokenizer.Encode("\n", false); err != nil {
		return err
	}
	m.xtcSpared = slices.AppendSeq(m.xtcSpared, maps.Keys(m.eos))
	if m.options.PromptCache > 0 {
		m.fingerprint, err = fingerprint(from, m.options.Adapter)
	}
	return err
}

// addTokenizerEOS adds the tokenizer's own end token to the config's, as mlx-lm does.
func (m *Model) addTokenizerEOS() error {
	special, err := m.source.SpecialTokens()
	if err != nil {
		return err
	}
	m.bos = special["bos_token"]
	if m.endToken = -1; special["eos_token"] != "" {
		if id, ok := m.tokenizer.TokenID(special["eos_token"]); ok {
			m.eos[id], m.endToken = true, id
		}
	}
	return nil
}

// opensReasoning reports whether a prompt ends inside a thought.
func (m *Model) opensReasoning(prompt []int32) bool {
	start, ok := m.tokenizer.TokenID(m.marks.ThinkStart)
	if m.marks.ThinkStart == "" || !ok {
		return false
	}
	end, _ := m.tokenizer.TokenID(m.marks.ThinkEnd)
	for _, id := range slices.Backward(prompt) {
		if id == start || id == end {
			return id == start
		}
	}
	return false
}

// loadWeights runs on the owner thread. What it opened before a failure is freed by Close. textLoaded waits for the tokenizer.
func (m *Model) loadWeights(ctx context.Context, path string, cfg *config, textLoaded func() error) error {
	w, err := m.network.load(m, m.source, cfg, m.options.Adapter)
	if err != nil {
		return err
	}
	if err := textLoaded(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.batching = m.lease.Device().Name == "gpu"
	switch {
	case m.shape.fused != nil:
		m.kernels = "cuda"
	case !m.shape.kernels:
		m.kernels = "mlx"
	}
	version, err := mlxc.Version()
	if err != nil {
		return err
	}
	m.info = engine.Info{
		Path: path, Engine: "native", Architecture: cfg.modelType, Device: m.lease.Device().String(), Kernels: m.kernels,
		Layers: len(m.shape.windows), HiddenSize: m.shape.hiddenSize, VocabSize: m.shape.vocabSize,
		ContextLength: cfg.context, DType: w.dtype(),
		MLXVersion: version,
	}
	w.summary(&m.info)
	if m.embedder, err = readEmbedder(m.source.Dir, m.weights, m.shape.hiddenSize); err != nil {
		return err
	}
	if m.options.Draft != "" {
		if err := m.loadDraft(); err != nil {
			return fmt.Errorf("draft model %s: %w", m.options.Draft, err)
		}
	}
	if m.wired, err = m.lease.Wire(); err != nil {
		return err
	}
	if err := mlxc.ClearCache(); err != nil {
		return err
	}
	return ctx.Err()
}

// Close ends streams under way with ErrClosed and gives every byte back. It waits for the step under
// way, not for the readers of streams. It may be called again, from a stream's loop too.
func (m *Model) Close() error {
	m.closing.Do(func() {
		close(m.closed)
		var errs []error
		err := m.lease.Release(func() {
			for _, st := range slices.Clone(m.streams) { // freeing one takes it out
				errs = append(errs, st.free(false))
			}
			for _, st := range m.scored {
				errs = append(errs, protect(st.free))
			}
			for _, step := range []func() error{
				m.prefixes.free, func() error { return m.prompts.shrink(0) }, m.draft.close, m.network.close, mlxc.ClearCache,
			} {
				errs = append(errs, protect(step))
			}
		})
		m.closeText()
		m.failure = errors.Join(append(errs, err)...)
	})
	return m.failure
}

func (m *Model) closeText() {
	m.vocabulary.Close()
	m.tokenizer.Close()
	if m.template != nil {
		m.template.Close()
	}
}

// do runs fn on the owner thread, in turn with other requests.
func (m *Model) do(ctx context.Context, fn func() error) error {
	var err error
	if doErr := m.lease.Do(ctx, func() { err = fn() }); doErr != nil {
		return m.explain(doErr)
	}
	return err
}

// explain gives errors of a model that is being closed their public name.
func (m *Model) explain(err error) error {
	if errors.Is(err, mlxc.ErrReleased) || errors.Is(err, tokenizer.ErrClosed) {
		return engine.ErrClosed
	}
	return err
}

func (m *Model) isClosed() bool {
	select {
	case <-m.closed:
		return true
	default:
		return false
	}
}

// Info describes the model.
func (m *Model) Info() engine.Info { return m.info }

// Metrics reads counters and memory figures.
func (m *Model) Metrics(ctx context.Context) (engine.Metrics, error) {
	memory, err := mlxc.ReadMemory()
	if err != nil {
		return engine.Metrics{}, err
	}
	out := engine.Metrics{
		Requests: m.counters.requests.Load(), Active: m.counters.active.Load(),
		PromptTokens: m.counters.prompt.Load(), GeneratedTokens: m.counters.generated.Load(),
		Classified: m.counters.classified.Load(), DraftedTokens: m.counters.drafted.Load(), AcceptedTokens: m.counters.accepted.Load(),
		WeightBytes: m.info.WeightBytes + m.draftBytes, BudgetBytes: m.options.MemoryBudget, WiredLimitBytes: int64(m.wired),
		ActiveBytes: int64(memory.Active), CacheBytes: int64(memory.Cache), PeakBytes: int64(memory.Peak),
		LiveArrays: mlxc.LiveArrays(),
	}
	err = m.do(ctx, func() error {
		for _, st := range m.streams {
			out.KVBytes += st.state.bytes() + st.draft.bytes()
		}
		for _, st := range m.scored {
			out.KVBytes += st.bytes()
		}
		for _, b := range m.batches {
			out.KVBytes += b.bytes()
		}
		out.CachedKVBytes = m.prefixes.bytes()
		out.PromptCacheBytes = m.prompts.bytes
		return nil
	})
	return out, err
}

// Encode returns token ids.
func (m *Model) Encode(_ context.Context, text string, special bool) ([]int32, error) {
	ids, err := m.tokenizer.Encode(text, special)
	if errors.Is(err, tokenizer.ErrInvalidUTF8) {
		return nil, engine.ErrInvalidUTF8
	}
	return ids, m.explain(err)
}

// Decode returns text without special tokens.
func (m *Model) Decode(_ context.Context, ids []int32) (string, error) {
	text, err := m.tokenizer.Decode(ids, true)
	return text, m.explain(err)
}

// checkCausal refuses what a model that attends in both directions cannot do.
func (m *Model) checkCausal(what string) error {
	if m.shape.bidirectional {
		return fmt.Errorf("%s: the model attends in both directions and is for embeddings: %w", what, engine.ErrUnsupported)
	}
	return nil
}

func (m *Model) checkIDs(ids []int32) error {
	if len(ids) == 0 {
		return engine.ErrEmptyPrompt
	}
	if limit := m.info.ContextLength; limit > 0 && len(ids) >= limit {
		return &engine.ContextLengthError{Tokens: len(ids), Limit: limit}
	}
	if err := m.checkVocabulary(ids); err != nil {
		return fmt.Errorf("prompt: %w", err)
	}
	return nil
}

// checkVocabulary refuses ids that the embedding has no row for: MLX reads past its end. All ids that go to the model must
// have been through here.
func (m *Model) checkVocabulary(ids []int32) error {
	for _, id := range ids {
		if id < 0 || int(id) >= m.shape.vocabSize {
			return &engine.TokenError{ID: id, VocabSize: m.shape.vocabSize}
		}
	}
	return nil
}

// Version is the version of the MLX library that the engine is linked to.
func Version() (string, error) { return mlxc.Version() }
